"""Evaluates a run: `python -m harmopower.evaluate --workdir runs/scenes [--step N] [--suite NAME]`.

Prints a table with chance levels and writes `eval.json` in the workdir.
"""

import os

from absl import flags, logging
import jax

from harmopower import command, runs
from harmopower.parallel import mesh as meshes

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
SUITE = flags.DEFINE_string("suite", None, "Which evaluations to run; the config's by default.")
flags.mark_flags_as_required(["workdir"])


def main(argv: list[str]) -> None:
    """Loads the checkpoint, runs the suite, reports."""
    command.refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    config, tokenizer = runs.read_workdir(WORKDIR.value)
    if SUITE.value is not None:
        config.evaluation.suite = SUITE.value
    mesh = meshes.make_mesh(devices=jax.local_devices()[:1])
    model = runs.build_model(config, tokenizer)
    with jax.set_mesh(mesh):
        step, params = runs.load_params(WORKDIR.value, model, mesh, STEP.value)
        runs.make_evaluation(config, WORKDIR.value, model, tokenizer, show=True)(params, step)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter
    command.run(main)
