"""`tools.annotate KIND`: what the command line of every kind shares, and the way through plan, tasks and join."""

import argparse
from pathlib import Path
import sys

from harmopower.data import annotations, files, jobs
from harmopower.data.annotations import making, overlays, protocol
from harmopower.data.preparing import commands as preparing
from harmopower.data.preparing import plan as plans
from harmopower.data.preparing import progress
from harmopower.errors import CommandError

# Options of every kind; all others are the kind's own, on which its lines depend.
_SHARED = {"data", "name", "annotations", "mode", "limit", "force", "workers", "share", "join", "ray", "run", "kind"}


def add_kind(commands, name: str) -> None:
    """Adds the command of a kind to the sub-parsers of argparse."""
    kind = annotations.annotator_class(name)
    module = sys.modules[kind.__module__]
    parser = commands.add_parser(
        name,
        help=(kind.__doc__ or name).splitlines()[0],
        description=module.__doc__,
        epilog=f"example:\n  {kind.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kind.add_options(parser)
    _add_overlay(parser.add_argument_group("the overlay"), kind)
    preparing.add_where(parser, workers=1)
    parser.set_defaults(run=run, kind=name)


def _add_overlay(group, kind: type[protocol.Annotator]) -> None:
    group.add_argument("--data", type=Path, required=True, help="folder of a prepared data set; it is only read")
    group.add_argument("--name", required=True, help="of the overlay, for config.data.annotations")
    group.add_argument(
        "--annotations", default="", metavar="NAMES", help="overlays to lay over the data first, comma-separated"
    )
    made = " and ".join(kind.makes)
    group.add_argument(
        "--mode",
        choices=overlays.MODES,
        default=kind.mode,
        help=f"whether its {made} take the place of the records' own or are added to them (default %(default)s)",
    )
    group.add_argument("--limit", type=int, default=0, metavar="N", help="a try with N records of each split")
    group.add_argument("--force", action="store_true", help="make it anew, whatever overlay has that name")


def run(options: argparse.Namespace) -> None:
    """Makes an overlay as the command line says.

    Raises:
      UserError: it cannot be made; one line.
    """
    _check(options)
    where = jobs.Where(options.workers, preparing.parse_share(options.share), options.ray)
    own = {name: value for name, value in vars(options).items() if name not in _SHARED}
    settings = making.Settings(options.kind, own, options.mode, options.annotations, options.limit)
    folder = overlays.folder(options.data, options.name)
    settings.annotator().check()
    plan = making.make_plan(options.data, settings)
    info = files.read_json(folder / overlays.INFO)
    if not options.force and info is not None and info["plan"] == plan.digest:
        making.remove_parts(folder)
        return print(f"{folder} is made already")
    _start(options, folder, plan)
    if not options.join:
        _work(options.data, folder, plan, where)
    if options.share:
        return print(f"share {options.share} of {folder} is done; when all are, run it with --join")
    _report(folder, making.join(options.data, options.name, plan), plan)


def _check(options: argparse.Namespace) -> None:
    if not options.name.replace("_", "").replace("-", "").replace(".", "").isalnum() or options.name.startswith("."):
        raise CommandError(f"--name is {options.name!r}; use letters, digits, points, - and _: it becomes a folder")
    if options.limit < 0:
        raise CommandError(f"--limit is {options.limit}; it must be at least 0")
    if options.name in overlays.parse_names(options.annotations):
        raise CommandError(f"--name {options.name} is one of --annotations {options.annotations}; choose another name")


def _start(options: argparse.Namespace, folder: Path, plan: plans.Plan) -> None:
    """Makes the folder ready for this plan; what another one has left there is removed only if that is meant."""
    making_folder = folder / making.FOLDER
    old, new = files.read_json(making_folder / making.PLAN), plan.to_json()
    is_made = (folder / overlays.INFO).exists()
    if (old is not None or is_made) and (options.force or old != new):
        _refuse_to_replace(options, folder, old, new)
        _remove(folder)
    making_folder.mkdir(parents=True, exist_ok=True)
    if not (making_folder / making.PLAN).exists():
        files.write_json(making_folder / making.PLAN, new)
    elif any(making_folder.glob("0*.json")):
        print(f"{folder}: what is done already stays", flush=True)


def _refuse_to_replace(options: argparse.Namespace, folder: Path, old: dict | None, new: dict) -> None:
    changed = _differences((old or {}).get("settings", {}), new["settings"])
    if options.share or options.join:
        raise CommandError(
            f"{folder} holds another overlay ({changed}); shares run at the same time and cannot replace it: choose "
            "another --name or remove it"
        )
    if not options.force:
        raise CommandError(f"{folder} holds another overlay ({changed}); choose another --name, or --force")


def _differences(old: dict, new: dict) -> str:
    before, after = ({**plan.get("options", {}), **plan} for plan in (old, new))
    names = [name for name in after if name != "options" and before.get(name) != after[name]]
    return ", ".join(f"{name} {before.get(name)!r} -> {after[name]!r}" for name in names) or "of data that have changed"


def _remove(folder: Path) -> None:
    # The file that makes it an overlay goes first: what is left after a kill is not taken for one.
    (folder / overlays.INFO).unlink(missing_ok=True)
    for path in [*folder.glob("*.array_record"), *(folder / making.FOLDER).glob("*")]:
        path.unlink()


def _work(data: Path, folder: Path, plan: plans.Plan, where: jobs.Where) -> None:
    work = making.Work(str(data.absolute()), str(folder.absolute()), plan.digest)
    numbers = range(where.share[0], len(plan.tasks), where.share[1])
    todo = set(jobs.missing(folder / making.FOLDER, len(plan.tasks), where.share))
    total = sum(plan.tasks[number].bytes for number in numbers)
    done = sum(plan.tasks[number].bytes for number in numbers if number not in todo)
    with progress.Progress(folder.name, total, done, len(numbers), len(numbers) - len(todo)) as shown:
        for number, report in jobs.run(folder / making.FOLDER, work, len(plan.tasks), where):
            shown.advance(plan.tasks[number].bytes, report["examples"])


def _report(folder: Path, info: dict, plan: plans.Plan) -> None:
    for reason, name, text in info["named"]:
        print(f"{reason}: {name}: {text}", file=sys.stderr)
    for line in annotations.annotator_class(info["kind"]).summary(info["counts"]):
        print(line)
    if info["left_out"]:
        print("left out: " + ", ".join(f"{reason} {count}" for reason, count in info["left_out"].items()))
    seconds = sum(report["seconds"] for report in jobs.reports(folder / making.FOLDER, len(plan.tasks)))
    examples = sum(part["examples"] for part in info["splits"].values())
    sizes = ", ".join(f"{split} {part['examples']}" for split, part in info["splits"].items())
    size = sum(path.stat().st_size for path in folder.glob("*.array_record"))
    print(
        f"{examples / max(seconds, 1e-9):.0f} records a second and core, {size / max(examples, 1):.0f} bytes a record"
    )
    print(f"{folder}: {sizes} records; lay it over them with config.data.annotations={folder.name}")
