"""`tools.annotate compare`: how well the phrases of an overlay agree with those that the records have.

Recall is the share of the records' phrases that the overlay has too, precision the share of the overlay's that the
records have; a span counts as the same where both ends are, and with its label where the label is too.
"""

import argparse
import collections
from pathlib import Path

from harmopower.data import records
from harmopower.data.annotations import overlays
from harmopower.data.preparing import progress
from harmopower.errors import CommandError


def add_command(commands) -> None:
    """Adds the command to the sub-parsers of argparse."""
    parser = commands.add_parser(
        "compare",
        help="precision and recall of an overlay's phrases against the records' own",
        description=__doc__,
        epilog="example:\n  python -m tools.annotate compare --data data/scenes --annotations spacy --split train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of a prepared data set with phrases")
    parser.add_argument("--annotations", required=True, metavar="NAMES", help="overlays, comma-separated")
    parser.add_argument("--split", default="train", help="or a slice of one, as train[:1000] (default %(default)s)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="records at most (default: all)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints the figures.

    Raises:
      UserError: there is nothing to compare.
    """
    found = compare(options.data, options.split, options.annotations, options.limit)
    for name in ("spans", "spans and labels"):
        both, ours, theirs = (found[name, part] for part in ("both", "overlay", "records"))
        if not (ours and theirs):
            raise CommandError(
                f"{options.data} {options.split}: {theirs} phrases in the records, {ours} in the overlay"
            )
        print(
            f"{name}: precision {both / ours:.1%} ({both} of {ours}), recall {both / theirs:.1%} ({both} of {theirs})"
        )
    for label in sorted(label for kind, label in found if kind == "label"):
        print(f"recall of {label}: {found['found', label] / found['label', label]:.1%} of {found['label', label]}")


def compare(directory, split: str, names: str, limit: int = 0) -> collections.Counter:
    """Counts of phrases: in the records, in the overlay, in both."""
    found: collections.Counter = collections.Counter()
    plain, overlaid = records.read(directory, split), overlays.read(directory, split, names)
    for index in progress.tracked(range(min(len(plain), limit or len(plain))), "comparing"):
        theirs, ours = _spans(plain[index]), _spans(overlaid[index])
        for name, (one, other) in {
            "spans": (ours.keys(), theirs.keys()),
            "spans and labels": (ours.items(), theirs.items()),
        }.items():
            found.update({(name, "overlay"): len(one), (name, "records"): len(other), (name, "both"): len(one & other)})
        found.update(("label", label) for label in theirs.values())
        found.update(("found", theirs[span]) for span in theirs.keys() & ours.keys())
    return found


def _spans(example: records.Example) -> dict[tuple[int, int, int], str]:
    return {(part["caption"], part["start"], part["end"]): part["label"] for part in example["phrases"]}
