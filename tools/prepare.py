"""Prepares a data set: the embedded scenes, or own images and captions, with a tokenizer trained on the captions.

python -m tools.prepare scenes --output data/scenes
python -m tools.prepare jsonl --input photos.jsonl --output data/photos --test-fraction 0.05
"""

import argparse
import json
from pathlib import Path
import sys
import time

import rich.progress
import tensorflow_datasets as tfds

from harmopower.data import records, tokenize
from harmopower.data.readers import jsonl
from harmopower.data.scenes import builder as scenes

_DONE = "prepared.json"  # written last, with the settings: a folder without it is not finished
_SHOWN = 20  # bad lines that are printed; all are counted


class PrepareError(ValueError):
    """What the user asked for cannot be done; one clear line."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for errors of the user."""
    options = _parser().parse_args(arguments)
    try:
        _refuse_below({"vocab_size": options.vocab_size}, vocab_size=tokenize.MIN_VOCAB_SIZE)
        options.run(options)
    except (PrepareError, records.DataSourceError, tokenize.TokenizerError, OSError) as error:
        print(f"tools.prepare: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="{scenes,jsonl}")
    command = _add_command(
        commands,
        "scenes",
        "rendered scenes with captions, boxes and parse trees",
        _run_scenes,
        "python -m tools.prepare scenes --output data/scenes --train 20000",
        vocab_size=1024,
    )
    command.add_argument("--train", type=int, default=20_000, help="training scenes (default %(default)s)")
    command.add_argument("--test", type=int, default=1024, help="test scenes (default %(default)s)")
    command.add_argument(
        "--test-unseen",
        type=int,
        default=512,
        help="test scenes of colour-shape pairs that training never shows (default %(default)s)",
    )
    command.add_argument("--seed", type=int, default=0, help="same seed, same scenes (default %(default)s)")
    command.add_argument("--image-size", type=int, default=64, help="side in pixels (default %(default)s)")
    command = _add_command(
        commands,
        "jsonl",
        "own images and captions, one JSON object a line",
        _run_jsonl,
        "python -m tools.prepare jsonl --input photos.jsonl --output data/photos\n\n" + jsonl.__doc__,
        vocab_size=16_384,
    )
    command.add_argument("--input", type=Path, required=True, help="the file of JSON lines")
    command.add_argument(
        "--test-fraction", type=float, default=0.0, help="share of the images for the split test (default %(default)s)"
    )
    return parser


def _add_command(commands, name: str, text: str, run, example: str, vocab_size: int) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("--output", type=Path, required=True, help="folder of the data set, for config.data.source")
    command.add_argument(
        "--vocab-size", type=int, default=vocab_size, help="tokens of the tokenizer at most (default %(default)s)"
    )
    return command


def _run_scenes(options: argparse.Namespace) -> None:
    sizes = {name: getattr(options, name) for name in ("train", "test", "test_unseen", "image_size", "seed")}
    _refuse_below(sizes, train=1, test=0, test_unseen=0, image_size=16, seed=0)
    settings = {"command": "scenes", **sizes, "vocab_size": options.vocab_size}
    if _is_done(options.output, settings):
        return
    print(f"preparing {sizes['train']} training scenes of {sizes['image_size']} px in {options.output}", flush=True)
    start = time.monotonic()
    if not sys.stdout.isatty():
        tfds.disable_progress_bar()
    scenes.prepare(options.output, **sizes)
    _finish(options, settings, start)


def _refuse_below(values: dict[str, int], **least: int) -> None:
    for name, limit in least.items():
        if values[name] < limit:
            raise PrepareError(f"--{name.replace('_', '-')} is {values[name]}; it must be at least {limit}")


def _run_jsonl(options: argparse.Namespace) -> None:
    if not options.input.is_file():
        raise PrepareError(f"--input {options.input} is not a file")
    if not 0 <= options.test_fraction < 1:
        raise PrepareError(f"--test-fraction is {options.test_fraction}; it must be at least 0 and below 1")
    status = options.input.stat()
    settings = {
        "command": "jsonl",
        "input": str(options.input.resolve()),
        "bytes": status.st_size,
        "changed": status.st_mtime,
        "test_fraction": options.test_fraction,
        "vocab_size": options.vocab_size,
    }
    if _is_done(options.output, settings):
        return
    start = time.monotonic()
    bad = _write_jsonl(options)
    lines = jsonl.count(options.input)
    if bad == lines:
        raise PrepareError(f"none of the {lines} lines of {options.input} can be used")
    print(f"{lines - bad} of {lines} lines used, {bad} left out")
    _finish(options, settings, start)


def _write_jsonl(options: argparse.Namespace) -> int:
    """Writes the splits and returns the number of lines that could not be used, after naming them."""
    bad = 0

    def report(error: jsonl.LineError) -> None:
        nonlocal bad
        bad += 1
        if bad <= _SHOWN:
            print(f"{options.input}: {error}", file=sys.stderr)
        if bad == _SHOWN:
            print("further bad lines are counted only", file=sys.stderr)

    splits = {"train": _track(jsonl.examples(options.input, "train", options.test_fraction, report), "train")}
    if options.test_fraction:
        splits["test"] = _track(jsonl.examples(options.input, "test", options.test_fraction, report), "test")
    records.write(options.output, splits, name="own", metadata={"classes": jsonl.classes(options.input)})
    return bad


def _track(examples, text: str):
    return rich.progress.track(examples, description=text, total=None, disable=not sys.stdout.isatty())


def _is_done(output: Path, settings: dict) -> bool:
    """Whether the folder was finished with the same settings; if not, it is marked as unfinished."""
    mark = output / _DONE
    found = _read_settings(mark)
    if found == settings:
        print(f"{output} is prepared already")
        return True
    if found:
        changed = [f"{key} {found.get(key)} -> {value}" for key, value in settings.items() if found.get(key) != value]
        print(f"{output} was prepared with other settings ({', '.join(changed)}); preparing it again", flush=True)
    mark.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    return False


def _read_settings(mark: Path) -> dict:
    try:
        return json.loads(mark.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _finish(options: argparse.Namespace, settings: dict, start: float) -> None:
    source = records.read(options.output, "train")
    captions = (caption for example in source for caption in example["captions"])
    tokenizer = tokenize.Tokenizer.train(captions, options.vocab_size, options.output / tokenize.FILE_NAME)
    (options.output / _DONE).write_text(json.dumps(settings, indent=1))
    print(
        f"{options.output}: {len(source)} training examples, a tokenizer of {tokenizer.vocab_size} tokens, "
        f"{time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
