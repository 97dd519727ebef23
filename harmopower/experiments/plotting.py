"""The differences of a table as a picture: a row a variant, a panel a measure, intervals as bars."""

from collections.abc import Mapping

from harmopower.experiments import measuring, tabulating
from harmopower.experiments.table import Table

_LOOKS = {tabulating.STEPS: ("o", "equal steps", -0.15), tabulating.FLOPS: ("s", "equal counted FLOPs", 0.15)}


def figure(table: Table, rows: Mapping[str, dict]):
    """Differences to the first baseline, in points; a row of panels for each data set that has rows of it.

    None where no data set has any: there is nothing to draw.
    """
    from matplotlib.figure import Figure  # extra `docs`; without pyplot there is no window and no global state

    first = table.baselines[0]
    shown = [data for data in table.data if first in tabulating.lines(table, rows, data, tabulating.STEPS)]
    if not shown:
        return None
    variants = [name for name in table.variants if name != first]
    size = (2 + 2.6 * len(table.measures), (0.8 + 0.26 * len(variants)) * len(shown))
    picture = Figure(figsize=size, layout="constrained")
    grid = picture.subplots(len(shown), len(table.measures), squeeze=False, sharey=True)
    for panels, data in zip(grid, shown):
        for axes, measure in zip(panels, table.measures):
            _panel(axes, table, rows, data, measure, variants)
            axes.set_title(f"{measure}, {data}", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel(f"points over {first}", fontsize=8)
    grid[0][0].legend(fontsize=7)
    return picture


def _panel(axes, table: Table, rows: Mapping[str, dict], data: str, measure: str, variants: list[str]) -> None:
    first = table.baselines[0]
    for at, (marker, label, shift) in _LOOKS.items():
        found = tabulating.lines(table, rows, data, at)
        pairs = {
            place: measuring.paired(found[name].values[measure], found[first].values[measure])
            for place, name in enumerate(variants)
            if name in found and first in found
        }
        drawn = [(place, pair) for place, pair in pairs.items() if pair]
        means = [100 * pair.mean for _, pair in drawn]
        halves = [100 * (pair.high - pair.mean) if pair.high is not None else 0.0 for _, pair in drawn]
        heights = [place + shift for place, _ in drawn]
        axes.errorbar(means, heights, xerr=halves, fmt=marker, markersize=3, linewidth=1, label=label)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(variants)), variants, fontsize=7)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=7)
