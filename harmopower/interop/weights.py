"""Files of weights and folders of results: published weights read one by one, safetensors written as a stream."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import json
import os
from pathlib import Path
import pickle
import shutil
import struct
import tempfile
import warnings

from etils import epath
import numpy as np
import safetensors

from harmopower.errors import CommandError

MARK = "harmopower.json"  # what an exported or converted folder came from; a folder with it may be replaced
_SAFETENSORS = (".safetensors",)
_PICKLED = (".pt", ".pth", ".bin")


class ConversionError(CommandError):
    """Weights cannot be read, converted or written; one line that names the file or the tensor."""


class Weights:
    """Published weights by name, read one by one.

    Attributes:
      shapes: shape of each tensor, by name.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], read: Callable[[str], np.ndarray]):
        self.shapes, self._read = shapes, read

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor of that name, as float32."""
        return np.asarray(self._read(name), np.float32)

    def renamed(self, change: Callable[[str], str]) -> "Weights":
        """The same weights under other names."""
        olds = {change(name): name for name in self.shapes}
        return Weights({new: self.shapes[old] for new, old in olds.items()}, lambda name: self._read(olds[name]))


def read(path) -> Weights:
    """Opens a file of weights, or a sharded one by its `.index.json`; local, or remote as `gs://`.

    Raises:
      ConversionError: the file is missing, damaged, truncated, or no file of tensors.
    """
    path = epath.Path(path)
    if not path.exists():
        raise ConversionError(f"there is no file {path}")
    if path.name.endswith(".index.json"):
        try:
            files = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ConversionError(f"{path} is no index of weights: {error!r}") from error
        return _joined([read(path.parent / file) for file in files])
    if path.suffix in _SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix in _PICKLED:
        return _read_pickled(path)
    raise ConversionError(f"{path} is none of {', '.join(_SAFETENSORS + _PICKLED)}")


def _joined(parts: list[Weights]) -> Weights:
    owner = {name: part for part in parts for name in part.shapes}
    return Weights({name: part.shapes[name] for name, part in owner.items()}, lambda name: owner[name][name])


def is_remote(path) -> bool:
    """Whether a path names a remote store, such as `gs://`."""
    return "://" in str(path)


@contextlib.contextmanager
def _local(path: epath.Path) -> Iterator[str]:
    """The path itself, or a temporary copy of a remote file."""
    if not is_remote(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = epath.Path(folder) / path.name
        path.copy(copy)
        yield str(copy)


def _read_safetensors(path: epath.Path) -> Weights:
    with contextlib.ExitStack() as stack:
        try:
            file = safetensors.safe_open(stack.enter_context(_local(path)), framework="numpy")
        except (safetensors.SafetensorError, ValueError) as error:
            raise ConversionError(f"{path} is damaged or truncated: {error}") from error
        # The file stays mapped after a temporary copy is deleted.
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return Weights(shapes, file.get_tensor)


def _read_pickled(path: epath.Path) -> Weights:
    try:
        import torch  # an optional dependency
    except ImportError as error:
        raise ConversionError(
            f"{path} needs PyTorch to be read; install the extra `torch`, or give safetensors"
        ) from error
    with _local(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on old files; what is wrong comes as an error
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
            raise ConversionError(f"{path} cannot be loaded: {_reason(error)}") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    items = found.items() if isinstance(found, dict) else ()
    tensors = {name: tensor for name, tensor in items if torch.is_tensor(tensor)}
    if not tensors:
        raise ConversionError(f"{path} holds no state dict but {type(found).__name__}")
    return Weights(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        lambda name: tensors[name].detach().float().numpy(),
    )


def _reason(error: BaseException) -> str:
    if "TorchScript" in str(error):  # how OpenAI publishes; running its code is what weights_only forbids
        return (
            "it is a TorchScript archive, which holds code; save its weights first: "
            "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pt')"
        )
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'the file is damaged'}"


def write_safetensors(path, tensors: Iterable[tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]) -> None:
    """Writes float32 tensors one after the other, so that no second copy of a model is ever in memory.

    Args:
      path: the file, local.
      tensors: name, shape, and what makes the array.
    """
    tensors, end = list(tensors), 0
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    for name, shape, _ in tensors:
        start, end = end, end + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data must be aligned
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape, make in tensors:
            array = np.ascontiguousarray(make(), "<f4").reshape(shape)
            file.write(array.data)


def check_output(output) -> None:
    """Raises ConversionError where a folder may not be written."""
    target = epath.Path(output)
    if target.exists() and not target.is_dir():
        raise ConversionError(f"--output {output} is a file; name a folder")
    if target.exists() and any(target.iterdir()) and not (target / MARK).exists():
        raise ConversionError(f"--output {output} holds something else; name a new folder, or delete it first")


@contextlib.contextmanager
def new_folder(output, facts: dict) -> Iterator[Path]:
    """A folder that appears whole or not at all.

    What is written goes to a temporary folder, which takes the place of `output` at the end. A folder that an earlier
    export or conversion made is replaced; any other one with something in it is refused. A remote `output` is copied at
    the end, its mark last, because stores such as `gs://` cannot rename a folder.

    Args:
      facts: what the folder came from; written to its mark.

    Raises:
      ConversionError: `output` holds something else.
    """
    check_output(output)
    target = epath.Path(output)
    if not is_remote(output):
        target.parent.mkdir(parents=True, exist_ok=True)
    parent = None if is_remote(output) else target.parent
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=parent) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        yield folder
        (folder / MARK).write_text(json.dumps(facts, indent=2) + "\n")
        (_upload if is_remote(output) else _replace)(folder, target, Path(scratch) / "old")


def _replace(folder: Path, target: epath.Path, aside: Path) -> None:
    if target.exists():
        os.replace(target, aside)
    os.replace(folder, target)
    shutil.rmtree(aside, ignore_errors=True)


def _upload(folder: Path, target: epath.Path, _: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: file.name == MARK):
        there = target / str(file.relative_to(folder))
        there.parent.mkdir(parents=True, exist_ok=True)
        epath.Path(file).copy(there, overwrite=True)
