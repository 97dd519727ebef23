"""The kinds of annotations that `tools.annotate` makes: one module a kind, each with a class `Annotator`, and one line.

What a kind promises, with a whole example, is in `protocol`; how annotations are stored and read, in `overlays`.
"""

import importlib

from harmopower.data.annotations.protocol import Annotator

# A kind's module must import without its heavy libraries (spaCy, transformers ...): import those where they are used.
KINDS = ("grounding", "match", "parses", "regions")


def annotator_class(name: str) -> type[Annotator]:
    """The class of a kind, whose name is one of `KINDS`."""
    return importlib.import_module(f"{__name__}.{name}").Annotator
