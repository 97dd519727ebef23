"""Shows what is in a data set: numbers on the terminal, examples on a page, or the batch that training will see.

    python -m tools.inspect --data data/photos
    python -m tools.inspect --data data/photos --annotations spacy,grounding --html page.html --limit 20000
    python -m tools.inspect --config configs/own.py --config.data.source=data/photos --batch 0 --html batch.html

Reads only. The context length, the tokenizer and the rest of --config are the run's; without it the defaults count.
"""

import json
import math
from pathlib import Path
import sys

from absl import flags, logging
from ml_collections import config_flags
import numpy as np
import rich.console
import rich.table

from harmopower import command
from harmopower import config as configs
from harmopower.data import files, records, transforms
from harmopower.data.annotations import overlays
from harmopower.data.inspecting import batches, cards, choosing, page, statistics
from harmopower.data.preparing import progress
from harmopower.data.tokenize import Tokenizer
from harmopower.errors import CommandError, ConfigError

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; its data and context length are looked at.")
DATA = flags.DEFINE_string("data", None, "Folder of a prepared data set; in place of config.data.source.")
SPLIT = flags.DEFINE_string("split", None, "Its split; in place of config.data.split.")
ANNOTATIONS = flags.DEFINE_string("annotations", None, "Overlays, comma-separated; for config.data.annotations.")
HTML = flags.DEFINE_string("html", None, "Write a page of examples to this file.")
SAMPLES = flags.DEFINE_integer("samples", 200, "Examples on the page.", lower_bound=1)
LIMIT = flags.DEFINE_integer("limit", 100_000, "Records looked at, evenly spread; 0 for all.", lower_bound=0)
SEED = flags.DEFINE_integer("seed", 0, "Of the choice of examples for the page.", lower_bound=0)
JSON = flags.DEFINE_bool("json", False, "Print one JSON object.")
BATCH = flags.DEFINE_integer("batch", None, "Show the batch of this step of the run of --config.", lower_bound=0)


def main(argv: list[str]) -> None:
    """Looks, and prints or writes what is asked for."""
    command.refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    config = settings()
    if HTML.value and not Path(HTML.value).absolute().parent.is_dir():
        raise CommandError(f"--html {HTML.value}: the folder {Path(HTML.value).parent} does not exist")
    try:
        if BATCH.value is None:
            inspect_data(config.data)
        else:
            inspect_batch(config, BATCH.value)
    except records.DataSourceError as error:
        raise CommandError(str(error)) from error


def settings():
    """The config of the run, or the defaults, with what the flags say of the data."""
    config = command.loaded_config(CONFIG.value) if CONFIG.value else configs.get_config()
    for flag, key in ((DATA, "source"), (SPLIT, "split"), (ANNOTATIONS, "annotations")):
        if flag.value is not None:
            config.data[key] = flag.value
    if not config.data.source and BATCH.value is None:
        raise ConfigError("--data is missing; --help shows an example")
    return config


def inspect_data(data) -> None:
    """Numbers of a split, and its page."""
    tokenizer = Tokenizer.load(data.tokenizer, data.source, data.clean_text)
    source = overlays.read(data.source, data.split, data.annotations)
    found = statistics.Statistics(tokenizer, data.context_length, round(math.prod(transforms.shape_of(data)) ** 0.5))
    chosen = choosing.Chosen(SAMPLES.value, SEED.value)
    count = min(len(source), LIMIT.value or len(source))
    for index in progress.tracked(np.linspace(0, len(source) - 1, count).round().astype(int).tolist(), "looking"):
        example = source[index]
        chosen.show(index, found.add(example), len(example["regions"]))
    name = f"{data.source} {data.split}" + (f" with {ANNOTATIONS.value}" if ANNOTATIONS.value else "")
    summary = {"data": name, "records": len(source)} | found.summary()
    show(summary)
    if HTML.value:
        made = (cards.of_example(source[index], tokenizer, data.context_length) for index in chosen.indices())
        facts = [
            *statistics.counts(summary),
            *((row[0], f"mean {row[1]}, median {row[3]}, most {row[5]}") for row in statistics.rows(summary)),
        ]
        write(page.render(made, name, facts))


def inspect_batch(config, step: int) -> None:
    """The page of a batch, as the run would have it on one host."""
    from harmopower import runs  # with jax, which the rest does not need

    if not (CONFIG.value and HTML.value):
        raise CommandError("--batch needs --config, the run's, and --html, where to write the page")
    tokenizer, found = runs.open_data(config)
    batch, ids = found.batch(step), found.ids(step)
    kinds = {name: f"{values.dtype} {list(values.shape)}" for name, values in batch.items()}
    counts = {
        "rows that cannot be used": int((batch["weight"] == 0).sum()),
        "captions cut": int(batch["cut"].sum()),
        "regions": int(batch["box_valid"].sum()),
        "regions with a phrase": int((batch["box_phrase"] >= 0).sum()),
        "phrases": int(batch["phrases"].any(axis=2).sum()),
    }
    if JSON.value:
        print(json.dumps(counts))
    else:
        table([(name, f"{value:,}") for name, value in counts.items()])
    made = list(batches.of_batch(batch, ids, tokenizer))[: SAMPLES.value]
    facts = [*((name, str(value)) for name, value in counts.items()), *kinds.items()]
    write(page.render(made, f"step {step} of {config.data.source or config.data.sources}", facts))


def show(summary: dict) -> None:
    """The numbers as tables, or as JSON."""
    if JSON.value:
        return print(json.dumps(summary))
    print(f"{summary['data']}: {summary['examples']:,} of {summary['records']:,} records")
    table(statistics.counts(summary))
    table(statistics.rows(summary), "of", "mean", "least", "median", "95 %", "most")


def table(rows, *head: str) -> None:
    """Prints a table, numbers to the right."""
    made = rich.table.Table(*head[:1], show_header=bool(head), box=rich.box.SIMPLE)
    for name in head[1:]:
        made.add_column(name, justify="right")
    for row in rows:
        made.add_row(*map(rich.markup.escape, row))
    rich.print(made)


def write(text: str) -> None:
    """Writes the page whole."""
    with files.whole(HTML.value) as partial:
        Path(partial).write_text(text, encoding="utf-8")
    print(f"{HTML.value}: {len(text.encode()) / 2**20:.1f} MiB", file=sys.stderr)


if __name__ == "__main__":
    command.run(main)
