"""Evaluates a run: `python -m harmopower.evaluate --workdir DIR [--step N] [--suite NAME,...] [--config.key=value]`.

All devices take part. Prints a table with chance levels and writes `eval.json` in the workdir. Settings are those of
the run; of `evaluation`, `data` and `mesh`, and `model.attention` and `model.dtype`, others can be given:
`--config.data.source=runs/data/other --config.evaluation.batch_size=64`.
"""

import os

from absl import flags, logging
import jax
from ml_collections import config_flags

from harmopower import command, runs
from harmopower import config as configs
from harmopower.errors import CommandError
from harmopower.evaluation import running
from harmopower.parallel import mesh as meshes

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
SUITE = flags.DEFINE_string("suite", None, "Which suites to run, comma-separated; the config's by default.")
CONFIG = config_flags.DEFINE_config_dict("config", configs.get_config(), "Settings in place of the run's.")
flags.mark_flags_as_required(["workdir"])

FREE = ("evaluation.", "data.source", "data.split", "data.tokenizer", "data.threads", "data.workers", "mesh.")
FREE += ("model.attention", "model.dtype")


def main(argv: list[str]) -> None:
    """Loads the checkpoint, runs the suites, reports."""
    command.refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    changes = overrides(config_flags.get_override_values(flags.FLAGS["config"]))
    meshes.initialize_processes()
    config, tokenizer = runs.read_workdir(WORKDIR.value, changes.get("data.tokenizer", ""))
    config.mesh = configs.get_config().mesh  # that of the training machine need not fit here
    config.update_from_flattened_dict(changes)
    if SUITE.value is not None:
        config.evaluation.suite = SUITE.value
    configs.check_values(config)
    if config.model.attention == "cudnn" and jax.default_backend() != "gpu":
        config.model.attention = "xla"
        print(f"config.model.attention cudnn needs a GPU, this is {jax.default_backend()}: xla is used")
    if nothing := running.nothing_to_measure(config):
        raise CommandError(nothing)
    mesh = meshes.make_mesh(**config.mesh)
    model = runs.build_model(config, tokenizer)
    evaluate = runs.make_evaluation(config, WORKDIR.value, model, tokenizer)
    with jax.set_mesh(mesh):
        step, params = runs.load_params(WORKDIR.value, model, mesh, STEP.value)
        evaluate(params, step)


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
