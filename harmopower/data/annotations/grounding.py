"""The noun phrases of captions, located in their images by an open-vocabulary detector: regions with their spans.

This is what makes LRC and GR possible on data that have captions only: parse them first (`parses`), then

    python -m tools.annotate grounding --model grounding-dino --annotations spacy --data data/photos --name grounding

Asked for are the noun phrases that contain no other one (`--phrases base`, our choice: a detector finds `a dog` better
than `a dog on a red sofa`), or all of them. Equal phrases of a caption are asked for once, at their first place.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping

from harmopower.data.annotations import detectors, models, protocol


class Annotator(protocol.Annotator):
    """Noun phrases located in the images by a detector: regions with their spans."""

    example = "python -m tools.annotate grounding --model owlv2 --annotations spacy --data data/photos --name grounding"
    makes = ("regions",)
    records_per_task = 1_000

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of this kind."""
        parser.add_argument(
            "--model",
            required=True,
            help="grounding-dino, owlv2, a folder or a name on the hub of one of the two kinds",
        )
        parser.add_argument("--threshold", type=float, default=0.3, help="least score of a box (default %(default)s)")
        parser.add_argument("--boxes", type=int, default=1, help="of a phrase at most, the best (default %(default)s)")
        parser.add_argument(
            "--phrases",
            choices=("base", "all"),
            default="base",
            help="without another one within, or all (default %(default)s)",
        )
        parser.add_argument("--label", default="NP", help="of the phrases that are asked for (default %(default)s)")
        models.add_options(parser)

    def check(self) -> None:
        """Are the libraries there, and the model."""
        models.check_at_least_one(self.options, "boxes", "batch_size")
        models.chosen_device(self.options.device)
        detectors.kind_of(self.options.model)

    def inputs(self) -> list[str]:
        """The files of a model that lies in a folder."""
        return models.files_of(self.options.model)

    def annotate(self, part: protocol.Part, examples: Iterable[dict]) -> Iterator[Mapping[str, list[dict]]]:
        """Yields the regions of each example, phrase by phrase, the best box of each first."""
        del part
        for batch in models.in_batches(self, examples, self.options.batch_size):
            asked = [self._phrases(example) if picture is not None else [] for example, picture in batch]
            found = self._locate(batch, asked)
            for phrases, of in zip(asked, found):
                self.counts["phrases"] += len(phrases)
                self.counts["located"] += len({one.text for one in of})
                self.counts["images"] += 1
                yield {"regions": [_region(phrases[one.text], one) for one in of]}

    def _phrases(self, example: dict) -> list[tuple[dict, str]]:
        chosen = choose(example["phrases"], self.options.label, self.options.phrases == "all")
        texts = [example["captions"][phrase["caption"]][phrase["start"] : phrase["end"]] for phrase in chosen]
        unique = {}
        for phrase, text in zip(chosen, texts):
            unique.setdefault((phrase["caption"], " ".join(text.lower().split())), (phrase, text))
        return list(unique.values())

    def _locate(self, batch: list, asked: list) -> list[list[detectors.Found]]:
        wanted = [index for index, phrases in enumerate(asked) if phrases]
        found: list[list[detectors.Found]] = [[] for _ in batch]
        if wanted:
            detector = detectors.detector(self.options.model, models.chosen_device(self.options.device))
            pictures = [batch[index][1] for index in wanted]
            texts = [[text for _, text in asked[index]] for index in wanted]
            located = detector.locate(pictures, texts, self.options.threshold, self.options.boxes)
            for index, of in zip(wanted, located):
                found[index] = of
        return found

    @classmethod
    def summary(cls, counts: Mapping[str, int]) -> list[str]:
        """How many phrases were found in their images."""
        phrases, located = counts.get("phrases", 0), counts.get("located", 0)
        share = f" ({located / phrases:.1%})" if phrases else ""
        lines = [f"{phrases} phrases asked for, {located} of them located{share}"]
        if not phrases:
            lines.append(
                "no phrase has that label; parse first (tools.annotate parses) and name that overlay by --annotations"
            )
        return lines


def choose(phrases: list[dict], label: str, every: bool) -> list[dict]:
    """The phrases of a label, by caption and place; unless `every`, those that contain no other one."""
    named = {(one["caption"], one["start"], one["end"]): one for one in phrases if one["label"] == label}
    ordered = [named[key] for key in sorted(named)]
    return [one for one in ordered if every or not any(_contains(one, other) for other in ordered)]


def _contains(one: dict, other: dict) -> bool:
    same = one is other or one["caption"] != other["caption"]
    return not same and one["start"] <= other["start"] and other["end"] <= one["end"]


def _region(asked: tuple[dict, str], found: detectors.Found) -> dict:
    place = {name: asked[0][name] for name in ("caption", "start", "end")}
    return {"box": found.box, **place, "text": "", "label": "", "score": found.score}
