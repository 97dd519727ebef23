"""What a run is made of: from its config when it is trained, from its workdir when it is evaluated or exported."""

from etils import epath
import jax

from harmopower import config as configs
from harmopower.data import pipeline
from harmopower.data.tokenize import Tokenizer
from harmopower.errors import CommandError, ConfigError
from harmopower.evaluation import kept, light, report, running, suites
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.suite import Found
from harmopower.models import clip
from harmopower.objectives import total
from harmopower.training import groups, teacher
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training.checkpoints import CheckpointGone, Checkpoints


def check(config, platform: str) -> None:
    """Checks what the rooms of a run know of its config and `configs.validate` does not; opens and writes nothing.

    Raises:
      ConfigError: names the key, the value and the rule.
    """
    clip.grid(config)
    teacher.check(config)
    groups.parse(config.optimizer.groups)
    suites.chosen(config.evaluation.suite)
    if config.model.attention == "cudnn" and platform != "gpu":
        raise ConfigError(f"config.model.attention cudnn needs an NVIDIA GPU, but this is a {platform}; set it to xla")


def open_data(config) -> tuple[Tokenizer, pipeline.Pipeline]:
    """Opens the prepared data set that the config names, and its tokenizer.

    Raises:
      CommandError: something is missing or impossible; the text names path, key and what to run.
    """
    if not config.data.source and not config.data.sources:
        raise ConfigError("config.data.source is empty; set it to a folder that tools.prepare has made")
    try:
        found = pipeline.from_config(
            config.data,
            seed=config.seed,
            batch_size=config.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            grid=clip.grid(config),
            region_text=total.active(config.objective).region_text,
            alone_text=None if total.active(config.objective).alone_text else False,
        )
    except ValueError as error:  # the data modules' errors about what the config asks for
        raise CommandError(str(error)) from error
    refuse_missing(config, found)
    return found.tokenizer, found


def refuse_missing(config, found: pipeline.Pipeline) -> None:
    """Refuses an objective that could never have a pair, where every record of the data was looked at.

    A larger data set is only sampled; there the loop stops after `config.log.dead_after` steps without a pair.

    Raises:
      ConfigError: no record has what a term of weight above 0 compares.
    """
    if config.data.regions != "boxes":
        return
    for objective in total.switched_on(config.objective):
        asked = objective.needs()
        reads_texts = asked.region_text or asked.alone_text
        if not (reads_texts or asked.regions) or not found.contents.complete:
            continue
        if not (found.contents.texts if reads_texts else found.contents.regions):
            what = "regions with a span, a text or a label" if reads_texts else "regions"
            raise ConfigError(
                f"config.objective.{objective.name}.weight is {objective.settings.weight}, but none of the "
                f"{found.contents.examples} records of {config.data.sources or config.data.source} has {what}; set "
                "the weight to 0 or prepare the data with them"
            )


def few_examples(config, examples: int) -> str:
    """One line for the start of a run whose data do not fill a batch; empty where they do."""
    if examples >= config.batch_size:
        return ""
    return (
        f"{examples:,} training examples are fewer than config.batch_size {config.batch_size:,}: every batch holds "
        "some twice, which the losses take for different ones"
    )


def build_model(config, tokenizer: Tokenizer | None) -> clip.CLIP:
    """The model of a config for that tokenizer's ids; None: for CLIP's own, of which only the number matters."""
    if tokenizer is None:
        return clip.from_config(config, clip.VOCABULARY, clip.VOCABULARY - 1, total.scales(config.objective))
    return clip.from_config(config, tokenizer.vocab_size, tokenizer.eot_id, total.scales(config.objective))


def read_workdir(workdir: str, tokenizer: str = ""):
    """The config and tokenizer of a run; `tokenizer`, as `config.data.tokenizer`, takes the place of its own.

    Raises:
      CommandError: the folder holds no run.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise CommandError(f"--workdir {workdir} holds no run: there is no config.json; train first, or correct it")
    config = configs.from_json(path.read_text())
    return config, Tokenizer.load(tokenizer, workdir, config.data.clean_text)


def load_params(workdir: str, model: clip.CLIP, mesh, step: int | None = None, ema: bool = False):
    """The step and parameters of a checkpoint, the newest by default, on `mesh`; `ema`: their moving average.

    Raises:
      CheckpointError: it is missing or does not fit the model.
    """
    like = states.abstract(model, optimizers.make_optimizer(configs.get_config()), mesh).params
    checkpoints = Checkpoints(workdir)
    while True:
        found = checkpoints.resolve(step)
        try:
            return found, checkpoints.restore_params(found, like, ema)
        except CheckpointGone:  # a run that is being trained saved a newer one meanwhile
            if step is not None:
                raise


def evaluation(config, workdir: str, model: clip.CLIP, tokenizer: Tokenizer, should_stop=lambda: False, keep=None):
    """Builds `evaluate(params, step) -> Found`, which also prints the table and writes `eval.json`.

    A stop asked for in between gives None and leaves the older `eval.json`.

    Args:
      keep: given the encoder, what keeps results and class embeddings (`evaluation.kept`); None keeps nothing.

    Raises:
      ConfigError, DataSourceError: a suite of `config.evaluation.suite` is unknown, or there is no data set.
    """
    suites.tasks(config)  # before an hour has been trained

    def evaluate(params, step: int) -> Found | None:
        encoder = make_encoder(config, model, params, tokenizer)
        keeper = keep(encoder) if keep else kept.NOTHING
        found = running.run(config, encoder, should_stop, keeper)
        if found is None:
            return None
        if jax.process_index() == 0 and found.metrics:
            report.write(workdir, step, found, keeper.tasks)
            keeper.finish()
            report.show(found, step)
        return found

    return evaluate


def make_encoder(config, model: clip.CLIP, params, tokenizer: Tokenizer) -> Encoder:
    """The model as evaluation calls it."""
    return Encoder(
        model,
        params,
        tokenizer,
        config.data.image_size,
        config.data.context_length,
        config.evaluation.batch_size,
        region_pooling=config.objective.region_pooling,
        resize_mode=config.data.resize_mode,
        image_width=config.data.image_width,
    )


def make_light(config, model: clip.CLIP, tokenizer: Tokenizer, should_stop=lambda: False, say=print):
    """The quick look during training, `look(params, step) -> metrics`; None where there is nothing to look at.

    Args:
      say: is told in a line of each set of `config.evaluation.light` that is not on disk.

    Raises:
      ConfigError, DataSourceError: see `light.tasks`.
    """
    tasks, skipped = light.tasks(config)
    for line in skipped:
        say(line)

    def look(params, step: int) -> dict[str, float]:
        found = running.run_tasks(tasks, config, make_encoder(config, model, params, tokenizer), should_stop)
        return found.metrics if found else {}

    return look if tasks else None


def make_evaluation(*arguments, **settings):
    """`evaluation` for training: `evaluate(params, step) -> metrics`, empty when it was told to stop."""
    evaluate = evaluation(*arguments, **settings)

    def metrics(params, step: int) -> dict[str, float]:
        found = evaluate(params, step)
        return found.metrics if found else {}

    return metrics
