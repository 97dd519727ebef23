"""The rows of a table as tables for people: at equal steps, and at equal counted FLOPs.

At equal steps every run counts as it ended. At equal FLOPs the budget is what the first baseline's run (same data, same
seed) had computed at its end, and of every other run the last evaluation counts that lies within it. That evaluation
comes before the learning rate has fallen all the way, so a costlier run is shown a little worse than one that was
planned for the budget: what it gains there, it gains. A variant that others start from counts as it ended.
"""

from collections.abc import Iterator, Mapping
import csv
import io
from typing import NamedTuple

from harmopower.experiments import measuring
from harmopower.experiments.table import Run, Table

STEPS, FLOPS = "steps", "flops"
_BEYOND_ROUNDING = 1 + 1e-9


class Line(NamedTuple):
    """A variant on one data set.

    Attributes:
      values: measure -> seed -> value.
      steps: after which the evaluations were made, as seen over the seeds.
      flops: what had been computed by then, over what the first baseline computes in all; None where that is unknown.
      watched: column -> mean over the seeds.
    """

    variant: str
    values: dict[str, dict[int, float]]
    steps: list[int]
    flops: float | None
    watched: dict[str, float]


def lines(table: Table, rows: Mapping[str, dict], data: str, at: str) -> dict[str, Line]:
    """The lines of one data set, of the variants that have a row.

    Args:
      rows: by the name of their run, all of one definition.
      at: STEPS or FLOPS.
    """
    of_data = [row for row in rows.values() if row["data"] == data]
    budgets = {row["seed"]: row["model_flops"] for row in of_data if row["variant"] == table.baselines[0]}
    found = {}
    for variant in table.variants:
        own = {row["seed"]: row for row in of_data if row["variant"] == variant}
        chosen = {seed: _evaluation(table, row, budgets.get(seed), at) for seed, row in sorted(own.items())}
        chosen = {seed: each for seed, each in chosen.items() if each}
        if chosen:
            found[variant] = _line(table, variant, chosen, own, budgets)
    return found


def _evaluation(table: Table, row: dict, budget: float | None, at: str) -> dict | None:
    """The evaluation of a row that counts; None where none lies within the budget."""
    origins = {table.variant(name).start for name in table.variants}
    if at == STEPS or row["variant"] in origins:
        return row["evaluations"][-1]
    within = [each for each in row["evaluations"] if budget and each["model_flops"] <= budget * _BEYOND_ROUNDING]
    return within[-1] if within else None


def _line(table: Table, variant: str, chosen: dict[int, dict], own: dict[int, dict], budgets: dict) -> Line:
    values: dict[str, dict[int, float]] = {measure: {} for measure in table.measures}
    for seed, each in chosen.items():
        for measure, column in values.items():
            number = measuring.value(each["metrics"], table.patterns(measure))
            if number is not None:
                column[seed] = number
    shares = [each["model_flops"] / budgets[seed] for seed, each in chosen.items() if budgets.get(seed)]
    seen = {name: [row["training"].get(key) for row in own.values()] for name, key in table.watched.items()}
    watched = {name: [number for number in numbers if number is not None] for name, numbers in seen.items()}
    return Line(
        variant,
        values,
        sorted({each["step"] for each in chosen.values()}),
        sum(shares) / len(shares) if shares else None,
        {name: sum(numbers) / len(numbers) for name, numbers in watched.items() if numbers},
    )


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(table: Table, name: str, rows: Mapping[str, dict], runs: Mapping[str, Run]) -> str:
    """The whole page."""
    missing = [run for run in runs if run not in rows]
    head = [f"# {name}", "", f"{len(rows)} of {len(runs)} runs. Percent; mean ± standard deviation over seeds."]
    if missing:
        shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        head.append(f"**Not there yet: {len(missing)}**, {shown}.")
    head.append(
        f"Differences are paired by seed, in points, with intervals of {100 * measuring.CONFIDENCE:.0f} % (Student's "
        "t); **bold** where they leave 0 out, as one in twenty does by chance alone."
    )
    parts = ["\n".join(head)]
    for data in table.data:
        for at in (STEPS, FLOPS):
            parts += _section(table, data, at, lines(table, rows, data, at))
    return "\n\n".join(parts) + "\n"


