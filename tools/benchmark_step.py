"""The subcommand `step` of tools.benchmark: the real train step on a random batch, and open_clip's beside it."""

import argparse
import ast
import functools
import importlib.util
import os
from pathlib import Path

import jax
import numpy as np
import rich.box
from rich.console import Console
from rich.table import Table

from harmopower import config as configs
from harmopower.data import sources, transforms
from harmopower.errors import ConfigError
from harmopower.models import clip
from harmopower.objectives import total
from harmopower.parallel import mesh as meshes
from harmopower.training import accounting
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training.step import make_train_step
from tools import measuring

# Which weights stay above 0.
VARIANTS = {
    "global": ("global_contrastive",),
    "global + region": ("global_contrastive", "lexeme_region", "global_region"),
    "global + powerset": ("global_contrastive", "powerset"),
    "all": ("global_contrastive", "lexeme_region", "global_region", "powerset"),
}
SWITCHED_ON = 0.1  # weight of an objective that the config leaves out; what a step costs does not depend on it
OPEN_CLIP = "open_clip"


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--config", default="configs/scenes.py", help="the run whose step is measured")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="changes a key of the config, such as model.attention=cudnn; may be repeated",
    )
    parser.add_argument("--batch", type=int, default=None, help="global batch; None takes the config's")
    parser.add_argument(
        "--find-batch",
        action="store_true",
        help="double the batch as long as the step with all objectives fits the device's memory",
    )
    parser.add_argument("--preset", default=None, help="model size; None takes the config's")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=None, help="None takes the config's")
    parser.add_argument("--vocabulary", type=int, default=49_408, help="token ids of the text tower")
    parser.add_argument("--devices", type=int, default=1, help="devices that share the batch; forced on a CPU")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="sets of objectives")
    parser.add_argument("--no-open-clip", action="store_true", help="leave open_clip out where it is installed")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds, of which the fastest counts")
    parser.add_argument(
        "--profile",
        type=Path,
        default=None,
        help="folder for a profile of the last variant's step; its largest costs are printed",
    )


def measure(options: argparse.Namespace) -> dict:
    """Compiles and times the step with each set of objectives, and open_clip's; the contenders take turns.

    Raises:
      ConfigError: the config, or what --set makes of it, cannot be used.
      ValueError: a flag asks for something that this machine lacks.
    """
    measuring.use_devices(options.devices)
    config = load_config(options)
    bench = Bench(config, options.devices, options.vocabulary)
    if options.find_batch:
        bench = find_batch(bench, device_memory())
    compiled = {name: bench.compile(name) for name in options.variants}
    runs = bench.runs(compiled)
    theirs, why_not = (None, "--no-open-clip") if options.no_open_clip else open_clip_run(bench)
    if theirs:
        runs[OPEN_CLIP] = theirs
    wall, processor = measuring.take_turns([(run, ()) for run in runs.values()], options.repeats)
    if options.profile:
        profile(runs[options.variants[-1]], options.profile)
    rate, source = peak(bench.config.model.dtype)
    steps = {name: step_times(bench.config.batch_size, wall, processor, place) for place, name in enumerate(runs)}
    for name, program in compiled.items():
        steps[name] |= step_costs(bench.config, name, program, steps[name]["seconds"], rate * options.devices)
    return {
        "settings": {
            "config": options.config,
            "batch": bench.config.batch_size,
            "preset": bench.config.model.preset,
            "dtype": bench.config.model.dtype,
            "set": options.set,
            "devices": options.devices,
            "repeats": options.repeats,
        },
        "platform": jax.devices()[0].device_kind,
        "peak_flops": rate,
        "peak_source": source,
        "steps": steps,
        "open_clip_left_out": why_not,
        "largest_costs": largest_costs(options.profile) if options.profile else None,
    }


def step_times(batch: int, wall: np.ndarray, processor: np.ndarray, place: int) -> dict[str, float]:
    """The fastest round of one contender, and the median over the rounds of its time over the first contender's.

    Args:
      batch: examples of a step.
      wall, processor: seconds `[repeats, contenders]` (`measuring.take_turns`).
      place: which contender.
    """
    ratio = lambda times: float(np.median(times[:, place] / times[:, 0]))
    seconds = float(wall[:, place].min())
    return {
        "seconds": seconds,
        "processor_seconds": float(processor[:, place].min()),
        "examples_per_second": batch / seconds,
        "times_the_first": ratio(wall),
        "processor_times_the_first": ratio(processor),  # steadier where other work shares the processor
    }


