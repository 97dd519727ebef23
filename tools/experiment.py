"""Runs a table of experiments, variants x data x seeds, as far as it is not there yet; and makes tables of its rows.

    python -m tools.experiment evidence --dry-run                        what is there and what is missing
    python -m tools.experiment evidence [--jobs 4] [--only 'scenes*']    runs what is missing; give it again to go on
    python -m tools.experiment evidence --tabulate                       docs/evidence/evidence.{md,csv,png} of the rows
    python -m tools.experiment evidence --steps 60 --seeds 0             a reduced try, whose rows stay in the workdir

NAME is a file of configs/experiments/, or the path of one. Each run is `python -m harmopower.train` in a workdir of its
own under --workdir; each that is done is a row of --rows. Ctrl-C, SIGTERM or a kill lose nothing: the same command goes
on. A run that fails is named and stops no other. --jobs runs at once share a GPU's memory.
"""

import argparse
from collections import Counter
import fnmatch
import hashlib
import importlib.util
import json
from pathlib import Path
import subprocess
import sys

from harmopower import command
from harmopower import config as configs
from harmopower import workdir as workdirs
from harmopower.data import records, sources
from harmopower.errors import CommandError, UserError
from harmopower.evaluation import report
from harmopower.experiments import plotting, tabulating
from harmopower.experiments import rows as rows_of
from harmopower.experiments import table as tables
from harmopower.experiments.place import Place
from harmopower.experiments.pool import Pool
from harmopower.experiments.table import Run, Table
from harmopower.settings import FREE
from harmopower.training.signals import StopSignal

