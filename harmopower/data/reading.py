"""Random access to the raw records of many ArrayRecord files, of which only so many are open."""

import bisect
import collections
from collections.abc import Sequence
import itertools
import threading

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue] - a compiled module

OPEN_FILES = 128
# Without threads and buffers of its own: a record is read alone, and somewhere else than the one before.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER_BYTES = 32_768


class RecordFiles:
    """`len(files)` and `files[index] -> bytes` over the records of several files in their order.

    Opens nothing before it is asked for a record, and then the one file that has it; of those the `open_files` used
    last stay open. Safe to use from several threads; picklable, so that worker processes open their own files.
    """

    def __init__(self, instructions: Sequence, open_files: int = OPEN_FILES):
        """Sets up; reads nothing.

        Args:
          instructions: which records of which file: `filename`, `skip`, `take`, as TFDS has them for a split.
          open_files: files that are open at a time, at least 1.
        """
        self._files = [(str(part.filename), part.skip) for part in instructions]
        self._ends = list(itertools.accumulate(part.take for part in instructions))
        self._open_files = open_files
        self._start()

    def _start(self) -> None:
        self._open: collections.OrderedDict[str, _File] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index) -> bytes:
        path, position = self.place(index)
        return self._file(path).read(position)

    def place(self, index) -> tuple[str, int]:
        """The file of a record, and its number in it.

        Raises:
          IndexError: there is no such record.
        """
        index = index.__index__()
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        path, skip = self._files[number]
        return path, skip + index - (self._ends[number - 1] if number else 0)

    def _file(self, path: str) -> "_File":
        with self._lock:
            file = self._open.pop(path, None) or _File(path)
            self._open[path] = file  # the last one is the one used last
            while len(self._open) > self._open_files:
                # Closed with its last reference, which another thread may still read through.
                self._open.popitem(last=False)
            return file

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()


class _File:
    """One open file; its place in it is shared, so one thread reads at a time."""

    def __init__(self, path: str):
        self._reader = array_record_module.ArrayRecordReader(
            path, options=_OPTIONS, file_reader_buffer_size=_BUFFER_BYTES
        )
        self._lock = threading.Lock()

    def read(self, position: int) -> bytes:
        with self._lock:
            # `reader.read([position])` takes longer the more records the file has: 1 ms at 300,000, against 5 us.
            self._reader.seek(position)
            return self._reader.read()