def step_costs(config, name: str, program, seconds: float, rate: float) -> dict:
    """What was counted of one of our steps: model FLOPs, their share of `rate` a second, and memory a device."""
    flops = sum(accounting.step_flops(with_objectives(config, name)).values())
    alone = sum(accounting.step_flops(with_objectives(config, "global")).values())
    return {
        "flops": flops,
        "flops_over_global": flops / alone,
        "utilisation": flops / seconds / rate,
        "memory_bytes": memory_bytes(program),
    }


def load_config(options: argparse.Namespace):
    """The config of the flags: the file, then --set, then the flags that have names of their own."""
    config = configs.load(options.config).lock()  # a key that is not there is an error, not a new key
    changes = [text.partition("=")[::2] for text in options.set]
    named = {"batch_size": options.batch, "model.preset": options.preset, "model.dtype": options.dtype}
    changes += [(key, value) for key, value in named.items() if value is not None]
    for key, value in changes:
        try:
            config.update_from_flattened_dict({key: _literal(value)})
        except KeyError as error:
            raise ConfigError(f"--set {key}={value}: the config has no key {key}") from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--set {key}={value}: {' '.join(str(error).split())}") from error
    configs.validate(config, options.devices)
    return config


def _literal(value):
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):  # a word, or no text at all
        return value


def with_objectives(config, name: str):
    """A copy of the config with exactly the objectives of that variant."""
    config = config.copy_and_resolve_references()
    for term in configs.OBJECTIVES:
        weight = config.objective[term].weight or SWITCHED_ON
        config.objective[term].weight = weight if term in VARIANTS[name] else 0.0
    return config


class Bench:
    """Model, optimizer, state and batch of one config, which all variants share."""

    def __init__(self, config, devices: int, vocabulary: int):
        self.config, self.vocabulary = config, vocabulary
        self.mesh = meshes.make_mesh(**config.mesh, devices=jax.devices()[:devices])
        self.model = clip.from_config(config, vocabulary, vocabulary - 1, total.scales(config.objective))
        self._optimizer = optimizers.make_optimizer(config)

    def resized(self, batch_size: int) -> "Bench":
        """The same with another global batch."""
        config = self.config.copy_and_resolve_references()
        config.batch_size = batch_size
        return Bench(config, self.mesh.size, self.vocabulary)

    def compile(self, name: str):
        """The compiled train step of a variant, made from shapes alone."""
        place = meshes.batch_sharding(self.mesh)
        batch = jax.tree.map(lambda rows: jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=place), self.batch())
        with jax.set_mesh(self.mesh):
            where = states.shardings(self.model, self._optimizer, self.mesh)
            step = make_train_step(self.model, self._optimizer, with_objectives(self.config, name), self.mesh, where)
            like = states.abstract(self.model, self._optimizer, self.mesh)
            return step.lower(like, batch, jax.random.key(0)).compile()

    def runs(self, compiled: dict) -> dict:
        """Functions without arguments that do one step each; all of them update one state, so it is there once."""
        with jax.set_mesh(self.mesh):
            state = states.create(self.model, self._optimizer, self.mesh, seed=0)
        batch = jax.device_put(self.batch(), meshes.batch_sharding(self.mesh))
        key = jax.random.key(0)

        def run(program):
            nonlocal state
            state, metrics = program(state, batch, key)
            return metrics

        return {name: functools.partial(run, program) for name, program in compiled.items()}

    def batch(self) -> dict[str, np.ndarray]:
        """A random batch of the pipeline's shapes (harmopower/data/rows.py), every region and phrase in use."""
        data, rows, rng = self.config.data, self.config.batch_size, np.random.default_rng(0)
        regions, length = data.max_boxes, data.context_length
        texts = min(data.max_region_texts or regions, regions)
        corners = np.sort(rng.uniform(size=(rows, regions, 2, 2)).astype(np.float32), axis=2)
        shape = transforms.shape_of(data)
        content = {"content": np.tile(np.array(shape, np.int32), (rows, 1))} if sources.padded(data) else {}
        return content | {
            "image": rng.integers(0, 256, (rows, *shape, 3), np.uint8),
            "tokens": self._texts(rng, rows, length),
            "phrases": rng.uniform(size=(rows, data.max_phrases, length)) < 4 / length,
            "boxes": corners.reshape(rows, regions, 4),
            "box_valid": np.ones((rows, regions), bool),
            "box_phrase": rng.integers(0, data.max_phrases, (rows, regions), np.int32),
            "box_group": rng.integers(0, rows * regions, (rows, regions), np.int32),
            "box_tokens": self._texts(rng, rows * texts, data.region_text_length).reshape(rows, texts, -1),
            "cut": np.zeros(rows, bool),
            "weight": np.ones(rows, np.float32),
        }

    def _texts(self, rng, rows: int, length: int) -> np.ndarray:
        """Start, words, end: `[rows, length]` without padding; the highest two ids are start and end, as in CLIP."""
        ids = rng.integers(0, self.vocabulary - 2, (rows, length), np.int32)
        ids[:, 0], ids[:, -1] = self.vocabulary - 2, self.vocabulary - 1
        return ids