TABLES, ROWS, WORKDIRS = Path("configs/experiments"), Path("docs/evidence"), Path("runs/experiments")
MARK = "<!-- made by tools.experiment; what is written here is replaced -->\n\n"
SOME_FAILED = 1


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 1 where runs failed, 2 for errors, 75 or 130 when stopped."""
    options = _parser().parse_args(arguments)
    try:
        return run(options)
    except (UserError, records.DataSourceError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return getattr(error, "exit_code", 2)


def run(options: argparse.Namespace) -> int:
    """Reads table and rows, then does what was asked."""
    path = _table_path(options.name)
    table, changes = tables.load(path), _changes(options)
    rows_path = _rows_path(options, path, changes)
    if options.tabulate:
        return _tabulate(table, path.stem, rows_path, options, changes)
    runs = table.runs(options.seeds, changes)
    chosen = _chosen(runs, options.only)
    place = Place(table, runs, options.workdir or WORKDIRS / path.stem)
    if options.dry_run:
        _show(chosen, place, rows_of.sort_out(rows_of.read(rows_path), runs), runs, rows_path)
        return 0
    with (
        workdirs.Lock(str(rows_path.parent), f"{rows_path.name}.lock", f"--rows {rows_path}") as lock,
        StopSignal() as stop,
    ):
        lock.take()
        return _run(table, runs, chosen, place, rows_path, options, stop)


def _run(table: Table, runs, chosen: list[Run], place: Place, path: Path, options, stop: StopSignal) -> int:
    found = rows_of.sort_out(rows_of.read(path), runs)
    if not options.redefined:
        rows_of.refuse_others(path, found, runs)
    wanted = [each for each in chosen if each.name not in found.current]
    _check_extras(wanted)
    _make_data(table, wanted)
    _check_data(wanted, found.current, path)
    print(f"{path}: {len(chosen) - len(wanted)} of {len(chosen)} rows are there", flush=True)
    say = lambda line: print(line, flush=True)
    outcome = Pool(wanted, runs, place, path, options.jobs, say).go(stop)
    for name, reason in outcome.failed.items():
        print(f"FAILED {name}: {reason}", file=sys.stderr)
    if outcome.stopped:
        print("stopped; the same command goes on")
        return stop.exit_code
    print(f"{path}: {len(chosen) - len(outcome.failed)} of {len(chosen)} rows are there")
    return SOME_FAILED if outcome.failed else 0


def _tabulate(table: Table, name: str, path: Path, options, changes: dict) -> int:
    """Writes the tables beside the rows; without --seeds those of all seeds that have rows."""
    found = rows_of.read(path)
    seeds = options.seeds or sorted({row["seed"] for row in found} | set(table.seeds))
    runs = {run.name: run for run in _chosen(table.runs(seeds, changes), options.only)}
    there = rows_of.sort_out(found, runs)
    if not options.redefined:
        rows_of.refuse_others(path, there, runs)
    rows_of.refuse_other_data(path, there.current)
    if not there.current:
        raise CommandError(f"{path} has no rows of this table; python -m tools.experiment {name} makes them")
    texts = {"md": MARK + tabulating.markdown(table, name, there.current, runs)}
    texts["csv"] = tabulating.as_csv(table, there.current)
    written = _write(path, texts)
    written += _draw(table, there.current, path.with_suffix(".png"))
    for other in there.others:
        print(f"{other}: its row is of another definition and left out")
    print("written: " + ", ".join(written))
    return 0


def _draw(table: Table, current: dict[str, dict], path: Path) -> list[str]:
    if not importlib.util.find_spec("matplotlib"):
        print("no picture: it is drawn with matplotlib; install the extra `docs`")
        return []
    picture = plotting.figure(table, current)
    if picture is None:
        print(f"no picture: there are no rows of {table.baselines[0]} yet")
        return []
    picture.savefig(path, dpi=120)
    return [str(path)]


def _write(rows: Path, texts: dict[str, str]) -> list[str]:
    page = rows.with_suffix(".md")
    if page.exists() and not page.read_text().startswith(MARK):
        raise CommandError(f"{page} is no table of ours; move it, or keep the rows elsewhere with --rows")
    for ending, text in texts.items():
        report.write_text(rows.with_suffix(f".{ending}"), text)
    return [str(rows.with_suffix(f".{ending}")) for ending in texts]


def _table_path(name: str) -> Path:
    return Path(name) if name.endswith(".py") else TABLES / f"{name}.py"


def _changes(options: argparse.Namespace) -> dict[str, object]:
    """The settings of the command line, of the types that the config has."""
    changes: dict[str, object] = {"total_steps": options.steps} if options.steps else {}
    defaults = configs.flat(configs.get_config().to_dict())
    for text in options.set:
        key, equals, value = text.partition("=")
        configs.check_key(key)
        if not equals:
            raise CommandError(f"--set {text}: write KEY=VALUE, such as mesh.platform=gpu")
        try:
            changes[key] = value if isinstance(defaults[key], str) else type(defaults[key])(json.loads(value.lower()))
        except ValueError as error:
            raise CommandError(f"--set {text}: {value!r} is no value of config.{key}") from error
    return changes


def _rows_path(options: argparse.Namespace, table: Path, changes: dict) -> Path:
    """Where the rows are: with the code, but for those of runs that the command line makes others."""
    others = {key: value for key, value in changes.items() if configs.SETTINGS[key].resumed != FREE}
    if options.rows:
        return Path(options.rows)
    if not others:
        return ROWS / f"{table.stem}.jsonl"
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:8]
    return Path(options.workdir or WORKDIRS / table.stem) / f"rows-{digest}.jsonl"


def _chosen(runs: dict[str, Run], patterns: list[str]) -> list[Run]:
    chosen = [each for name, each in runs.items() if any(fnmatch.fnmatchcase(name, one) for one in patterns or ["*"])]
    if not chosen:
        raise CommandError(f"--only {' '.join(patterns)} fits no run; they are called as {next(iter(runs))}")
    return chosen


def _show(chosen: list[Run], place: Place, found: rows_of.Sorted, runs: dict[str, Run], path: Path) -> None:
    states = {each.name: _state(each, place, found, runs) for each in chosen}
    for name, state in states.items():
        print(f"{name:40} {state}")
    counts = Counter(state.split(":")[0].split(",")[0] for state in states.values())
    print(f"{path}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if found.strangers:
        print(f"and {len(found.strangers)} runs that are not in the table, such as {found.strangers[0]}")


def _state(each: Run, place: Place, found: rows_of.Sorted, runs: dict[str, Run]) -> str:
    if each.name in found.current:
        return "there"
    if each.name in found.others:
        return f"of another definition: {rows_of.difference(found.others[each.name], runs[each.name])}"
    if holder := place.holder(each):
        return f"running: {holder}"
    step = place.step(each)
    return f"begun, step {step} of {each.steps}" if step else "missing"


def _check_extras(wanted: list[Run]) -> None:
    if any(each.alpha is not None for each in wanted) and not importlib.util.find_spec("matplotlib"):
        raise CommandError("weights between two models are drawn with matplotlib; install the extra `docs`")


def _make_data(table: Table, wanted: list[Run]) -> None:
    """Makes the data that are missing and that we can make; all that the user has to make is named at once."""
    used = {each.data: Path(str(each.changes["data.source"])) for each in wanted if each.alpha is None}
    missing = {name: source for name, source in used.items() if not _is_there(source)}
    by_hand = [f"{source}: {table.data[name].by_hand}" for name, source in missing.items() if table.data[name].by_hand]
    if by_hand:
        names = ", ".join(name for name in missing if table.data[name].by_hand)
        raise CommandError(f"data are missing; make {'; '.join(by_hand)}. Or leave {names} out with --only")
    for words in dict.fromkeys(table.data[name].prepare for name in missing if table.data[name].prepare):
        if subprocess.run([sys.executable, "-m", "tools.prepare", *words.split()]).returncode:
            raise CommandError(f"python -m tools.prepare {words} failed, see above")


def _is_there(source: Path) -> bool:
    try:
        return bool(records.splits(source))
    except records.DataSourceError:
        return False


def _check_data(wanted: list[Run], current: dict[str, dict], path: Path) -> None:
    """Refuses data with other contents than those that the rows there are made of, before anything runs."""
    prints: dict[str, dict] = {}
    for each in wanted:
        if each.alpha is None and each.data not in prints:
            config = configs.get_config()
            config.update_from_flattened_dict({k: v for k, v in each.changes.items() if k.startswith("data.")})
            prints[each.data] = sources.fingerprint(config.data)
    for row in current.values():
        now = prints.get(row["data"], row["data_fingerprint"])
        if now != row["data_fingerprint"]:
            raise CommandError(
                f"{path}: {row['run']} was made with data of the fingerprint {row['data_fingerprint']}, but those of "
                f"{row['data']!r} here have {now}; put the data back, or begin other rows with --rows"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.experiment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help="a table of configs/experiments, or the path of such a file")
    parser.add_argument("--dry-run", action="store_true", help="list what is there and what is missing; run nothing")
    parser.add_argument("--tabulate", action="store_true", help="make tables of the rows that are there; run nothing")
    parser.add_argument(
        "--jobs", type=command.positive, default=1, metavar="N", help="runs at once (default %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PATTERN", help="runs whose names fit, such as '*lrc*'"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=(), help="in place of those of the table")
    parser.add_argument(
        "--steps", type=command.positive, default=0, help="in place of total_steps: another, reduced table"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all runs over all others"
    )
    parser.add_argument("--redefined", action="store_true", help="leave rows of another definition, make them anew")
    parser.add_argument("--rows", help="file of the rows (default: docs/evidence/NAME.jsonl)")
    parser.add_argument("--workdir", help="folder of the runs' workdirs (default: runs/experiments/NAME)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
