"""Worker processes end with the process that started them, however it ended."""

import multiprocessing
import os
import threading


def end_with_parent(*_) -> None:
    """To be called first in a worker: when its parent is gone, it is too.

    A parent that is killed cannot end its workers, and these would wait for its next word for ever. The arguments are
    what Grain gives to a `worker_init_fn`.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is no worker"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
