"""Examples made ready for the encoder, ahead of it: in threads and worker processes, each process its own rows."""

import dataclasses
import sys
from typing import NamedTuple

from absl import flags
import grain

from harmopower.data import orphans
from harmopower.errors import RecordError
from harmopower.evaluation.suite import Prepared, Task, View

_AHEAD = 32  # examples made ready and not yet taken


class Share(NamedTuple):
    """The rows of each global batch that are this process's."""

    first: int
    count: int
    batch_size: int


class Row(NamedTuple):
    """One row of a batch: the number of its example, -1 behind the last one, and either what it became or why not."""

    index: int
    prepared: Prepared | None
    problem: str = ""


def rows(task: Task, view: View, share: Share, threads: int, workers: int) -> grain.DatasetIterator[Row]:
    """This process's rows of one batch after the other, the last one filled up; close it when done.

    Args:
      threads: threads that prepare, of each process.
      workers: worker processes; 0 prepares in threads of this one.
    """
    batches = -(-len(task.source) // share.batch_size)
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + _AHEAD)
    prepare = _Prepare(task, view, share)
    made = grain.MapDataset.range(batches * share.count).map(prepare).to_iter_dataset(ahead)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain hands the flags to its workers; programs without absl have none
            flags.FLAGS(sys.argv[:1])
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
        made = made.mp_prefetch(options, worker_init_fn=orphans.end_with_parent)
    return iter(made)


@dataclasses.dataclass
class _Prepare:
    """`prepare(place among this process's rows) -> Row`; picklable."""

    task: Task
    view: View
    share: Share

    def __call__(self, place: int) -> Row:
        batch, row = divmod(int(place), self.share.count)
        index = batch * self.share.batch_size + self.share.first + row
        if index >= len(self.task.source):
            return Row(-1, None)
        try:
            return Row(index, self.task.prepare(self.task.source[index], self.view))
        except RecordError as error:
            return Row(index, None, str(error))
