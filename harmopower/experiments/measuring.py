"""From the metrics of rows to numbers of a table: means, spread over seeds, paired differences with intervals."""

from collections.abc import Iterable, Mapping, Sequence
import fnmatch
from typing import NamedTuple

import numpy as np
from scipy import special

CONFIDENCE = 0.95


class Summary(NamedTuple):
    """`spread` is the standard deviation between seeds (n - 1 below the line); None of one seed."""

    count: int
    mean: float
    spread: float | None


class Difference(NamedTuple):
    """To a baseline, seed by seed; `low` and `high` are None of one seed."""

    count: int
    mean: float
    low: float | None
    high: float | None

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def fitting(metrics: Mapping[str, float], patterns: Iterable[str]) -> dict[str, float]:
    """The metrics whose names fit one of the patterns (those of a shell)."""
    patterns = tuple(patterns)
    return {name: value for name, value in metrics.items() if any(fnmatch.fnmatchcase(name, each) for each in patterns)}


def value(metrics: Mapping[str, float], patterns: Iterable[str]) -> float | None:
    """The mean of the metrics that fit; None where none does."""
    found = list(fitting(metrics, patterns).values())
    return float(np.mean(found)) if found else None


def summary(values: Sequence[float]) -> Summary:
    """Of one value a seed, at least one."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(len(values), float(np.mean(values)), spread)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Student's interval of the mean difference over the seeds that both have; None where there is none.

    Seeds are paired because both runs of one start from the same weights and see the data in the same order. The
    interval is `mean +- t s / sqrt(n)`, t the quantile of n - 1 degrees of freedom: of three seeds 4.30, of five 2.78.
    It takes the differences of seeds for normally distributed, which so few cannot show.
    """
    own = np.array([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])
    if not len(own):
        return None
    if len(own) == 1:
        return Difference(1, float(own[0]), None, None)
    t = float(special.stdtrit(len(own) - 1, (1 + CONFIDENCE) / 2))
    half = t * float(np.std(own, ddof=1)) / np.sqrt(len(own))
    return Difference(len(own), float(own.mean()), float(own.mean() - half), float(own.mean() + half))
