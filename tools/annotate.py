"""Makes annotations of a prepared data set: parse trees, regions, and which words name which region.

They lie beside the records as overlays (docs/annotations.md) and are used with config.data.annotations=NAME,NAME.

python -m tools.annotate parses --data data/photos --name spacy --workers 8
python -m tools.annotate regions --data data/photos --name sam --source sam:facebook/sam-vit-base --limit 100
python -m tools.annotate grounding --data data/photos --name grounding --annotations spacy --model grounding-dino
python -m tools.annotate match --data data/coco --name match
python -m tools.annotate parses --help
"""

import argparse
import sys

from harmopower.data import annotations, records
from harmopower.data.annotations import commands, comparing
from harmopower.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        return _fail(error, error.exit_code)
    except (records.DataSourceError, OSError) as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("stopped; what is done is kept: run the same command again", 130)
    return 0


def _fail(error: Exception | str, exit_code: int) -> int:
    print("tools.annotate: " + " ".join(str(error).split()), file=sys.stderr)
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.annotate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = parser.add_subparsers(required=True, metavar="KIND")
    for name in annotations.KINDS:
        commands.add_kind(names, name)
    comparing.add_command(names)
    return parser


if __name__ == "__main__":
    sys.exit(main())
