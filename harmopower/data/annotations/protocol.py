"""What a kind of annotations promises to the machinery that makes overlays.

An annotator is given the examples of a task one after the other and yields for each of them, in the same order, the
lists that it makes. It may read ahead, to work in batches. The whole of a kind, here a phrase for each first word, is

    class Annotator(protocol.Annotator):
        "The first word of every caption."        # its first line is the help of the command

        example = "python -m tools.annotate first --data data/photos --name first"
        makes = ("phrases",)

        @classmethod
        def add_options(cls, parser):
            parser.add_argument("--label", default="NP", help="of the phrases (default %(default)s)")

        def annotate(self, part, examples):
            for example in examples:
                ends = [len(caption.split()[0]) for caption in example["captions"]]
                yield {"phrases": [{"caption": i, "start": 0, "end": end, "label": self.options.label}
                                   for i, end in enumerate(ends)]}

plus its name in `annotations.KINDS`. The machinery does the rest for every kind alike: tasks, worker processes, shares,
Ray, resumption, checking of spans and boxes (`records.examine`), counts, and the overlay with its `info.json`.

Rules
- What is yielded is a function of the options, the inputs and the example alone. Whatever is drawn comes from
  `generator(options.seed, id)`, so that tasks, workers and a new start change nothing.
- An annotator is made anew for every task, so what it remembers (captions that were parsed) lasts for a task. What is
  costly to load (a model) belongs in a module function with `functools.lru_cache`: once in a process.
- What cannot be annotated gets empty lists and is counted: `leave_out(reason, id, text)`. Anything else that the user
  should hear of is counted in `counts` and told by `summary`.
"""

import abc
import argparse
import collections
from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib

import numpy as np

_MAX_NAMED = 1_000  # that a task's report names; all are counted


@dataclasses.dataclass(frozen=True)
class Part:
    """Which records of which data set a task has: those from `start` up to `stop` of a split."""

    directory: str
    split: str
    start: int
    stop: int


class Annotator(abc.ABC):
    """A kind of annotations; see the head of this module.

    Attributes:
      example: a command line for the help.
      makes: the lists of an example that it gives, `phrases`, `regions` or both.
      mode: whether these replace the records' own or are added, unless the command line says otherwise.
      records_per_task: the work that a kill may lose.
      options: of the command line.
      counts: numbers for `summary`, added up over all tasks.
      left_out, named: see `leave_out`.
    """

    example = ""
    makes: tuple[str, ...] = ()
    mode = "replace"
    records_per_task = 10_000

    def __init__(self, options: argparse.Namespace):
        """Looks at the options; cheap."""
        self.options = options
        self.counts: collections.Counter[str] = collections.Counter()
        self.left_out: collections.Counter[str] = collections.Counter()
        self.named: list[tuple[str, str, str]] = []

    @classmethod
    @abc.abstractmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of this kind; their values must be JSON-able."""

    def check(self) -> None:  # noqa: B027 (most kinds need nothing)
        """Called once before any work: is there what it needs?

        Raises:
          AnnotationError: a library, model or file is missing; one line that says what to do.
        """

    def inputs(self) -> list[str]:
        """Files that it reads besides the data set: when they have changed, the overlay is another one."""
        return []

    @abc.abstractmethod
    def annotate(self, part: Part, examples: Iterable[dict]) -> Iterator[Mapping[str, list[dict]]]:
        """Yields the lists `makes` of every example, in order.

        Args:
          part: which ones they are.
          examples: consumed once.
        """

    @classmethod
    def summary(cls, counts: Mapping[str, int | float]) -> list[str]:
        """Lines for the report, from the counts of all tasks."""
        return [f"{name} {value}" for name, value in counts.items()]

    def leave_out(self, reason: str, name: str, text: str) -> None:
        """Counts something that cannot be annotated: a short code, the id of its record, one line for people."""
        self.left_out[reason] += 1
        if len(self.named) < _MAX_NAMED:
            self.named.append((reason, name, " ".join(text.split())))


def generator(seed: int, example_id: str) -> np.random.Generator:
    """Random numbers that are a function of (seed, id): not of the task, the process or the order."""
    return np.random.default_rng([seed, *hashlib.sha256(example_id.encode()).digest()[:16]])
