"""Draws the figures of docs/powerset.md.

python -m tools.plot_powerset --output docs/figures      (needs matplotlib, the extra `docs`; some minutes on a CPU)
"""

import argparse
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from harmopower.objectives import powerset
from tools import benchmark

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TAUS = np.geomspace(1e-4, 1, 13)
ZETAS = np.linspace(0, 1, 11)
MEMORY_BATCHES = (64, 128, 256, 512, 1024, 2048, 4096)
TIME_BATCHES = (32, 64, 128, 256)


def main(arguments=None) -> int:
    """Draws both figures into a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.plot_powerset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default="docs/figures", help="folder of the figures")
    output = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)
    for name, draw in (("powerset_error", draw_errors), ("powerset_cost", draw_costs)):
        figure = draw()
        figure.tight_layout()
        figure.savefig(output / f"{name}.png", dpi=110)
        print(output / f"{name}.png")
    return 0


# --- errors of the aggregators -------------------------------------------------------------------------------------


def random_scores(regions: int, phrases: int, cases: int = 500):
    """Scores as of unit regions and sums of a few leaves: normal, mean and deviation 0.3; and their masks."""
    s = 0.3 + 0.3 * np.random.default_rng(0).normal(size=(cases, regions, phrases)).astype(np.float32)
    return s, np.ones((cases, regions), bool), np.ones((cases, phrases), bool)


@functools.lru_cache
def exact(regions: int, phrases: int):
    """Means of the exact T2R and R2T over the random scores."""
    block = random_scores(regions, phrases)
    return jnp.mean(powerset.tree_to_region(*block)), jnp.mean(powerset.region_to_tree(*block))


def errors(regions: int, phrases: int, temperature: float, zeta: float):
    """Mean of T1 - T2R and of T2 - R2T over random scores, both as shares of the exact value."""
    block = random_scores(regions, phrases)
    tree_to_region, region_to_tree = exact(regions, phrases)
    t1 = jnp.mean(powerset.tree_to_region(*block, temperature=temperature))
    t2 = jnp.mean(powerset.region_to_tree(*block, method="nla", temperature=temperature, zeta=zeta))
    return float(t1 / tree_to_region - 1), float(t2 / region_to_tree - 1)


def draw_errors():
    figure, axes = plt.subplots(2, 2, figsize=(10, 7))
    by_tau, by_zeta, by_regions, by_phrases = axes.flat
    by_tau.plot(TAUS, [errors(8, 8, tau, 0.75)[0] for tau in TAUS], "k--", label="T1 against T2R")
    for zeta in (0.0, 0.25, 0.75, 1.0):
        by_tau.plot(TAUS, [errors(8, 8, tau, zeta)[1] for tau in TAUS], label=f"T2 against R2T, zeta {zeta}")
    by_tau.set(xscale="log", xlabel="tau", title="M = 8, K = 8", ylim=(-1.6, 1.5))
    for tau in (0.001, 0.03, 0.1):
        by_zeta.plot(ZETAS, [errors(8, 8, tau, zeta)[1] for zeta in ZETAS], label=f"T2, tau {tau}")
    by_zeta.set(xlabel="zeta", title="M = 8, K = 8")
    for zeta in (0.0, 0.25, 0.75, 1.0):
        by_regions.plot(range(1, 11), [errors(m, 8, 1e-3, zeta)[1] for m in range(1, 11)], label=f"T2, zeta {zeta}")
        counts = (1, 2, 4, 8, 16, 24)
        by_phrases.plot(counts, [errors(8, k, 1e-3, zeta)[1] for k in counts], label=f"T2, zeta {zeta}")
    by_regions.set(xlabel="regions M", title="K = 8, tau 0.001, colours as on the right")
    by_phrases.set(xlabel="phrases K", ylim=(-0.2, 1.3), title="M = 8, tau 0.001")
    for axis in axes.flat:
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set_ylabel("error, share of the exact value")
    for axis, place in ((by_tau, "lower left"), (by_zeta, "upper left"), (by_phrases, "upper right")):
        axis.legend(fontsize=8, loc=place)
    return figure


# --- time and memory -----------------------------------------------------------------------------------------------


def options_for(batch: int, memory: float):
    """The benchmark's options at M = 10, K = 20, D = 512, nla; small batches are timed more often."""
    return argparse.Namespace(
        batch=batch,
        regions=10,
        phrases=20,
        width=512,
        tokens=77,
        method="nla",
        dtype="float32",
        devices=1,
        block=None,
        repeats=max(4, 1024 // batch),
        memory=memory,
    )


def draw_costs():
    figure, (time_axis, memory_axis) = plt.subplots(1, 2, figsize=(10, 4))
    timed = [benchmark.measure_forms(options_for(batch, memory=4)) for batch in TIME_BATCHES]
    jax.clear_caches()
    compiled = [benchmark.measure_forms(options_for(batch, memory=0)) for batch in MEMORY_BATCHES]
    for name in benchmark.FORMS:
        label = name.replace("_", " ")
        time_axis.plot(TIME_BATCHES, [forms[name]["seconds"] * 1e3 for forms in timed], "o-", label=label)
        memory = [forms[name]["temporary_bytes"] / 2**30 for forms in compiled]
        memory_axis.plot(MEMORY_BATCHES, memory, "o-", label=label)
    time_axis.set(yscale="log", xlabel="batch B", ylabel="ms, value and gradient", title="time, two CPU cores")
    memory_axis.set(yscale="log", xlabel="batch B", ylabel="GiB", title="compiled temporary memory")
    memory_axis.axhline(0.6, color="grey", linewidth=0.8)
    for axis in (time_axis, memory_axis):
        axis.set_xscale("log", base=2)
        axis.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
