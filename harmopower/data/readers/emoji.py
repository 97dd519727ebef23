"""Scenes of emoji: one vendor's drawings for training, another's for testing, with captions, exact trees and boxes.

The drawings are published as npm packages and fetched by you, with npm:

    npm install emoji-datasource-google emoji-datasource-twitter

They stay their vendors' (Noto Emoji and Twemoji have their own licences); the data set that is made of them holds
pictures of them. What the scenes show is told in `harmopower/data/scenes/emoji.py`.
"""

import argparse
from collections.abc import Iterator
import functools
import itertools
import os

from harmopower.data.readers import protocol
from harmopower.data.scenes import emoji, vendors

_UNIT = 1_000  # scenes: some seconds of drawing
_SCENE_BYTES = 4_000  # of one record, about
_LEAST_CLASSES = 20  # enough for scenes of six things without a pair that is held out


class Reader(protocol.Reader):
    """Scenes of emoji drawings, trained on one vendor's and tested on another's."""

    example = (
        "python -m tools.prepare emoji --input train=node_modules/emoji-datasource-google "
        "test=node_modules/emoji-datasource-twitter --output data/emoji"
    )
    data_set = "emoji"
    vocab_size = 4096
    workers = os.cpu_count() or 1
    shard_bytes = 5 * _UNIT * _SCENE_BYTES

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        least = {"train": 1, "test": 0, "test_unseen": 0, "image_size": 32, "seed": 0}
        for name, limit in least.items():
            if getattr(options, name) < limit:
                flag = name.replace("_", "-")
                raise protocol.ReaderError(f"--{flag} is {getattr(options, name)}; it must be at least {limit}")
        if sorted(split for split, _ in self.inputs) != ["test", "train"]:
            found = ", ".join(f"{split}={path.name}" for split, path in self.inputs)
            raise protocol.ReaderError(
                f"--input is {found}; give two packages, train=FOLDER and test=FOLDER, such as "
                "train=node_modules/emoji-datasource-google test=node_modules/emoji-datasource-twitter"
            )
        if len(self._makes.classes) < _LEAST_CLASSES:
            raise protocol.ReaderError(
                f"--input: both vendors have drawn {len(self._makes.classes)} things; there must be {_LEAST_CLASSES}"
            )
        pairs = itertools.combinations(self._makes.classes, 2)
        if options.test_unseen and not any(emoji.is_held_out(*pair) for pair in pairs):
            raise protocol.ReaderError("--test-unseen: no pair of these things is held out; set it to 0")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the packages and the sizes."""
        protocol.add_input(parser, "the packages of two vendors, train=FOLDER test=FOLDER")
        parser.add_argument("--train", type=int, default=20_000, help="training scenes (default %(default)s)")
        parser.add_argument("--test", type=int, default=1024, help="test scenes (default %(default)s)")
        parser.add_argument(
            "--test-unseen", type=int, default=512, help="of pairs that training never shows (default %(default)s)"
        )
        parser.add_argument("--seed", type=int, default=0, help="same seed, same scenes (default %(default)s)")
        parser.add_argument("--image-size", type=int, default=64, help="side in pixels (default %(default)s)")

    @functools.cached_property
    def _makes(self) -> emoji.Makes:
        found = {split: vendors.Vendor.at(path) for split, path in self.inputs}
        of_splits = {"train": found["train"], "test": found["test"], "test_unseen": found["test"]}
        return emoji.Makes(of_splits, vendors.common(list(found.values())), self.options.image_size, self.options.seed)

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of scenes."""
        folders = dict(self.inputs)
        makes = self._makes
        drawn = {split: [own.files[name] for name in makes.classes] for split, own in makes.vendors.items()}
        marks = {split: protocol.fingerprint(paths)[1] for split, paths in drawn.items()}
        for split in emoji.SPLITS:
            folder = folders["train" if split == "train" else "test"]
            count = getattr(self.options, split)
            for start in range(0, count, _UNIT):
                stop = min(start + _UNIT, count)
                yield protocol.Unit(str(folder), (stop - start) * _SCENE_BYTES, split, (start, stop), marks[split])

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Found]:
        """Draws the scenes of a unit."""
        for index in range(*unit.place):
            yield protocol.Found(emoji.make_example(self._makes, unit.split, index), unit.split)

    def metadata(self, labels: list[str]) -> dict:
        """The classes, and whose drawings the splits show."""
        return emoji.metadata(self._makes)
