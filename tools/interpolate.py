"""Writes the models between two of one shape (WiSE-FT) and draws what moving from one to the other costs and brings.

    python -m tools.interpolate --a runs/init/b16 --b runs/tuned --alpha 0 0.1 ... 1 --output runs/between
    python -m tools.interpolate --a runs/init/b16 --b runs/tuned --alpha 0.7 --format open_clip --output runs/wise
    python -m tools.interpolate --a runs/init/b16 --b runs/tuned --alpha 0 0.25 ... 1 --output runs/between \\
        --evaluate --suite retrieval,boxes --data DATA

Each weight is (1 - alpha) a + alpha b: alpha 0 is --a, where fine-tuning started, alpha 1 is --b. A point is a folder
that config.init, harmopower.evaluate and tools.export take, or an export. With --evaluate: `table.md` with a column a
point, `curve.csv` and `curve.png`, global against region measures. Nothing is written before both models fit.
"""

import argparse
import importlib.util
import sys

from harmopower import interpolation
from harmopower.data.tokenize import TokenizerError
from harmopower.errors import CommandError, UserError
from harmopower.interop import export, weights

CHANGES = {
    "suite": "evaluation.suite",
    "data": "evaluation.data",
    "source": "data.source",
    "tokenizer": "data.tokenizer",
    "batch_size": "evaluation.batch_size",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for errors of the user."""
    options = _parser().parse_args(arguments)
    try:
        run(options)
    except (UserError, TokenizerError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return 0


def run(options: argparse.Namespace) -> None:
    """Checks everything, writes the points, then evaluates them."""
    points = interpolation.alphas(options.alpha)
    weights.check_output(options.output)
    if options.evaluate and not importlib.util.find_spec("matplotlib"):
        raise CommandError("--evaluate draws a curve with matplotlib; install the extra `docs`")
    changes = {key: getattr(options, name) for name, key in CHANGES.items() if getattr(options, name) is not None}
    ends = interpolation.Ends(options.a, options.b, changes)
    if options.format:
        ends.check_format(options.format)
    if options.evaluate:
        interpolation.refuse_nothing_to_measure(ends.config)
    ends.write(options.output, points, options.format)
    if options.evaluate:
        _evaluate(ends, points, options)


def _evaluate(ends: interpolation.Ends, points: list[float], options: argparse.Namespace) -> None:
    patterns = options.global_metrics, options.region_metrics
    found = {alpha: ends.evaluate(options.output, alpha) for alpha in points}
    written = interpolation.write_tables(options.output, found)
    written += interpolation.write_curve(options.output, interpolation.curve(found, patterns), patterns)
    print("written: " + ", ".join(written))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.interpolate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--a", required=True, help="workdir or published weights at alpha 0")
    parser.add_argument("--b", required=True, help="workdir at alpha 1; its config is that of the points")
    parser.add_argument("--alpha", required=True, nargs="+", help="numbers from 0 to 1; ... counts on")
    parser.add_argument("--output", required=True, help="the new folder; earlier points there are replaced")
    parser.add_argument("--format", choices=tuple(export.FORMATS), default="", help="write exports, not checkpoints")
    parser.add_argument("--evaluate", action="store_true", help="measure every point; a table and a curve")
    parser.add_argument("--global-metrics", default=interpolation.GLOBAL, help="pattern; their mean is one axis")
    parser.add_argument("--region-metrics", default=interpolation.REGION, help="pattern; their mean is the other")
    for name, key in CHANGES.items():
        kind = int if name == "batch_size" else str
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"config.{key} in place of that of --b")
    return parser


if __name__ == "__main__":
    sys.exit(main())
