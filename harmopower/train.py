"""Trains a model: `python -m harmopower.train --config configs/NAME.py --workdir runs/NAME [--config.key=value ...]`.

Rerunning the same command resumes from the newest checkpoint in the workdir. Schedules, logging and evaluation may
change (`history.jsonl` tells when); another model, tokenizer, data set, objective, seed or batch size is refused unless
its key is named: `--allow_changes=objective.powerset.weight`. The settings, their defaults and what they may be are
listed by --help_config, and in harmopower/config.py.
"""

import os

from absl import flags, logging
import jax
from ml_collections import config_flags

from harmopower import command, durations, errors, runs
from harmopower import config as configs
from harmopower import workdir as workdirs
from harmopower.data.pipeline import BadDataError
from harmopower.errors import CommandError
from harmopower.evaluation import running
from harmopower.interop import starting
from harmopower.parallel import agreement
from harmopower.parallel import mesh as meshes
from harmopower.training import loop
from harmopower.training.signals import StopSignal
from harmopower.training.watch import NonFiniteError

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/scenes.py.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics, config, tokenizer.", required=True
)
ALLOW_CHANGES = flags.DEFINE_string(
    "allow_changes", "", "Keys, comma-separated, in which a resumed run may differ from what made its checkpoints."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> int:
    """Sets the run up, then hands over to the loop."""
    command.refuse_arguments(argv)
    if "://" in WORKDIR.value:
        raise CommandError(
            f"--workdir {WORKDIR.value}: metrics are written to folders only; mount the bucket and give its folder"
        )
    logging.set_verbosity(logging.WARNING)
    meshes.initialize_processes()
    config, workdir = command.loaded_config(CONFIG.value), WORKDIR.value
    configs.validate(config, jax.device_count(), jax.process_count())
    mesh = meshes.make_mesh(**config.mesh)
    runs.check(config, jax.default_backend())
    load_init = (lambda params: starting.load_init(config.init, params, config, loop.say)) if config.init else None
    with StopSignal() as stop, workdirs.Lock(workdir) as lock:

        def set_up():
            if jax.process_index() == 0:
                lock.take()
            if config.init:
                starting.adopt(config, config_flags.get_override_values(flags.FLAGS["config"]), loop.say)
            tokenizer, pipeline = runs.open_data(config)
            for line in durations.in_steps(config, pipeline.examples):
                loop.say(line)
            if few := runs.few_examples(config, pipeline.examples):
                loop.say(few)
            if nothing := running.nothing_to_measure(config):
                loop.say(nothing)
            model = runs.build_model(config, tokenizer)
            evaluate = runs.make_evaluation(config, workdir, model, tokenizer, stop.agreed)
            look = runs.make_light(config, model, tokenizer, stop.agreed, loop.say)
            begin = workdirs.prepare(workdir, config, tokenizer, ALLOW_CHANGES.value)
            return model, pipeline, evaluate, look, begin

        model, pipeline, evaluate, look, begin = agreement.together(set_up)
        try:
            with agreement.leaving_with_the_lost():
                return loop.train(config, workdir, model, pipeline, mesh, stop, evaluate, load_init, begin, look)
        except BadDataError as error:
            raise CommandError(str(error), exit_code=errors.DATA) from error
        except NonFiniteError as error:
            raise CommandError(
                f"{error}; the last good checkpoint is kept. Lower config.optimizer.learning_rate "
                f"({config.optimizer.learning_rate}) or the weight of the term named",
                exit_code=errors.NUMBERS,
            ) from error


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter
    command.run(main)
