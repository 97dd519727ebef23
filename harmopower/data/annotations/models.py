"""Models of transformers that look at images: loaded once in a process, from a folder or the hub, onto one device.

What goes wrong is one line. torch and transformers are imported where they are used: the extra `regions`.
"""

import argparse
from collections.abc import Iterable, Iterator
import itertools
import multiprocessing
from pathlib import Path

from PIL import Image

from harmopower.data import images
from harmopower.data.annotations import protocol
from harmopower.data.annotations.overlays import AnnotationError
from harmopower.errors import RecordError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as SAM and SAM 2 were trained with


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds where a model runs, and how much it sees at once."""
    parser.add_argument("--batch-size", type=int, default=8, help="images at once (default %(default)s)")
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda or cuda:N; auto: each of --workers the next GPU, without one the CPU (default %(default)s)",
    )


def check_at_least_one(options: argparse.Namespace, *names: str) -> None:
    """Raises AnnotationError for an option of these that is below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise AnnotationError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1")


def libraries() -> tuple:
    """The modules torch and transformers.

    Raises:
      AnnotationError: they are not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise AnnotationError(
            f"this needs torch and transformers ({error}): pip install -c constraints.txt -e '.[regions]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()  # the job has its own
    return torch, transformers


def config_of(name: str):
    """The configuration of a model.

    Raises:
      AnnotationError: there is none, in that folder or on the hub.
    """
    _, transformers = libraries()
    try:
        return transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise AnnotationError(f"no model at {name!r}, neither a folder nor a name on the hub: {reason}") from error


def load(kind: str, name: str, device: str):
    """A model of a class of transformers, ready to be asked.

    Args:
      kind: the name of the class.
      name: a folder or a name on the hub.
      device: as `chosen_device` gives it.

    Raises:
      AnnotationError: it cannot be loaded, or is of another kind.
    """
    _, transformers = libraries()
    try:
        return getattr(transformers, kind).from_pretrained(name).to(device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise AnnotationError(f"{name!r} cannot be loaded as {kind}: {' '.join(str(error).split())[:300]}") from error


def chosen_device(asked: str) -> str:
    """`auto` by the number of this worker process, so that each of several GPUs has one; anything else as it is.

    Raises:
      AnnotationError: it is not there.
    """
    torch, _ = libraries()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        number = multiprocessing.current_process().name.rpartition("-")[2]  # SpawnProcess-3; MainProcess has none
        return f"cuda:{(int(number) - 1) % count if number.isdecimal() else 0}" if count else "cpu"
    kind, _, number = asked.partition(":")
    if (
        kind not in ("cpu", "cuda")
        or (number and not number.isdecimal())
        or (kind == "cuda" and int(number or 0) >= count)
    ):
        raise AnnotationError(
            f"--device is {asked!r}; this machine has cpu" + "".join(f", cuda:{i}" for i in range(count))
        )
    return asked


def files_of(name: str) -> list[str]:
    """The files of a model that lies in a folder; none for a name on the hub, which is taken at its word."""
    folder = Path(name)
    return sorted(str(path) for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def in_batches(
    annotator: protocol.Annotator, examples: Iterable[dict], size: int
) -> Iterator[list[tuple[dict, Image.Image | None]]]:
    """Examples with their decoded images, so many at once; None, counted, where an image is broken."""
    iterator = iter(examples)
    while batch := list(itertools.islice(iterator, size)):
        yield [(example, _decoded(annotator, example)) for example in batch]


def _decoded(annotator: protocol.Annotator, example: dict) -> Image.Image | None:
    try:
        return images.decode(example["image"])
    except RecordError as error:
        annotator.leave_out("image_broken", example["id"], str(error))
        return None
