"""Measures what a run costs on the machine at hand.

  python -m tools.benchmark powerset --batch 256
  python -m tools.benchmark powerset --batch 512 --memory 0.5 --negatives semi_hard top_k softmax hardest_of
  python -m tools.benchmark powerset --batch 4096 --method exact --devices 8 --dtype bfloat16 --json
  python -m tools.benchmark step --config configs/scenes.py
  python -m tools.benchmark data
  python -m tools.benchmark evaluate

Every subcommand is an entry of SUBCOMMANDS: its arguments, a function that measures and returns plain numbers, and one
that shows them.
"""

import argparse
from collections.abc import Callable
import dataclasses
from functools import partial
import json
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from harmopower.objectives import powerset
from harmopower.objectives.mining import START, Mining
from harmopower.parallel import mesh as meshes
from tools import benchmark_data, benchmark_evaluate, benchmark_step, operations, reference
from tools.measuring import fastest, format_number, matmul_rate, use_devices

# ViT-B/16 with 77 text tokens: 41.09 GFLOP forward a pair, and twice that backward.
STEP_FLOPS_A_PAIR = 3 * 41.09e9
# NVIDIA H200 SXM data sheet: dense bfloat16 and float32 operations a second (a multiply-add is two, so half of them are
# issued), memory bytes a second; exp and log: 16 a clock in each of 132 multiprocessors at 1.98 GHz.
H200 = {"matmul": 989e12, "vector": 67e12 / 2, "transcendental": 132 * 16 * 1.98e9}


class Subcommand(NamedTuple):
    """One thing to measure."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], dict]
    show: Callable[[dict, Console], None]


def main(arguments=None) -> int:
    """Parses the command line, measures, and prints a table or, with --json, one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = parser.add_subparsers(dest="subcommand", required=True)
    for name, subcommand in SUBCOMMANDS.items():
        subparser = names.add_parser(
            name,
            help=subcommand.help,
            description=subcommand.help,
            epilog=f"example: python -m tools.benchmark {name} --json",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        subparser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        subcommand.add_arguments(subparser)
    options = parser.parse_args(arguments)
    try:
        result = SUBCOMMANDS[options.subcommand].measure(options)
    except ValueError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps(result))
    else:
        SUBCOMMANDS[options.subcommand].show(result, Console())
    return 0


# --- powerset ------------------------------------------------------------------------------------------------------

# The ways to compute the same loss, from the paper's to ours.
FORMS = ("leaf_first", "dense", "phrase_first", "two_sweeps")
# What the two sweeps search for in place of the hardest; of `hardest_of` half of the batch, as midway in a run.
MENDS = {
    "semi_hard": Mining("semi_hard"),
    "top_k": Mining("top_k"),
    "softmax": Mining("top_k", loss="softmax"),
    "hardest_of": Mining("hardest_of", negative_share_steps=2),
}


def add_powerset_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--batch", type=int, default=256, help="global batch B")
    parser.add_argument("--regions", type=int, default=10, help="regions an image, M")
    parser.add_argument("--phrases", type=int, default=20, help="phrases a caption, K")
    parser.add_argument("--width", type=int, default=512, help="width of the shared space, D")
    parser.add_argument("--tokens", type=int, default=77, help="text tokens T, for the leaf-first form")
    parser.add_argument("--method", choices=("exact", "nla", "sampled"), default="nla", help="aggregator")
    parser.add_argument(
        "--negatives",
        nargs="*",
        choices=MENDS,
        default=[],
        help="the two sweeps also with these in place of the hardest",
    )
    parser.add_argument("--top-k", type=int, default=Mining().top_k, help="negatives a row and a column of top_k")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the features")
    parser.add_argument("--devices", type=int, default=1, help="devices for the two sweeps; forced on a CPU")
    parser.add_argument("--block", type=int, default=None, help="images and texts of a tile; chosen from the shapes")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, of which the fastest counts")
    parser.add_argument("--memory", type=float, default=4.0, help="GiB that a form may take; a larger one is not run")


def measure_powerset(options: argparse.Namespace) -> dict:
    """Times every form on the same random features, and sets the two sweeps against the others and the step."""
    use_devices(options.devices)
    forms = measure_forms(options)
    two_sweeps = forms["two_sweeps"]["seconds"]
    counted = operations.powerset_operations(
        options.batch, options.regions, options.phrases, options.width, options.method
    )
    step_flops = STEP_FLOPS_A_PAIR * options.batch
    rate = matmul_rate(options.dtype) * (1 if jax.default_backend() == "cpu" else options.devices)
    return {
        "settings": {name: value for name, value in vars(options).items() if name not in ("json", "subcommand")},
        "platform": jax.devices()[0].device_kind,
        "forms": forms,
        "times_faster_than": {name: _ratio(form["seconds"], two_sweeps) for name, form in forms.items()},
        "operations": counted._asdict(),
        "matmul_flops_per_second": rate,
        "share_of_step": {
            "counted_matmul": counted.matmul / step_flops,
            "measured": _ratio(two_sweeps, step_flops / rate),
            "floor_on_h200": floor_seconds(counted) / (step_flops / H200["matmul"]),
        },
        "floor_on_h200_seconds": floor_seconds(counted),
    }


def measure_forms(options: argparse.Namespace) -> dict:
    """For every form the compiled temporary bytes of a device, and the seconds of one value and gradient.

    None stands for what was not run: too large for --memory, or a form without the method. The forms take turns, so
    that whatever else the machine does falls on all of them.
    """
    names = (*FORMS, *(f"two_sweeps {mend}" for mend in options.negatives))
    compiled = {name: compile_form(name, options) for name in names}
    memory = {name: form and form.memory_analysis().temp_size_in_bytes for name, form in compiled.items()}
    runs = {
        name: (form, form_arguments(name, options))
        for name, form in compiled.items()
        if form and memory[name] <= options.memory * 2**30
    }
    seconds = dict(zip(runs, fastest(runs.values(), options.repeats)))
    return {name: {"temporary_bytes": memory[name], "seconds": seconds.get(name)} for name in names}


