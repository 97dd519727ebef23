"""Converts published CLIP weights to a folder to start from, with `config.init`, or to evaluate and export.

    python -m tools.convert_weights --source clip-vit-base-patch32 --output runs/init/b32
    python -m tools.convert_weights --source ViT-B-16.pt --output runs/init/b16 --image-size 384
    python -m harmopower.train --config configs/NAME.py --workdir DIR --config.init=runs/init/b32

The source is a folder of OpenCLIP or Hugging Face, or a file of OpenCLIP's, OpenAI's or Hugging Face's weights
(`.safetensors`, `.pt`, `.bin`), any ViT size. A state dict alone does not say everything: what is assumed is printed,
and the flags say it otherwise. PowerCLIP's released checkpoints are such files: --pool mean --text-pool mean.
"""

import argparse
import sys

from harmopower import config as configs
from harmopower.errors import CommandError, ConfigError
from harmopower.interop import starting


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for errors of the user."""
    options = vars(_parser().parse_args(arguments))
    try:
        starting.convert(options.pop("source"), options.pop("output"), **options)
    except (CommandError, ConfigError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.convert_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", required=True, help="folder or file of published weights")
    parser.add_argument("--output", required=True, help="the new folder; an earlier conversion there is replaced")
    parser.add_argument("--image-size", type=int, help="resample the image positions to this height in pixels")
    parser.add_argument("--image-width", type=int, help="and this width (default: the height)")
    parser.add_argument("--context-length", type=int, help="resample the text positions to this many tokens")
    parser.add_argument("--tokenizer", default="", help="tokenizer.json, clip, or hf:NAME (default: the source's)")
    facts = parser.add_argument_group("what the source does not say, or says wrong")
    facts.add_argument("--activation", choices=configs.SETTINGS["model.activation"].legal.choices)
    facts.add_argument("--pool", choices=configs.SETTINGS["model.pool"].legal.choices)
    facts.add_argument("--text-pool", choices=("eos", "mean"))
    facts.add_argument("--resize-mode", choices=configs.SETTINGS["data.resize_mode"].legal.choices)
    facts.add_argument("--layer-norm-epsilon", type=float)
    facts.add_argument("--vision-heads", type=int)
    facts.add_argument("--text-heads", type=int)
    return parser


if __name__ == "__main__":
    sys.exit(main())
