"""`tools.prepare FORMAT`: what the command line of every format shares, and the way through plan, tasks and join."""

import argparse
import dataclasses
from pathlib import Path
import sys

from harmopower.data import files, images, jobs, readers, tokenize
from harmopower.data.preparing import FOLDER, guards, identities, joining, progress, screening, showing, tasks
from harmopower.data.preparing import plan as plans
from harmopower.data.readers import protocol
from harmopower.errors import CommandError

# Options of every format: those of `screening.Settings`, and these, on which no shard depends.
_OWN = {"output", "workers", "share", "join", "ray", "tokenizer", "vocab_size", "max_bad", "strict", "force", "dry_run"}
_SHARED = {field.name for field in dataclasses.fields(screening.Settings)}
_MADE = ("dataset_info.json", joining.SUMMARY, "features.json", "metadata.json", tokenize.FILE_NAME)


def add_format(commands, name: str) -> None:
    """Adds the command of a format to the sub-parsers of argparse."""
    kind = readers.reader_class(name)
    module = sys.modules[kind.__module__]
    parser = commands.add_parser(
        name,
        help=(kind.__doc__ or name).splitlines()[0],
        description=module.__doc__,
        epilog=f"example:\n  {kind.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kind.add_options(parser)
    _add_images(parser.add_argument_group("samples and images"))
    _add_output(parser.add_argument_group("the data set"), kind)
    add_where(parser, kind.workers)
    parser.set_defaults(run=run, format=name)


def _add_images(group) -> None:
    group.add_argument(
        "--shortest-side",
        type=int,
        default=0,
        metavar="PIXELS",
        help="re-encode images as JPEG with this shorter side, never enlarged (default: images stay as they are)",
    )
    group.add_argument("--quality", type=int, default=images.QUALITY, help="of re-encoded JPEGs (default %(default)s)")
    group.add_argument(
        "--exclude", metavar="FILE", default="", help="ids or SHA-256 of image bytes to leave out, one a line"
    )
    group.add_argument("--guard", nargs="+", default=[], metavar="NAME=FILE", help=guards.help_text())
    group.add_argument("--drop-bad-boxes", action="store_true", help="a bad box costs the box, not the pair")
    group.add_argument("--limit", type=int, default=0, metavar="N", help="a try with N examples of each split")
    group.add_argument("--strict", action="store_true", help="the first sample that cannot be used ends the job")
    group.add_argument(
        "--max-bad",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="fail where more of the samples than this share cannot be used, 0 to 1 (default %(default)s)",
    )


def _add_output(group, kind: type[protocol.Reader]) -> None:
    group.add_argument("--output", type=Path, required=True, help="folder of the data set, for config.data.source")
    group.add_argument(
        "--tokenizer",
        default="train",
        help="train (on at most a million captions), clip, hf:NAME, or a tokenizer.json (default %(default)s)",
    )
    group.add_argument(
        "--vocab-size", type=int, default=kind.vocab_size, help="tokens of a trained one at most (default %(default)s)"
    )
    group.add_argument("--force", action="store_true", help="make it anew, whatever data set the folder holds")
    group.add_argument(
        "--dry-run", action="store_true", help="say what would be read, show three examples, write nothing"
    )


def add_where(parser: argparse.ArgumentParser, workers: int) -> None:
    """Adds what says where a job runs; `workers` is the default."""
    group = parser.add_argument_group("where it runs")
    group.add_argument("--workers", type=int, default=workers, help="processes on this machine (default %(default)s)")
    group.add_argument(
        "--share", metavar="I/N", help="only the I-th of N shares of the work, from 0 (array jobs); then --join"
    )
    group.add_argument("--join", action="store_true", help="make the data set of shares that are done")
    group.add_argument("--ray", default="", metavar="ADDRESS", help="on a Ray cluster that sees the same folders")


def run(options: argparse.Namespace) -> None:
    """Prepares a data set as the command line says.

    Raises:
      UserError: it cannot be; one line.
    """
    _check(options)
    where = jobs.Where(options.workers, parse_share(options.share), options.ray)
    settings = screening.Settings(**{name: getattr(options, name) for name in _SHARED})
    reader = readers.reader_class(options.format)(options)
    plan = _plan(reader, options, settings)
    if options.dry_run:
        return showing.dry_run(reader, plan, settings)
    finish = joining.Finish(options.tokenizer, options.vocab_size, options.max_bad)
    if _is_done(options, plan, finish):
        return print(f"{options.output} is prepared already")
    _start(options, plan)
    if not options.join:
        _work(options, plan, reader, where)
    if options.share:
        return print(f"share {options.share} of {options.output} is done; when all are, run it with --join")
    jobs.refuse_missing(options.output / FOLDER, len(plan.tasks))
    if identities.settle(options.output / FOLDER, len(plan.tasks)):
        _work(options, plan, reader, where)
    showing.report(options.output, joining.join(options.output, plan, reader, finish))


def _check(options: argparse.Namespace) -> None:
    least = {"vocab_size": tokenize.MIN_VOCAB_SIZE, "shortest_side": 0, "limit": 0, "quality": 1, "workers": 1}
    for name, limit in least.items():
        if getattr(options, name) < limit:
            flag = name.replace("_", "-")
            raise CommandError(f"--{flag} is {getattr(options, name)}; it must be at least {limit}")
    if options.quality > 100:
        raise CommandError(f"--quality is {options.quality}; it must be at most 100")
    if not 0 <= options.max_bad <= 1:
        raise CommandError(f"--max-bad is {options.max_bad}; it must be a share between 0 and 1")
    for guard in options.guard:
        guards.read(guard)  # now, not after hours of work
    if options.output.is_file():
        raise CommandError(f"--output {options.output} is a file; name a folder")
    if options.tokenizer != "train":
        _try_tokenizer(options)  # now, not after hours of work


def _try_tokenizer(options: argparse.Namespace) -> None:
    try:
        tokenize.Tokenizer.load(options.tokenizer, options.output)
    except tokenize.TokenizerError as error:  # here its key is an option
        raise CommandError(str(error).replace("config.data.tokenizer", "--tokenizer")) from error


def parse_share(text: str | None) -> tuple[int, int]:
    """`--share I/N` as two numbers; 0 and 1, which is all, where it was not given.

    Raises:
      CommandError: it is not written so.
    """
    if text is None:
        return 0, 1
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise CommandError(f"--share is {text!r}; it must be like 3/16, the first of 16 being 0/16")
    return int(index), int(count)


def _plan(reader: protocol.Reader, options: argparse.Namespace, settings: screening.Settings) -> plans.Plan:
    own = {name: value for name, value in vars(options).items() if name not in _OWN | _SHARED | {"run", "format"}}
    # Readers may look at the shared options too, as some do for boxes.
    values = {
        "format": options.format,
        "options": own | dataclasses.asdict(settings),
        "screening": dataclasses.asdict(settings),
        "excluded": protocol.fingerprint([settings.exclude])[1] if settings.exclude else "",
        "guarded": [protocol.fingerprint([guard.partition("=")[2]])[1] for guard in settings.guard],
    }
    if "input" in own:
        values["options"]["input"] = [f"{split}={path}" for split, path in reader.inputs]
    return plans.make(reader.units(), values, shard_bytes=reader.shard_bytes, together=bool(settings.limit))


def _is_done(options: argparse.Namespace, plan: plans.Plan, finish: joining.Finish) -> bool:
    made = files.read_json(options.output / joining.SUMMARY) or {}
    wanted = {
        "settings": plan.settings,
        "inputs": plan.inputs,
        "tokenizer": finish.tokenizer,
        "vocab_size": finish.vocab_size,
    }
    is_whole = (options.output / "dataset_info.json").exists()
    return not options.force and is_whole and wanted.items() <= made.items()


def _start(options: argparse.Namespace, plan: plans.Plan) -> None:
    """Makes the folder ready for this plan: what another one has left there is removed, if that is meant."""
    folder = options.output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    old, new = files.read_json(folder / tasks.PLAN), plan.to_json()
    there = old is not None or (options.output / "dataset_info.json").exists()
    if there and (options.force or old != new):
        _refuse_to_replace(options, old, new)
        _remove(options.output)
    elif there:
        (options.output / "dataset_info.json").unlink(missing_ok=True)
        if any(jobs.report_path(folder, number).exists() for number in range(len(plan.tasks))):
            print(f"{options.output}: shards that are done already stay", flush=True)
    folder.mkdir(exist_ok=True)
    if old != new or not (folder / tasks.PLAN).exists():
        files.write_json(folder / tasks.PLAN, new)


def _refuse_to_replace(options: argparse.Namespace, old: dict | None, new: dict) -> None:
    """Replacing is meant where the same inputs are asked for in another way, or have changed, or with `--force`."""
    changed = _differences(old or {}, new)
    same = old is not None and _asked_for(old) == _asked_for(new)
    if options.share or options.join:
        raise CommandError(
            f"{options.output} holds another data set ({changed}); shares run at the same time and cannot replace it: "
            "choose another --output or remove it"
        )
    if old is not None and _came_to_nothing(options.output, old):
        return print(f"{options.output} is of a preparation that found no sample; making it anew", flush=True)
    if _is_former(options):
        return print(f"{options.output} was made by a former version of this command; making it anew", flush=True)
    if not options.force and not same:
        raise CommandError(f"{options.output} holds another data set ({changed}); choose another --output, or --force")
    print(f"{options.output} was prepared with {changed}; preparing it again", flush=True)


def _came_to_nothing(output: Path, plan: dict) -> bool:
    """Whether all of that plan was done without one example, as after a wrong `--input`: nothing is lost with it."""
    folder, count = output / FOLDER, len(plan["tasks"])
    if (output / "dataset_info.json").exists() or jobs.missing(folder, count):
        return False
    return not any(report["examples"] for report in jobs.reports(folder, count))


def _is_former(options: argparse.Namespace) -> bool:
    """Whether the folder holds scenes of the versions before plans, which anybody can draw again.

    Of other formats of then the inputs may be gone: those are refused without `--force`, as all that is not known.
    """
    made = files.read_json(options.output / joining.SUMMARY)
    is_scenes = isinstance(made, dict) and made.get("command") == "scenes"
    return is_scenes and options.format == "scenes" and not (options.output / FOLDER / tasks.PLAN).exists()


def _asked_for(plan: dict) -> tuple:
    settings = plan["settings"]
    return settings["format"], settings["options"].get("input")


def _differences(old: dict, new: dict) -> str:
    before = old.get("settings", {})
    found = []
    if not before:
        return "other settings"
    for name, value in (new["settings"]["options"] | {"format": new["settings"]["format"]}).items():
        was = before["options"].get(name) if name != "format" else before["format"]
        if was != value:
            found.append(f"{name} {was} -> {value}")
    if not found and (old["inputs"] != new["inputs"] or before != new["settings"]):
        found.append("inputs that have changed since")
    return ", ".join(found) or "the same settings"


def _remove(output: Path) -> None:
    # The file that makes it a data set goes first: what is left after a kill is not taken for one.
    for name in _MADE:
        (output / name).unlink(missing_ok=True)
    for path in [*output.glob("*.array_record-*"), *(output / FOLDER).iterdir()]:
        path.unlink()


def _work(options: argparse.Namespace, plan: plans.Plan, reader: protocol.Reader, where: jobs.Where) -> None:
    folder = options.output / FOLDER
    work = tasks.Work(str(options.output.absolute()), plan.digest, reader.shard_bytes, options.strict)
    numbers = range(where.share[0], len(plan.tasks), where.share[1])
    todo = set(jobs.missing(folder, len(plan.tasks), where.share))
    total = sum(plan.tasks[number].bytes for number in numbers)
    done = sum(plan.tasks[number].bytes for number in numbers if number not in todo)
    with progress.Progress(f"{options.output}", total, done, len(numbers), len(numbers) - len(todo)) as shown:
        for number, report in jobs.run(folder, work, len(plan.tasks), where):
            shown.advance(plan.tasks[number].bytes, report["examples"])
