"""The embedded data set: rendered scenes with captions, boxes, parse trees and hard negatives; nothing is downloaded.

What they show is told in `harmopower/data/scenes`. The records are the same whatever the number of processes.
"""

import argparse
from collections.abc import Iterator
import os

from harmopower.data.readers import protocol
from harmopower.data.scenes import builder

_UNIT = 2_500  # scenes: some seconds of drawing, so that processes share the work evenly
_SCENE_BYTES = 3_000  # of one record, about


class Reader(protocol.Reader):
    """Rendered scenes with captions, boxes and parse trees."""

    example = "python -m tools.prepare scenes --output data/scenes --train 20000"
    data_set = "scenes"
    vocab_size = 1024
    workers = os.cpu_count() or 1
    shard_bytes = _UNIT * _SCENE_BYTES

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        for name, least in {"train": 1, "test": 0, "test_unseen": 0, "image_size": 16, "seed": 0}.items():
            value = getattr(options, name)
            if value < least:
                flag = name.replace("_", "-")
                raise protocol.ReaderError(f"--{flag} is {value}; it must be at least {least}")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the sizes."""
        parser.add_argument("--train", type=int, default=20_000, help="training scenes (default %(default)s)")
        parser.add_argument("--test", type=int, default=1024, help="test scenes (default %(default)s)")
        parser.add_argument(
            "--test-unseen",
            type=int,
            default=512,
            help="test scenes of colour-shape pairs that training never shows (default %(default)s)",
        )
        parser.add_argument("--seed", type=int, default=0, help="same seed, same scenes (default %(default)s)")
        parser.add_argument("--image-size", type=int, default=64, help="side in pixels (default %(default)s)")

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of scenes."""
        for split in builder.SPLITS:
            count = getattr(self.options, split)
            for start in range(0, count, _UNIT):
                stop = min(start + _UNIT, count)
                yield protocol.Unit("scenes", (stop - start) * _SCENE_BYTES, split, (start, stop))

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Found]:
        """Draws the scenes of a unit."""
        options = self.options
        for index in range(*unit.place):
            example = builder.make_example(unit.split, index, seed=options.seed, image_size=options.image_size)
            yield protocol.Found(example, unit.split)

    def metadata(self, labels: list[str]) -> dict:
        """The classes, colours, shapes and the size of a group of siblings."""
        return builder.metadata(self.options.image_size, self.options.seed)
