"""What an evaluation suite is, for those who write one: it says what is read and what is measured, the rest is done.

    class Colours(suite.Task):
        metrics = ("top1",)

        def __init__(self, directory):
            self.source = records.read(directory, "test")

        def prepare(self, example, view):                                   # in threads and worker processes
            image, _, _ = view.take(example["image"])
            return suite.Prepared(image, suite.NO_BOXES, example["captions"][0])

        def measure(self, vectors):                                         # once, when every image is a vector
            scores = vectors.images @ vectors.texts(["a red thing", "a blue thing"]).T
            right = scores.argmax(1) == np.array(["blue" in caption for caption in vectors.facts])
            return suite.Found({"top1": float(right.mean())}, {"top1": 0.5})

    class ColourSuite(suite.Suite):
        name = "colours"

        def tasks(self, config):
            return {"colours": Colours(config.evaluation.data)}

A module with that and a line in `suites/__init__.py` are all that a suite needs. It is handed a model only as vectors,
so nothing here imports jax, and worker processes stay light.
"""

import abc
from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harmopower.data import images, transforms

NO_BOXES = np.zeros((0, 4), np.float32)


@dataclasses.dataclass
class Found:
    """Results, under the same names what chance would reach, and what a reader of them must know, in words.

    Attributes:
      left_out: what was not measured, and why.
      partial: why results cannot be compared with published ones, such as a set of another size; out of averages.
      notes: sizes of sets, rules of ties and the like.
    """

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    chance: dict[str, float] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    partial: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, other: "Found", prefix: str = "") -> None:
        """Takes over the results of a part, with `prefix` before their names."""
        for field in dataclasses.fields(self):
            getattr(self, field.name).update({prefix + key: value for key, value in getattr(other, field.name).items()})

    def of(self, task: str) -> "Found":
        """The results of one task, under their whole names."""
        return Found(
            *(
                {key: value for key, value in getattr(self, field.name).items() if key.startswith(f"{task}/")}
                for field in dataclasses.fields(self)
            )
        )


@dataclasses.dataclass(frozen=True)
class View:
    """How the evaluated model sees images: as in training, without what is random there."""

    image_size: int
    resize_mode: str

    def take(
        self, image: bytes, boxes: npt.ArrayLike = NO_BOXES, cut=None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Decodes and resizes an image and moves its boxes along.

        Args:
          image: encoded, as in a file.
          boxes: [m, 4], y0, x0, y1, x1 as shares of the image.
          cut: left, top, right and bottom in pixels, in place of the whole image; what lies outside of it is black.

        Returns:
          uint8 [image_size, image_size, 3], the boxes that lie inside, float32 [k, 4], and which ones they are, [k].

        Raises:
          RecordError: the image cannot be decoded.
        """
        picture = images.decode(image)
        picture = picture.crop(cut) if cut else picture
        window = transforms.fixed_window(picture.size, self.image_size, self.resize_mode)
        moved, kept = transforms.move_boxes(boxes, window, self.image_size)
        pixels = transforms.fixed_view(picture, self.image_size, self.resize_mode)
        return pixels, moved[kept], np.flatnonzero(kept)


class Prepared(NamedTuple):
    """An example as the model takes it, and what `measure` must know of it."""

    image: np.ndarray  # uint8 [image_size, image_size, 3]
    boxes: np.ndarray  # float32 [m, 4], in shares of that image; a region feature is made of each
    facts: Any  # captions, labels, ...: small and picklable, for the facts of all examples are kept in memory


@dataclasses.dataclass
class Vectors:
    """A task's data as the model sees them: every usable example once, in the order of the source. L2-normalised."""

    facts: list  # n, as `prepare` gave them
    images: np.ndarray  # [n, D]
    regions: np.ndarray  # [all boxes of all examples in order, D]
    texts: Callable[[Sequence[str]], np.ndarray]  # n texts -> [n, D]; a text is encoded once, however often it is asked
    classes: Callable[
        [Sequence[Sequence[str]]], np.ndarray
    ]  # prompts of C classes -> [C, D]: unit mean of unit vectors


class Task(abc.ABC):
    """One measurement on one data source; picklable before it is run, since worker processes get a copy.

    Attributes:
      source: `len(source)` examples of any kind, by random access: `source[index]`.
      metrics: the names that `measure` can give, known before anything is read, so that a mistyped
        `config.checkpoint.best` is refused at the start.
      identity: equal for equal data, protocol and settings, so that a result can be used again; None: never.
    """

    source: Any
    metrics: Sequence[str]
    identity: str | None = None

    @abc.abstractmethod
    def prepare(self, example, view: View) -> Prepared:
        """What the model takes of an example. Called once for each, on one of the processes.

        Raises:
          RecordError: the example cannot be used; it is named in the log, counted, and left out.
        """

    @abc.abstractmethod
    def measure(self, vectors: Vectors) -> Found:
        """The results, all of them shares in 0..1, higher is better; called alike on every process."""


class Suite(abc.ABC):
    """What belongs together under one name of `config.evaluation.suite`.

    Attributes:
      averages: the names that `average` can give.
    """

    name: str
    averages: Sequence[str] = ()

    @abc.abstractmethod
    def tasks(self, config) -> dict[str, Task | str]:
        """The tasks by their names, which begin the names of their metrics; in place of one whose data are not there
        stands the reason, in words that say how to get them. Opens files, reads no examples.

        Args:
          config: the run's: `config.evaluation.data` is the root folder of the suites' own data.
        """

    def average(self, found: Found) -> Found:
        """What is computed from the results of all tasks, such as means over complete sets."""
        return Found()
