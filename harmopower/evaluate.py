"""Evaluates: `python -m harmopower.evaluate --workdir DIR [--suite NAME,...] [--data ROOT] [--config.key=value ...]`.

In place of a run, or beside it, published weights: `--model PATH_OR_hf:NAME`, an exported folder, or one of OpenCLIP's
or Hugging Face's CLIPs; given several times, the models stand in one table. All devices take part. Prints tables with
chance levels and writes `eval.json` and `table.{md,csv,json,tex}` in the workdir (of published weights in `--output`).
Settings are those of the run; of `evaluation`, `data` and `mesh`, and `model.attention` and `model.dtype`, others can
be given: `--config.data.source=runs/data/other --config.evaluation.batch_size=64`. What an earlier evaluation of the
same weights and data has finished is not measured again.
"""

import os

from absl import flags, logging
import jax
from ml_collections import config_flags

from harmopower import command, published, runs
from harmopower import config as configs
from harmopower.errors import CommandError
from harmopower.evaluation import kept, running, tables
from harmopower.evaluation.suite import Found
from harmopower.parallel import mesh as meshes

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
MODEL = flags.DEFINE_multi_string("model", [], "Published weights: a folder, a file or hf:NAME; may be repeated.")
OUTPUT = flags.DEFINE_string("output", "runs/evaluated", "Folder for what --model gives.")
EMA = flags.DEFINE_bool("ema", False, "The moving average of the parameters; results go to WORKDIR/ema.")
STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
SUITE = flags.DEFINE_multi_string("suite", None, "Which suites to run, comma-separated or repeated.")
DATA = flags.DEFINE_string("data", None, "Root folder of the suites' own data, config.evaluation.data.")
AGAIN = flags.DEFINE_bool("again", False, "Measure anew what is already known.")
CONFIG = config_flags.DEFINE_config_dict("config", configs.get_config(), "Settings in place of the run's.")

FREE = ("evaluation.", "data.source", "data.split", "data.tokenizer", "data.threads", "data.workers", "mesh.")
FREE += ("model.attention", "model.dtype")


def main(argv: list[str]) -> None:
    """Evaluates one model after the other; the table of all of them comes last."""
    command.refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    changes = overrides(config_flags.get_override_values(flags.FLAGS["config"]))
    if WORKDIR.value is None and not MODEL.value:
        raise CommandError("--workdir is missing, or --model; --help shows an example")
    if EMA.value and WORKDIR.value is None:
        raise CommandError("--ema is of --workdir; published weights have no moving average")
    meshes.initialize_processes()
    found, path = {}, OUTPUT.value
    if WORKDIR.value is not None:
        path = os.path.join(WORKDIR.value, "ema") if EMA.value else WORKDIR.value
        found[path] = evaluate(WORKDIR.value, path, changes, STEP.value, EMA.value)
    for model in MODEL.value:
        folder = published.folder(model, OUTPUT.value, changes.get("data.tokenizer", ""))
        found[model] = evaluate(folder, os.path.join(OUTPUT.value, published.slug(model)), changes)
    if jax.process_index() == 0:
        written = tables.write(
            OUTPUT.value if MODEL.value else path, {name: each for name, each in found.items() if each.metrics}
        )
        print("written: " + ", ".join(written))


def evaluate(workdir: str, output: str, changes: dict, step: int | None = None, ema: bool = False) -> Found:
    """Loads a checkpoint, runs the suites, reports into `output`."""
    config, tokenizer = runs.read_workdir(workdir, changes.get("data.tokenizer", ""))
    config.mesh = configs.get_config().mesh  # that of the training machine need not fit here
    config.update_from_flattened_dict(changes)
    if SUITE.value:
        config.evaluation.suite = ",".join(SUITE.value)
    if DATA.value is not None:
        config.evaluation.data = DATA.value
    configs.check_values(config)
    if config.model.attention == "cudnn" and jax.default_backend() != "gpu":
        config.model.attention = "xla"
        print(f"config.model.attention cudnn needs a GPU, this is {jax.default_backend()}: xla is used")
    if nothing := running.nothing_to_measure(config):
        raise CommandError(nothing)
    mesh = meshes.make_mesh(**config.mesh)
    model = runs.build_model(config, tokenizer)
    with jax.set_mesh(mesh):
        step, params = runs.load_params(workdir, model, mesh, step, ema)
        keep = lambda encoder: kept.KeptIn(output, encoder, AGAIN.value)
        found = runs.evaluation(config, output, model, tokenizer, keep=keep)(params, step)
    assert found is not None  # nothing has asked it to stop
    return found


def overrides(given: dict) -> dict:
    """The settings of the command line.

    Raises:
      CommandError: one of them would make another model than the one that was trained.
    """
    for key in given:
        if not key.startswith(FREE):
            raise CommandError(f"--config.{key} belongs to the trained model; evaluation takes {', '.join(FREE)} only")
    return given


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter
    command.run(main)
