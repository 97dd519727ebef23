"""Prepares a data set from a published format, from own images and captions, or from the embedded scenes.

python -m tools.prepare scenes --output data/scenes
python -m tools.prepare jsonl --input photos.jsonl --output data/photos --test-fraction 0.05
python -m tools.prepare jsonl --help
"""

import argparse
import sys

from harmopower.data import readers, records, tokenize
from harmopower.data.preparing import checking, commands
from harmopower.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        return _fail(error, error.exit_code)
    except (records.DataSourceError, tokenize.TokenizerError, OSError) as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("stopped; what is done is kept: run the same command again", 130)
    return 0


def _fail(error: Exception | str, exit_code: int) -> int:
    print("tools.prepare: " + " ".join(str(error).split()), file=sys.stderr)
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = parser.add_subparsers(required=True, metavar="FORMAT")
    for name in readers.FORMATS:
        commands.add_format(names, name)
    checking.add_command(names)
    return parser


if __name__ == "__main__":
    sys.exit(main())
