"""Exports a run's checkpoint to PyTorch: a folder that OpenCLIP or Hugging Face loads without harmopower.

    python -m tools.export --workdir runs/quickstart --format huggingface --output runs/quickstart/export

The folder holds weights (safetensors), configs, tokenizer, preprocessing and a model card. Where PyTorch is installed,
both models run on the same images and captions; a difference above 1e-4 fails and leaves no folder.
"""

import argparse
import json
import sys

from etils import epath
import jax

from harmopower import runs
from harmopower.data.tokenize import TokenizerError
from harmopower.errors import CommandError, ConfigError
from harmopower.interop import export
from harmopower.parallel import mesh as meshes


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for errors of the user."""
    options = _parser().parse_args(arguments)
    try:
        run(options.workdir, options.step, options.format, options.output, options.ema, options.resize_mode)
    except (CommandError, ConfigError, TokenizerError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return 0


def run(workdir: str, step: int | None, name: str, output: str, ema: bool = False, resize_mode: str = "") -> None:
    """Exports the checkpoint of that step (None: the newest); `ema`: the moving average of its parameters."""
    config, tokenizer = runs.read_workdir(workdir)
    model = export.exported_model(config, tokenizer)
    export.check_format(name, model, resize_mode or config.data.resize_mode)
    # One CPU device: whatever mesh the checkpoint was trained on, it is read into this host's memory once.
    mesh = meshes.make_mesh(devices=jax.local_devices(backend="cpu")[:1])
    measured = epath.Path(workdir) / ("ema/eval.json" if ema else "eval.json")  # where --ema evaluates to
    with jax.set_mesh(mesh):
        export.export(
            name,
            model,
            lambda: runs.load_params(workdir, model, mesh, step, ema),
            tokenizer,
            config,
            output,
            evaluation=json.loads(measured.read_text()) if measured.exists() else None,
            resize_mode=resize_mode,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    parser.add_argument("--ema", action="store_true", help="the moving average of the parameters (optimizer.ema)")
    parser.add_argument("--format", required=True, choices=tuple(export.FORMATS))
    parser.add_argument(
        "--resize-mode",
        default="",
        choices=("squash", "shortest"),
        help="of the folder's preprocessing (default: the run's)",
    )
    parser.add_argument("--output", required=True, help="the new folder; an earlier export there is replaced")
    return parser


if __name__ == "__main__":
    sys.exit(main())