def compile_form(name: str, options: argparse.Namespace):
    """Value and gradient of a form, compiled without any data; None where the form lacks the method."""
    if options.method == "sampled" and name in ("leaf_first", "dense"):
        return None
    shapes = jax.eval_shape(partial(random_features, name, options))
    mesh = form_mesh(name, options)
    rows = [jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=meshes.batch_sharding(mesh)) for s in shapes]
    with jax.set_mesh(mesh):
        return jax.jit(jax.value_and_grad(form_loss(name, options), (0, 2))).lower(*rows).compile()


def form_arguments(name: str, options: argparse.Namespace):
    """The random features of a form, laid over its devices."""
    place = meshes.batch_sharding(form_mesh(name, options))
    return [jax.device_put(array, place) for array in random_features(name, options)]


def form_mesh(name: str, options: argparse.Namespace):
    devices = options.devices if name.startswith("two_sweeps") else 1
    return meshes.make_mesh(devices=jax.devices()[:devices])


def form_loss(name: str, options: argparse.Namespace):
    """The loss of a form as a function of regions, their mask, texts and their mask."""
    how = dict(margin=0.2, method=options.method)
    if name == "leaf_first":
        return partial(reference.leaf_first_loss, **how)
    if name == "dense":
        return partial(reference.dense_loss, **how)
    how["rng"] = jax.random.key(0)
    if name == "phrase_first":
        return lambda *arrays: reference.scored_loss(*arrays, **how)[0]
    how |= dict(block=options.block) | mend_arguments(name.removeprefix("two_sweeps").strip(), options)
    return lambda *arrays: powerset.powerset_loss(*arrays, **how)[0]


def mend_arguments(mend: str, options: argparse.Namespace) -> dict:
    """What the loss is given for other negatives; nothing for the hardest."""
    if not mend:
        return {}
    mining = dataclasses.replace(MENDS[mend], top_k=options.top_k)
    offered = mining.offered(options.batch, 0, jax.random.key(0))
    return dict(mining=mining, offered=offered, scale=START if mining.loss == "softmax" else None)


def random_features(name: str, options: argparse.Namespace):
    """Unit regions, all valid, and phrases of 2 to 9 neighbouring unit leaves; leaves and members for `leaf_first`."""
    keys = jax.random.split(jax.random.key(0), 4)
    unit = lambda x: (x / jnp.linalg.norm(x, axis=-1, keepdims=True)).astype(options.dtype)
    regions = unit(jax.random.normal(keys[0], (options.batch, options.regions, options.width)))
    leaves = unit(jax.random.normal(keys[1], (options.batch, options.tokens, options.width)))
    shape = (options.batch, options.phrases, 1)
    first = jax.random.randint(keys[2], shape, 0, max(options.tokens - 9, 1))
    position = jnp.arange(options.tokens) - first
    members = (position >= 0) & (position < jax.random.randint(keys[3], shape, 2, 10))
    texts = (leaves, members)
    if name != "leaf_first":
        texts = jnp.einsum("bkt,btd->bkd", members.astype(leaves.dtype), leaves), members.any(-1)
    return regions, jnp.ones(regions.shape[:2], bool), *texts


def floor_seconds(counted: operations.Operations) -> float:
    """Seconds on one H200 if nothing overlaps and nothing waits for memory: a floor for tiles that stay on chip."""
    return sum(count / H200[kind] for kind, count in counted._asdict().items())


def _ratio(above, below):
    return None if above is None or below is None else above / below


def show_powerset(result: dict, console: Console):
    settings = result["settings"]
    title = "B={batch} M={regions} K={phrases} D={width} {method} {dtype}, {devices} device(s)".format(**settings)
    table = Table("form", "ms", "temporary MiB a device", "two sweeps are faster by", title=title)
    for name, form in result["forms"].items():
        table.add_row(
            name,
            format_number(form["seconds"], 1e3),
            format_number(form["temporary_bytes"], 2**-20),
            format_number(result["times_faster_than"][name], 1),
        )
    console.print(table)
    share = result["share_of_step"]
    rate = result["matmul_flops_per_second"] / 1e12
    console.print(f"on {result['platform']}; a matrix product reaches {rate:.3f} TFLOP/s")
    console.print(
        "share of an ideal ViT-B/16 step: "
        f"measured here {format_number(share['measured'], 100)} %, counted matrix products "
        f"{share['counted_matmul']:.2%}, counted floor on an H200 {share['floor_on_h200']:.2%} "
        f"({result['floor_on_h200_seconds'] * 1e3:.3g} ms)"
    )


SUBCOMMANDS = {
    "powerset": Subcommand(
        "time and memory of the powerset objective, two sweeps against the dense and the leaf-first form",
        add_powerset_arguments,
        measure_powerset,
        show_powerset,
    ),
    "step": Subcommand(
        "examples/s, utilisation and memory of the whole train step, by objectives, and against open_clip",
        benchmark_step.add_arguments,
        benchmark_step.measure,
        benchmark_step.show,
    ),
    "data": Subcommand(
        "the data: rows of the training pipeline, the first batch, opening, preparing",
        benchmark_data.add_arguments,
        benchmark_data.measure,
        benchmark_data.show,
    ),
    "evaluate": Subcommand(
        "zero-shot classification end to end, against decoding and the forward pass alone",
        benchmark_evaluate.add_arguments,
        benchmark_evaluate.measure,
        benchmark_evaluate.show,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
