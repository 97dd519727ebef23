"""Says before a run whether it fits and how fast it could be, without the hardware.

    python -m tools.plan --config configs/cc12m_harmopower_vitb16.py --devices 64 --chip h200
    python -m tools.plan --config configs/cc12m_clip_vitb16.py --devices 8 --chip a100 --config.model.remat=full --json

Compiles the real train step for that many forced devices of this machine's CPU; needs neither the chips nor the data.
What the CPU's compiler asks for is an upper end of the memory, what the traced step must keep a lower end.
"""

import functools
import json
import os

from absl import flags, logging
import jax
from ml_collections import config_flags

from harmopower import command, runs
from harmopower.data.tokenize import Tokenizer, TokenizerError
from harmopower.training import accounting, planning

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/scenes.py.")
DEVICES = flags.DEFINE_integer("devices", 8, "Number of chips.", lower_bound=1)
CHIP = flags.DEFINE_enum("chip", "h200", tuple(accounting.CHIPS), "Kind of chip.")
JSON = flags.DEFINE_bool("json", False, "Print one JSON object.")
flags.mark_flag_as_required("config")

PARTS = {
    "state": "parameters and optimizer state, after sharding",
    "batch": "this device's rows",
    "activations": "kept for the backward pass, as traced",
    "gradients": "of the parameters, after sharding",
    "losses": "temporary memory of the losses alone, compiled",
    "temporary": "of the whole step, compiled for a CPU: the three above and more",
}


def main(argv: list[str]) -> None:
    """Compiles, counts and prints."""
    command.refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    config = command.loaded_config(CONFIG.value)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES.value)
    tokenizer = local_tokenizer(config.data)
    found = planning.plan(config, CHIP.value, functools.partial(runs.build_model, tokenizer=tokenizer))
    found["vocabulary"] = f"{tokenizer.vocab_size:,}" if tokenizer else "CLIP's 49,408, no tokenizer is at hand"
    print(json.dumps(found) if JSON.value else text(found))


def local_tokenizer(data) -> Tokenizer | None:
    """The tokenizer of `config.data`, or None where it would have to be fetched or the data are not there yet."""
    if data.tokenizer.startswith("hf:") or not (data.tokenizer or data.source):
        return None
    try:
        return Tokenizer.load(data.tokenizer, data.source)
    except TokenizerError:
        return None


def text(found: dict) -> str:
    """The plan for a reader."""
    memory, flops = found["memory_a_device"], found["flops"]
    chip = accounting.CHIPS[found["chip"]]
    rate = found["examples_per_second_at_peak"]
    ways = (f"{name} {how['way']} ({how['bytes'] / 2**20:.1f} MiB)" for name, how in found["communication"].items())
    lines = [
        f"{found['devices']} x {found['chip']} ({chip.peak_flops / 1e12:g} TFLOP/s in bfloat16, "
        f"{chip.memory / 1e9:g} GB), batch {found['batch_size']}",
        f"parameters   {found['parameters']:,} (vocabulary: {found['vocabulary']})",
        "memory a device",
        *(f"  {name:<11}{memory[name] / 1e9:8.2f} GB  {meaning}" for name, meaning in PARTS.items()),
        f"  in all     {memory['low'] / 1e9:8.2f} to {memory['high'] / 1e9:.2f} GB; the upper end errs high: "
        "a CPU keeps many bfloat16 values in float32",
        f"a step       {flops['model'] / 1e12:.4g} TFLOP of the model, {flops['hardware'] / 1e12:.4g} computed",
        f"shards meet  {', '.join(ways) or 'in no loss'}; what all rows and their gradients take a device",
        f"floor        {found['floor_seconds'] * 1e3:.4g} ms; {rate:,.0f} examples/s at 100 % of the peak, "
        f"{0.4 * rate:,.0f} at 40 %",
        f"fits         {found['fits']} (limit: {planning.USABLE:.0%} of {chip.memory / 1e9:g} GB)",
    ]
    return "\n".join(lines + _advice(found))


def _advice(found: dict) -> list[str]:
    if found["fits"] == "yes":
        return []
    lines = [f"largest      {found['largest']}, {found['memory_a_device'][found['largest']] / 1e9:.2f} GB"]
    settings = found["would_fit"]
    if settings is None:
        return lines + ["would fit    nothing tried (remat, accumulate, mesh.fsdp); use more devices or fewer examples"]
    return lines + ["would fit    " + " ".join(f"--config.{key}={value}" for key, value in settings.items())]


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter
    command.run(main)