# --- memory and rates ----------------------------------------------------------------------------------------------


def memory_bytes(program) -> dict[str, int]:
    """The compiler's count for one device: state and batch, temporary values, and both together."""
    found = program.memory_analysis()
    kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return {"kept": kept, "temporary": found.temp_size_in_bytes, "total": kept + found.temp_size_in_bytes}


def device_memory() -> int:
    """Bytes that JAX may use on a device."""
    found = jax.devices()[0].memory_stats()
    if not found:
        raise ValueError(
            f"--find-batch needs a device that says how much memory it has; "
            f"{jax.devices()[0].device_kind} does not: set --batch"
        )
    return found["bytes_limit"]


def find_batch(bench: Bench, limit: int) -> Bench:
    """Doubles the batch while the step with all objectives needs at most `limit` bytes a device.

    Raises:
      ValueError: not even the first batch fits.
    """
    fits = None
    while memory_bytes(bench.compile("all"))["total"] <= limit:
        fits, bench = bench, bench.resized(2 * bench.config.batch_size)
    if fits is None:
        raise ValueError(f"batch {bench.config.batch_size} does not fit {limit / 2**30:.1f} GiB; set a smaller --batch")
    return fits


def peak(dtype: str) -> tuple[float, str]:
    """Operations a second of one device that count as full use, and where the number is from."""
    known = accounting.peak_flops(jax.devices()[0].device_kind) if dtype == "bfloat16" else None
    return (known, "data sheet, bfloat16") if known else (measuring.matmul_rate(dtype), "a large matrix product here")


# --- profile -------------------------------------------------------------------------------------------------------


def profile(run, folder: Path) -> None:
    """Writes a profile of one step, for TensorBoard or Perfetto."""
    with jax.profiler.trace(folder):
        jax.block_until_ready(run())


def largest_costs(folder: Path, count: int = 10) -> list[tuple[str, float]]:
    """The operations of the newest profile in a folder that took longest, and their seconds over all threads."""
    path = max(folder.rglob("*.xplane.pb"), key=os.path.getmtime)
    seconds: dict[str, float] = {}
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for event in (event for line in plane.lines for event in line.events):
            if "hlo_op" in dict(event.stats):
                seconds[event.name] = seconds.get(event.name, 0.0) + event.duration_ns * 1e-9
    return sorted(seconds.items(), key=lambda item: -item[1])[:count]


# --- open_clip -----------------------------------------------------------------------------------------------------


def open_clip_run(bench: Bench):
    """open_clip's step for the same model and batch as a function, or None; and why there is none."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "open_clip")):
        return None, "torch or open_clip is not installed"
    from tools import open_clip_step

    return open_clip_step.make_run(bench.model, bench.config, bench.batch())


# --- what is printed -----------------------------------------------------------------------------------------------


def show(result: dict, console: Console):
    title = "{preset} batch {batch} {dtype}, {devices} device(s)".format(**result["settings"])
    columns = ("ms", "pairs/s", "time x first", "processor x first", "FLOPs x global", "of peak", "MiB a device")
    table = Table("step", *columns, title=title, box=rich.box.SIMPLE, padding=0)
    for name, step in result["steps"].items():
        counted = ("", "", "")
        if name != OPEN_CLIP:
            counted = (
                f"{step['flops_over_global']:.3f}",
                f"{step['utilisation']:.1%}",
                f"{step['memory_bytes']['total'] / 2**20:.0f}",
            )
        table.add_row(
            name,
            f"{step['seconds'] * 1e3:.1f}",
            f"{step['examples_per_second']:.4g}",
            f"{step['times_the_first']:.3f}",
            f"{step['processor_times_the_first']:.3f}",
            *counted,
        )
    console.print(table)
    peak_rate = f"{result['peak_flops'] / 1e12:.4g} TFLOP/s ({result['peak_source']})"
    console.print(f"on {result['platform']}; full use is {peak_rate}")
    if result["open_clip_left_out"]:
        console.print(f"open_clip left out: {result['open_clip_left_out']}")
    for name, seconds in result["largest_costs"] or ():
        console.print(f"{seconds * 1e3:10.3f} ms  {name}")
