"""The formats that `tools.prepare` reads: one module a format, each with a class `Reader`, and one line here.

What a reader promises, with a whole example, is in `protocol`; `jsonl` is the one to read first.
"""

import importlib

from harmopower.data.readers.protocol import Reader

# A format's module must import without its heavy libraries (pyarrow, OpenCV ...): import those where they are used.
FORMATS = (
    "scenes",
    "jsonl",
    "coco",
    "emoji",
    "flickr30k_entities",
    "grit",
    "imagefolder",
    "karpathy",
    "mdetr",
    "powerclip",
    "table",
    "visual_genome",
    "webdataset",
)


def reader_class(name: str) -> type[Reader]:
    """The class of a format, whose name is one of `FORMATS`."""
    return importlib.import_module(f"{__name__}.{name}").Reader
