"""Numbers of a data set, gathered example by example in little memory."""

from collections import Counter
from collections.abc import Iterator
import dataclasses

import numpy as np

from harmopower.data import inspecting, records
from harmopower.data.inspecting import nesting
from harmopower.data.readers import protocol
from harmopower.data.tokenize import Tokenizer

MOST_FREQUENT = 20
_LEVELS = {"least": 0.0, "median": 0.5, "95 %": 0.95, "most": 1.0}


class Histogram(Counter):
    """Whole numbers and how often each was seen."""

    def summary(self) -> dict[str, float]:
        """Count, mean and the levels of `_LEVELS`; a level is the least value that so large a share does not exceed."""
        if not self:
            return {"count": 0}
        values = np.array(sorted(self))
        seen = np.cumsum([self[value] for value in values])
        total = int(seen[-1])
        places = {name: np.searchsorted(seen, max(1, np.ceil(level * total))) for name, level in _LEVELS.items()}
        mean = sum(value * count for value, count in self.items()) / total
        return {"count": total, "mean": round(mean, 3), **{name: int(values[i]) for name, i in places.items()}}


@dataclasses.dataclass
class Statistics:
    """Counts of the examples that `add` has seen.

    Attributes:
      tokenizer, context_length: what captions are measured with: `config.data.tokenizer` and `context_length`.
      image_size: the sides of regions are given in pixels of a square image of this side.
    """

    tokenizer: Tokenizer
    context_length: int
    image_size: int
    examples: int = 0
    captions: int = 0
    cut: int = 0
    histograms: dict[str, Histogram] = dataclasses.field(default_factory=dict)
    region_texts: Counter = dataclasses.field(default_factory=Counter)
    labels: Counter = dataclasses.field(default_factory=Counter)
    phrase_labels: Counter = dataclasses.field(default_factory=Counter)
    bad: Counter = dataclasses.field(default_factory=Counter)

    def add(self, example: records.Example) -> set[str]:
        """Counts an example; returns the kinds it is of: `cut`, `no span`, `bad`."""
        self.examples += 1
        cut = [self._count_tokens(caption) for caption in example["captions"]]
        self._count("captions an example", len(cut))
        self._count_phrases(example)
        spanned = [self._count_region(region) for region in inspecting.regions(example)]
        self._count("regions an example", len(spanned))
        problems = self._problems(example)
        self.bad.update(problems)
        found = {"cut": any(cut), "no span": not all(spanned), "bad": bool(problems)}
        return {kind for kind, is_so in found.items() if is_so}

    def _count(self, name: str, value: int) -> None:
        self.histograms.setdefault(name, Histogram())[value] += 1

    def _count_tokens(self, caption: str) -> bool:
        tokens = self.tokenizer.count(caption)
        self._count("tokens a caption, with start and end", tokens)
        cut = tokens > self.context_length
        self.captions += 1
        self.cut += cut
        return cut

    def _count_phrases(self, example: records.Example) -> None:
        spans: list[list[nesting.Span]] = [[] for _ in example["captions"]]
        for phrase in example["phrases"]:
            self.phrase_labels[phrase["label"]] += 1
            if 0 <= phrase["caption"] < len(spans):
                spans[phrase["caption"]].append((phrase["start"], phrase["end"]))
        self._count("phrases an example", len(example["phrases"]))
        for tree in spans:
            self._count("depth of a caption's tree", nesting.depth(tree))

    def _count_region(self, region: dict) -> bool:
        """Returns whether it has a span."""
        spanned = region["caption"] >= 0
        kinds = {"a span": spanned, "a text of its own": region["text"].strip(), "a label": region["label"].strip()}
        self.region_texts[next((kind for kind, there in kinds.items() if there), "none")] += 1
        if region["label"].strip():
            self.labels[region["label"].strip()] += 1
        y0, x0, y1, x1 = np.nan_to_num(np.asarray(region["box"], np.float64))
        area = max(0.0, y1 - y0) * max(0.0, x1 - x0)
        self._count("side of a region, pixels (root of its area)", round(self.image_size * min(area, 1e6) ** 0.5))
        return spanned

    def _problems(self, example: records.Example) -> set[str]:
        problems = {problem.code for problem in records.examine(example)}
        try:
            self._count("shorter side of an image, pixels", min(protocol.image_size(example["image"])))
        except protocol.BadSample as broken:
            problems.add(broken.reason)
        return problems

    def summary(self) -> dict:
        """All of it, JSON-able."""
        return {
            "examples": self.examples,
            "captions": self.captions,
            "context_length": self.context_length,
            "image_size": self.image_size,
            "captions_cut": self.cut,
            "numbers": {name: histogram.summary() for name, histogram in self.histograms.items()},
            "regions_with": dict(self.region_texts.most_common()),
            "region_labels": dict(self.labels.most_common(MOST_FREQUENT)),
            "phrase_labels": dict(self.phrase_labels.most_common(MOST_FREQUENT)),
            "bad_records": dict(self.bad.most_common()),
        }


def rows(summary: dict) -> Iterator[tuple[str, ...]]:
    """The numbers of `summary` as the rows of a table: name, mean, least, median, 95 %, most."""
    for name, numbers in summary["numbers"].items():
        yield name, *(f"{numbers[key]:g}" for key in ("mean", *_LEVELS))


def counts(summary: dict) -> Iterator[tuple[str, str]]:
    """The counts of `summary` as the rows of a table: name and number."""
    captions, cut = summary["captions"], summary["captions_cut"]
    yield "examples looked at", f"{summary['examples']:,}"
    yield "captions", f"{captions:,}"
    yield f"captions cut at {summary['context_length']} tokens", f"{cut:,} ({cut / max(captions, 1):.1%})"
    regions = sum(summary["regions_with"].values())
    for kind, count in summary["regions_with"].items():
        yield f"regions named by {kind}", f"{count:,} ({count / regions:.1%})"
    bad = summary["bad_records"]
    yield "bad records, by reason", ", ".join(f"{code} {count:,}" for code, count in bad.items()) or "none"
    for name in ("phrase_labels", "region_labels"):
        found = ", ".join(f"{label or '(none)'} {count:,}" for label, count in summary[name].items())
        yield f"most frequent {name.replace('_', ' ')}", found or "none"
