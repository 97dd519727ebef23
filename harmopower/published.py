"""Published weights as something that can be evaluated: fetched where a name asks for it, and converted once."""

from pathlib import Path
import re

import jax

from harmopower.errors import CommandError
from harmopower.interop import starting
from harmopower.parallel import processes

_WANTED = ["*.json", "*.safetensors", "*.bin"]


def slug(model: str) -> str:
    """A name for the folder of a model."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", model.rstrip("/")).strip("_.")


def folder(model: str, output: str, tokenizer: str = "") -> str:
    """The folder that `runs.read_workdir` takes: a run itself, or what was converted of published weights.

    Args:
      model: a workdir, an exported folder, weights of OpenCLIP or Hugging Face, or hf:NAME.
      output: where the converted ones are put; what was converted before is used again.
      tokenizer: as `config.data.tokenizer`, where the source has none beside it.

    Raises:
      CommandError: the weights cannot be had or understood.
    """
    if (Path(model) / "checkpoints").is_dir():
        return model
    converted = Path(output) / slug(model) / "model"
    if jax.process_index() == 0 and not (converted / "checkpoints").is_dir():
        source = _fetched(model.removeprefix("hf:")) if model.startswith("hf:") else model
        starting.convert(source, converted, tokenizer=tokenizer, say=lambda line: print(f"{model}: {line}"))
    elif jax.process_index() == 0:
        print(f"{model}: {converted}, which was converted before, is used; remove it to convert anew")
    processes.gather({})  # the others wait for the first
    return str(converted)


def _fetched(name: str) -> str:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CommandError(f"--model hf:{name} needs huggingface_hub; install it, or give a local folder") from error
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=_WANTED)
    except Exception as error:  # of the network, the hub, the disk: the library has a dozen kinds
        raise CommandError(f"--model hf:{name} cannot be fetched: {error}") from error
