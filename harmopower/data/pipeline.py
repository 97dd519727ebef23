"""From records to batches with Grain: a batch is a function of (seed, step) and of nothing else.

The examples are in one global order (`order.py`): epoch after epoch, each reshuffled from the seed, without end. Step
`s` takes the `batch_size` examples from position `s * batch_size` on, and every host the rows that are its own. All
randomness of an example comes from (seed, position). So hosts, workers and restarts cannot change a batch (DESIGN
section 3).

What threads and worker processes make is a slice of `rows_per_element` rows; the host's batch is joined from its slices
in their order. So one batch is made by all of them at once, and what waits to be used is counted in slices.

`rows.py` makes a row and says what `Batch` has.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import itertools
import sys

from absl import flags, logging
import grain
import numpy as np

from harmopower.data import contents, order, orphans, sources, tokenize
from harmopower.data.rows import Batch, Options, empty_rows, make_rows

_JUDGED_AFTER = 1000  # examples, or one epoch of a smaller data set, before the share of bad records counts
_HANDED_OVER = 3  # slices of a worker that Grain holds on the way: in hand, in the queue, and taken from it


class BadDataError(RuntimeError):
    """More records than `config.data.max_bad_fraction` allows cannot be used."""


class Pipeline:
    """Batches of one split for one host, and the count of its bad records.

        pipeline = Pipeline(source, tokenizer, image_size=64, context_length=32, max_phrases=16, max_boxes=4,
                            seed=0, batch_size=128)
        for batch in pipeline.iterate(start_step):
            ...

    Attributes:
      tokenizer: as given.
      contents: what a sample of the records has, see `contents.Contents`; read when it is asked for.
      alone_text: whether batches have `box_alone`.
      seen, bad: examples that this object has put into batches, and how many of them had weight 0.
    """

    def __init__(
        self,
        source,
        tokenizer: tokenize.Tokenizer,
        *,
        seed: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        group_size: int = 1,
        shuffle: str = "global",
        shuffle_block: int = 1024,
        shuffle_blocks: int = 16,
        workers: int = 0,
        threads: int = 4,
        rows_per_element: int = 32,
        ahead_mib: int = 128,
        max_bad_fraction: float = 0.01,
        alone_text: bool | None = False,
        **options,
    ):
        """Sets up; reads nothing yet.

        Args:
          source: random access to examples, see `records.read`; or a list of `sources.Part` to be mixed.
          tokenizer: for captions and region texts.
          seed: of the order and of everything drawn.
          batch_size: the global one, over all hosts.
          process_index, process_count: which contiguous share of each global batch is this host's.
          group_size: consecutive records that stay together when the order is shuffled, so that examples which were
            stored as each other's hard negatives (as the embedded scenes are) meet in one batch.
          shuffle: `global` or `window`, see `order.Order`.
          shuffle_block: consecutive records of a block of `window`.
          shuffle_blocks: blocks of a window.
          workers: worker processes; 0 means threads of this process.
          threads: threads that make rows, of each process.
          rows_per_element: rows that a thread makes at a time; no batch depends on it.
          ahead_mib: MiB of rows that are made before they are asked for, over all threads and workers; one batch of
            this host, and what every thread has in hand, where that is more.
          max_bad_fraction: above this share of bad records `judge` raises.
          alone_text: see `rows.Options`; None: where the data have regions with a text and no span (`contents`).
          **options: the fields of `rows.Options`.

        Raises:
          ValueError: the batch does not divide over the hosts, the source is empty, or an option is impossible.
        """
        if batch_size % process_count:
            raise ValueError(
                f"batch_size {batch_size} does not divide over {process_count} hosts; set config.batch_size to a "
                f"multiple of {process_count}"
            )
        parts = source if isinstance(source, list) else [sources.Part(source)]
        for part in parts:
            _check_size(len(part.source), batch_size, group_size)
        rows = batch_size // process_count
        self._sources = [part.source for part in parts]
        drawn = options.get("region_text_choice") == "drawn"  # then a text is encoded alone beside a span too
        alone = alone_text is None and (self.contents.texts_beside if drawn else self.contents.texts_alone)
        self.alone_text = alone if alone_text is None else alone_text
        options["alone_text"] = self.alone_text
        modes = [(options | part.options).get("resize_mode") for part in parts]
        options["padded"] = "letterbox" in modes  # then all batches have `content`
        orders = [
            order.Order(
                len(part.source) // group_size,
                order.source_seed(seed, number),
                shuffle,
                max(1, shuffle_block // group_size),
                shuffle_blocks,
            )
            for number, part in enumerate(parts)
        ]
        self._builder = _Builder(
            self._sources,
            [Options(**(options | part.options)) for part in parts],
            order.Mixture(tuple(orders), tuple(part.weight for part in parts), group_size),
            tokenizer,
            seed,
            batch_size,
            process_index * rows,
            rows,
            min(rows_per_element, rows),
        )
        self.tokenizer = tokenizer
        self._workers, self._threads, self._ahead_mib = workers, max(1, threads), ahead_mib
        self._max_bad_fraction = max_bad_fraction
        self._named: dict[str, str] = {}
        self.seen = self.bad = 0

    @property
    def examples(self) -> int:
        """Examples of an epoch, of all hosts; of several data sets, the sum."""
        return self._builder.examples

    @functools.cached_property
    def contents(self) -> contents.Contents:
        return contents.join(map(contents.look, self._sources))

    def batch(self, step: int) -> Batch:
        """The rows of this host of the global batch of `step`; a pure function of (seed, step)."""
        return self._next(map(self._builder, itertools.count(step * self._builder.elements)))

    def ids(self, step: int) -> list[str]:
        """The ids of the records of the global batch of `step`, of all hosts; reads them anew."""
        return self._builder.ids(step)

    def judge(self, seen: int, bad: int) -> None:
        """Whether so many bad ones of the examples seen, by all hosts together, are too many.

        A host does not judge alone by what it has read: it would stop, and the others would wait for it for ever.

        Raises:
          BadDataError: they are more than `max_bad_fraction` of them; names some that this host has read.
        """
        if seen >= min(_JUDGED_AFTER, self.examples) and bad > self._max_bad_fraction * seen:
            examples = "; ".join(list(self._named.values())[:3]) or "see the log of the other processes"
            raise BadDataError(
                f"{bad} of {seen} examples ({bad / seen:.2%}) cannot be used, more than "
                f"config.data.max_bad_fraction {self._max_bad_fraction} allows; for example: {examples}"
            )

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches from `start_step` on, without end and made ahead; nothing before `start_step` is computed.

        With worker processes the program's main module must be guarded by `if __name__ == "__main__"`.
        """
        # The slices are the data set, so what Grain hands to its workers is whole: none can be cut off.
        slices = grain.MapDataset.range(start_step * self._builder.elements, sys.maxsize).map(self._builder)
        slices = slices.to_iter_dataset(grain.ReadOptions(self._threads, prefetch_buffer_size=self._ahead()))
        if self._workers:
            _parse_flags()
            options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=1)
            slices = slices.mp_prefetch(options, worker_init_fn=orphans.end_with_parent)
        # Closed as soon as the caller is done with it, so that neither threads nor workers outlive the run.
        with contextlib.closing(iter(slices)) as made:
            while True:
                yield self._next(made)

    def _ahead(self) -> int:
        """Slices that the threads of one process make ahead."""
        row = sum(array.nbytes for array in empty_rows(1, self._builder.options[0]).values())
        # Less than a batch ahead would let the threads wait while the devices compute.
        rows = max(self._ahead_mib * 2**20 // row, self._builder.rows)
        slices = rows // self._builder.rows_per_element
        return max(self._threads, slices // self._workers - _HANDED_OVER if self._workers else slices)

    def _next(self, slices: Iterator[tuple[Batch, dict[str, str]]]) -> Batch:
        """Joins the slices of one step."""
        batch, problems, first = empty_rows(self._builder.rows, self._builder.options[0]), {}, 0
        while first < self._builder.rows:
            part, found = next(slices)
            first = _put(batch, part, first)
            problems |= found
        return self._count(batch, problems)

    def _count(self, batch: Batch, problems: dict[str, str]) -> Batch:
        weight = batch["weight"]
        self.seen += len(weight)
        self.bad += int((weight == 0).sum())
        for name, problem in problems.items():
            if name not in self._named:
                logging.warning("bad record, used with weight 0: %s", problem)
                self._named[name] = problem
        return batch


def _put(batch: Batch, part: Batch, first: int) -> int:
    """Copies rows into those of a batch from `first` on; returns the row behind them."""
    end = first + len(part["weight"])
    for name, values in part.items():
        batch[name][first:end] = values
    return end


def from_config(data, *, seed: int, batch_size: int, **changes) -> Pipeline:
    """Opens what `config.data` names: the split, its tokenizer and their pipeline.

    Args:
      data: `config.data`.
      seed, batch_size: `config.seed` and `config.batch_size`.
      **changes: further arguments of `Pipeline`, such as process_index, process_count, region_text and grid.

    Raises:
      DataSourceError, TokenizerError, ValueError: something is missing or impossible; the text names the key.
    """
    fields = {field.name for field in dataclasses.fields(Options)} | {
        "group_size",
        "shuffle",
        "shuffle_block",
        "shuffle_blocks",
        "workers",
        "threads",
        "rows_per_element",
        "ahead_mib",
        "max_bad_fraction",
    }
    values = {name: data[name] for name in fields if name in data}
    parts = sources.open_all(data)
    tokenizer = tokenize.Tokenizer.load(data.tokenizer, sources.folders(data)[0], data.clean_text)
    return Pipeline(parts, tokenizer, seed=seed, batch_size=batch_size, **(values | changes))


def _check_size(examples: int, batch_size: int, group_size: int) -> None:
    if not examples:
        raise ValueError("the source has no examples; set config.data.source and config.data.split")
    if examples % group_size or batch_size % group_size:
        raise ValueError(
            f"config.data.group_size {group_size} must divide the {examples} examples of the source and "
            f"config.batch_size {batch_size}"
        )


def _parse_flags() -> None:
    # Grain hands the absl flags to its workers and refuses unparsed ones; programs without absl have none to parse.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


@dataclasses.dataclass
class _Builder:
    """`builder(element) -> (rows, problems)`: pure and picklable; problems, record id -> text, for the main process.

    Element `e` is slice `e % elements` of this host's rows of step `e // elements`.
    """

    sources: list
    options: list[Options]  # of each source; the shapes are the same
    order: order.Mixture
    tokenizer: tokenize.Tokenizer
    seed: int
    batch_size: int
    first_row: int
    rows: int
    rows_per_element: int

    @property
    def elements(self) -> int:
        """Slices of a step; the last one may be shorter."""
        return -(-self.rows // self.rows_per_element)

    @property
    def examples(self) -> int:
        return sum(map(len, self.sources))

    def ids(self, step: int) -> list[str]:
        places = map(self.order.__getitem__, range(int(step) * self.batch_size, (int(step) + 1) * self.batch_size))
        return [self.sources[source][record]["id"] for source, record in places]

    def __call__(self, element: int) -> tuple[Batch, dict[str, str]]:
        step, part = divmod(int(element), self.elements)
        rows = range(self.rows)[part * self.rows_per_element :][: self.rows_per_element]
        first = step * self.batch_size + self.first_row + rows.start
        positions = range(first, first + len(rows))
        places = [self.order[position] for position in positions]
        examples = [self.sources[source][record] for source, record in places]
        rngs = [np.random.default_rng((self.seed, position)) for position in positions]
        return make_rows(examples, rngs, self.tokenizer, [self.options[source] for source, _ in places])


def empty_batch(data, rows: int, **changes) -> Batch:
    """A batch without content: its shapes and types, for which no data set is needed.

    Args:
      data: `config.data`.
      rows: b.
      **changes: further fields of `rows.Options`, such as region_text and grid.
    """
    values = {field.name: data[field.name] for field in dataclasses.fields(Options) if field.name in data}
    values["padded"] = sources.padded(data)
    return empty_rows(rows, Options(**(values | changes)))
