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
from collections.abc import Callable, Mapping, Sequence
import copy
import dataclasses
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from harmopower.data import images, transforms

NO_BOXES = np.zeros((0, 4), np.float32)
NO_MASKS, NO_CROPS = np.zeros((0, 0), bool), np.zeros((0, 0, 0, 3), np.uint8)
NO_LOOKS: Mapping[str, Any] = {}


@dataclasses.dataclass
class Found:
    """Results, under the same names what chance would reach, and what a reader of them must know, in words.

    Attributes:
      left_out: what was not measured, and why.
      partial: why results cannot be compared with published ones, such as a set of another size; out of averages.
      notes: sizes of sets, rules of ties and the like.
      tables: what is more than a number, such as confusions: rows, of which the first one names the columns.
    """

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    chance: dict[str, float] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    partial: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    tables: dict[str, list[list]] = dataclasses.field(default_factory=dict)

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
    image_width: int = 0

    @property
    def shape(self) -> transforms.Shape:
        """Height and width of what the model sees."""
        return transforms.shape_of(self)

    def take(
        self, image: bytes, boxes: npt.ArrayLike = NO_BOXES, cut=None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Decodes and resizes an image and moves its boxes along.

        Args:
          image: encoded, as in a file.
          boxes: [m, 4], y0, x0, y1, x1 as shares of the image.
          cut: left, top, right and bottom in pixels, in place of the whole image; what lies outside of it is black.

        Returns:
          uint8 [h, w, 3], at most as large as what the model sees, the rest is padding; the boxes that lie inside,
          float32 [k, 4], in shares of what the model sees; and which ones they are, [k].

        Raises:
          RecordError: the image cannot be decoded.
        """
        picture = images.decode(image)
        picture = picture.crop(cut) if cut else picture
        pixels = transforms.fixed_view(picture, self.shape, self.resize_mode)
        window = transforms.fixed_window(picture.size, self.shape, self.resize_mode)
        moved, kept = transforms.move_boxes(boxes, window, self.shape, pixels.shape[:2])
        return pixels, moved[kept], np.flatnonzero(kept)


class Prepared(NamedTuple):
    """An example as the model takes it, and what `measure` must know of it."""

    image: np.ndarray  # uint8 [h, w, 3], without padding: `View.take`
    boxes: np.ndarray  # float32 [m, 4], in shares of what the model sees; a region feature is made of each
    facts: Any  # captions, labels, ...: small and picklable, for the facts of all examples are kept in memory
    seen: Mapping[str, "Seen"] = NO_LOOKS  # by the names of the task's `looks`


class Look(NamedTuple):
    """A further pass over the images of a task, for region features of another kind than the model's own."""

    shape: transforms.Shape  # of the image in pixels; where it is not the model's, positions are resampled
    features: tuple[str, ...]  # of each box, of `FEATURES`
    unit_tokens: bool  # patch tokens are L2-normalised before they are pooled


class Seen(NamedTuple):
    """What a look sees of an example."""

    image: np.ndarray  # uint8 [*shape, 3]
    boxes: np.ndarray  # float32 [m, 4], in shares of that image
    masks: np.ndarray = NO_MASKS  # bool [m, patches], for the features `mask_*`
    crops: np.ndarray = NO_CROPS  # uint8 [m, H, W, 3] of the model's own shape, for the feature `crop`


MODES, DENSE = ("cover", "overlap", "roi_align", "mask"), ("full", "value")
# How a box becomes a vector: its patches pooled (METHOD section 2), read in both `dense` ways (section 1), or cut out
# and encoded as an image of its own.
FEATURES = (*(f"{mode}_{dense}" for mode in MODES for dense in DENSE), "crop")


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
    # Name of a look -> feature -> [all boxes that it sees, in order, D].
    looks: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)


class Task(abc.ABC):
    """One measurement on one data source; picklable before it is run, since worker processes get a copy.

    Attributes:
      source: `len(source)` examples of any kind, by random access: `source[index]`.
      metrics: the names that `measure` can give, known before anything is read, so that a mistyped
        `config.checkpoint.best` is refused at the start.
      identity: equal for equal data, protocol and settings, so that a result can be used again; None: never.
      looks: further passes over the same images.
      light: how many examples a quick look during training takes.
    """

    source: Any
    metrics: Sequence[str]
    identity: str | None = None
    looks: Mapping[str, Look] = NO_LOOKS
    light: int = 5_000

    @abc.abstractmethod
    def prepare(self, example, view: View) -> Prepared:
        """What the model takes of an example. Called once for each, on one of the processes.

        Raises:
          RecordError: the example cannot be used; it is named in the log, counted, and left out.
        """

    @abc.abstractmethod
    def measure(self, vectors: Vectors) -> Found:
        """The results, all of them shares in 0..1, higher is better; called alike on every process."""

    def lighter(self) -> Self:
        """The same on the first `light` examples."""
        found = copy.copy(self)
        found.source = Some(self.source, range(min(self.light, len(self.source))))
        return found


class Some:
    """Some of the examples of a source, by their numbers; picklable."""

    def __init__(self, source, places: range):
        self._source, self._places = source, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int):
        return self._source[self._places[index]]


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
