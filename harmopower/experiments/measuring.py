"""From the metrics of a row to the columns of a table."""

from collections.abc import Iterable, Mapping
import fnmatch


def fitting(metrics: Mapping[str, float], patterns: Iterable[str]) -> dict[str, float]:
    """The metrics whose names fit one of the patterns (those of a shell)."""
    patterns = tuple(patterns)
    return {name: value for name, value in metrics.items() if any(fnmatch.fnmatchcase(name, each) for each in patterns)}