def _section(table: Table, data: str, at: str, found: dict[str, Line]) -> Iterator[str]:
    first = table.baselines[0]
    titles = {STEPS: "at equal steps", FLOPS: f"at equal counted FLOPs, those of `{first}`"}
    yield f"## {data}, {titles[at]}"
    if not found:
        yield "No rows yet." if at == STEPS else f"No rows of `{first}` yet."
        return
    if at == FLOPS:
        yield f"Of each run the evaluation nearest below what `{first}` has computed at its end."
    yield _markdown(*_means(table, found))
    for baseline in table.baselines:
        others = {name: line for name, line in found.items() if name != baseline}
        if baseline in found and others:
            yield f"Against `{baseline}`:"
            yield _markdown(*_differences(table, others, found[baseline]))


def _means(table: Table, found: dict[str, Line]) -> tuple[list[str], list[list[str]]]:
    head = ["variant", "seeds", "step", *table.measures, "FLOPs", *table.watched]
    cells = []
    for line in found.values():
        columns = [_mean(list(line.values[measure].values())) for measure in table.measures]
        seeds = max((len(values) for values in line.values.values()), default=0)
        steps = " to ".join(dict.fromkeys(str(step) for step in (line.steps[0], line.steps[-1])))
        flops = "-" if line.flops is None else f"{line.flops:.2f}"
        watched = [f"{line.watched[name]:.3g}" if name in line.watched else "-" for name in table.watched]
        cells.append([f"`{line.variant}`", str(seeds), steps, *columns, flops, *watched])
    return head, cells


def _mean(values: list[float]) -> str:
    if not values:
        return "-"
    found = measuring.summary(values)
    return f"{100 * found.mean:.1f}" + ("" if found.spread is None else f" ± {100 * found.spread:.1f}")


def _differences(table: Table, others: dict[str, Line], baseline: Line) -> tuple[list[str], list[list[str]]]:
    cells = []
    for line in others.values():
        pairs = [measuring.paired(line.values[measure], baseline.values[measure]) for measure in table.measures]
        count = max((pair.count for pair in pairs if pair), default=0)
        cells.append([f"`{line.variant}`", str(count), *map(_difference, pairs)])
    return ["variant", "pairs", *table.measures], cells


def _difference(pair: measuring.Difference | None) -> str:
    if pair is None:
        return "-"
    if pair.low is None or pair.high is None:
        return f"{100 * pair.mean:+.1f}"
    text = f"{100 * pair.mean:+.1f} [{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]"
    return f"**{text}**" if pair.beyond_chance else text


def _markdown(head: list[str], cells: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *cells])


# --- CSV -----------------------------------------------------------------------------------------------------------

COLUMNS = (
    *("data", "at", "variant", "measure", "seeds", "step", "flops_share", "mean", "spread"),
    *("baseline", "pairs", "difference", "low", "high"),
)


def as_csv(table: Table, rows: Mapping[str, dict]) -> str:
    """A line for each data set, comparison, variant, measure and baseline; shares of 1, not percent."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for data in table.data:
        for at in (STEPS, FLOPS):
            writer.writerows(_csv_lines(table, data, at, lines(table, rows, data, at)))
    return file.getvalue()


def _csv_lines(table: Table, data: str, at: str, found: dict[str, Line]) -> Iterator[tuple]:
    for line in found.values():
        for measure, values in line.values.items():
            if not values:
                continue
            own = measuring.summary(list(values.values()))
            start = (data, at, line.variant, measure, own.count, line.steps[-1], line.flops, own.mean, own.spread)
            for baseline in table.baselines:
                pair = measuring.paired(values, found[baseline].values[measure] if baseline in found else {})
                yield (*start, baseline, *(pair or (0, None, None, None)))
