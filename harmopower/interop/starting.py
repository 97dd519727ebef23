"""Starting from other weights: `config.init` and `tools.convert_weights`."""

from collections.abc import Callable, Iterable
import math
from typing import NamedTuple

from etils import epath
from flax import traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from harmopower import config as configs
from harmopower.data import transforms
from harmopower.data.tokenize import FILE_NAME, Tokenizer, TokenizerError
from harmopower.interop import formats, names
from harmopower.interop import source as sources
from harmopower.interop.weights import ConversionError, new_folder
from harmopower.models import clip
from harmopower.models.vision import resample_position
from harmopower.training.checkpoints import Checkpoints, CheckpointWriter
from harmopower.training.state import TrainState
from harmopower.training.step import MAX_LOGIT_SCALE

POSITIONS = ("vision/position", "text/position")
_COMPARED = (
    "model.activation",
    "model.layer_norm_epsilon",
    "model.pool",
    "model.text_pool",
    "model.pixel_mean",
    "model.pixel_std",
    "data.resize_mode",
)


def resample_text_position(position, length: int):
    """Text positions `[old, width]` for another context length.

    A shorter one takes the first: the tower is causal, so captions that fit give what they gave before (our choice;
    OpenCLIP squeezes all of them in). A longer one is stretched linearly, as OpenCLIP does.
    """
    if length <= len(position):
        return position[:length]
    return jax.image.resize(position, (length, position.shape[1]), "linear", antialias=False)


class Resampling(NamedTuple):
    """What positions are resampled from and to: the patch grids of the image towers."""

    old: tuple[int, int]
    new: tuple[int, int]

    def apply(self, name: str, array, shape: tuple[int, ...]):
        """The parameter of that flat name with the shape that is wanted; only those of `POSITIONS` change."""
        if name == "vision/position" and self.old != self.new:
            return resample_position(array, self.old, self.new)
        return array if array.shape == shape else resample_text_position(array, shape[0])

    def told(self, name: str, there: tuple[int, ...], here: tuple[int, ...]) -> str:
        """What happens to a parameter; empty where nothing does. A grid can be another one of as many patches."""
        if name == "vision/position" and self.old != self.new:
            grids = " to ".join(f"{1 + rows * columns}" for rows, columns in self)
            return f"{name} is resampled from {grids} positions ({_grids(self)})"
        return "" if there == here else f"{name} is resampled from {there[0]} to {here[0]} positions"


def _grids(both: Iterable[tuple[int, int]]) -> str:
    return " to ".join(f"{rows} x {columns}" for rows, columns in both)


def load_init(path: str, params, config, say: Callable[[str], None] = print):
    """The parameters to start from, in place of freshly initialised ones.

    Args:
      path: `config.init`: a converted folder or another run's workdir (its newest checkpoint), or published weights.
      params: fresh parameters of this run; their shapes and shardings are kept.
      config: this run's config; where the source was made with other settings, that is said.
      say: told what is resampled, kept fresh, left out or different.

    Returns:
      parameters of the same shapes and shardings. Positions are resampled to the run's image size and context length.

    Raises:
      ConversionError: the weights do not fit; names and shapes are listed.
    """
    fresh = names.flat(params)
    folder = epath.Path(path)
    if (folder / "checkpoints").exists():
        shapes, read, made_with = _checkpoint(folder, fresh)
    else:
        source = sources.open_source(path)
        shapes, read, made_with = source.shapes, source.read, source.config
        for note in source.notes:
            say(f"config.init {path}: {note}")
    for line in differences(made_with, config):
        say(f"config.init {path} was made with other settings: {line}")
    resampling = Resampling(clip.grid(made_with), clip.grid(config))
    _check(path, shapes, fresh, read, resampling, say)
    _say_what_is_clamped(path, shapes, read, say)
    return traverse_util.unflatten_dict(
        {
            name: _place(resampling.apply(name, read(name), leaf.shape), leaf) if name in shapes else leaf
            for name, leaf in fresh.items()
        },
        sep="/",
    )


def _checkpoint(folder: epath.Path, fresh: dict):
    """Shapes, reader and config of the newest checkpoint of a workdir, restored into the shards of the fresh ones."""
    checkpoints = Checkpoints(str(folder))
    step = checkpoints.resolve(None)
    shapes = checkpoints.param_shapes(step)
    like = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=_sharding(shape, fresh.get(name), fresh))
        for name, shape in shapes.items()
    }
    params = checkpoints.restore_params(step, like)
    return shapes, params.get, configs.from_json((folder / "config.json").read_text())


def _sharding(shape: tuple[int, ...], leaf, fresh: dict):
    """That of the fresh parameter; what is to be resampled or left out lies whole on every device."""
    if leaf is not None and leaf.shape == shape:
        return leaf.sharding
    sharding = next(iter(fresh.values())).sharding
    return NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding


def adopt(config, given: Iterable[str], say: Callable[[str], None] = print) -> None:
    """Takes over from `config.init` how its model computes and how it sees images, where the user did not say it.

    A key counts as said when it is set on the command line or differs from the default (in the config file); a file
    that names the default itself cannot be told from one that does not name the key. What is said stays, and
    `load_init` says where it differs from the source.

    Args:
      config: this run's config, changed in place before the model is built.
      given: the keys that are set on the command line, such as `model.pool`.
      say: told of every key that is taken over.

    Raises:
      ConversionError: there are no weights at `config.init`.
    """
    source = settings_of(config.init)
    defaults, own = (configs.flat(tree.to_dict()) for tree in (configs.get_config(), config))
    said = {key for key in own if own[key] != defaults.get(key)} | set(given)
    if "model.pool" in said:
        said.add("model.text_pool")  # `auto` follows it
    for key in _COMPARED:
        there, here = _effective(source)[key], _effective(config)[key]
        if there != here and key not in said:
            say(f"config.{key} {there} is taken from config.init {config.init}, in place of the default {here}")
            config.update_from_flattened_dict({key: there})


def settings_of(path: str):
    """The config of a workdir, or what published weights say of theirs."""
    folder = epath.Path(path)
    if (folder / "checkpoints").exists():
        return configs.from_json((folder / "config.json").read_text())
    return sources.open_source(path).config


def _effective(config) -> dict:
    found = configs.flat(config.to_dict())
    return {key: clip.text_pool(config) if key == "model.text_pool" else found[key] for key in _COMPARED}


def differences(old, new) -> list[str]:
    before, after = _effective(old), _effective(new)
    return [f"config.{key}: {before[key]!r} -> {after[key]!r}" for key in _COMPARED if before[key] != after[key]]


def _about_the_bias(left_out: bool, logit_scale: float) -> str:
    """What happens to `logit_bias` where one of the source and this run is of softmax, the other of sigmoid."""
    kept = f"logit_scale {math.exp(logit_scale):.4g} is kept"
    if left_out:
        return f"logit_bias of its sigmoid loss is left out, softmax does not change by a bias; {kept}"
    return f"logit_bias starts fresh, at SigLIP's -10, since the softmax loss of the source has none; {kept}"


def _say_what_is_clamped(path: str, shapes: dict, read, say) -> None:
    """SigLIP's published scales lie above 100, which training here clamps them to, as CLIP does."""
    scale = float(read("logit_scale")) if "logit_scale" in shapes else 0.0
    if scale > MAX_LOGIT_SCALE + 1e-4:  # not the rounding of 100 itself
        say(
            f"config.init {path}: logit_scale {math.exp(scale):.4g} is above {math.exp(MAX_LOGIT_SCALE):.4g}, to which "
            "the first update clamps it; config.optimizer.groups=logit_scale=0 keeps it as it is"
        )


def _check(path: str, shapes: dict, fresh: dict, read, resampling: Resampling, say) -> None:
    wrong = []
    for name in sorted(fresh.keys() | shapes.keys()):
        there, here = shapes.get(name), fresh[name].shape if name in fresh else None
        resampled = resampling.told(name, there, here) if there is not None and here is not None else ""
        if there == here and not resampled:
            continue
        if name == "logit_bias":
            say(f"config.init {path}: {_about_the_bias(here is None, float(read('logit_scale')))}")
        elif here is None:
            say(f"config.init {path}: {name} is left out, this run has none")
        elif there is None and name != "logit_scale" and names.is_scalar_of_a_loss(name):  # it knew other losses
            say(f"config.init {path}: {name} starts fresh, the source has none")
        elif there is not None and name in POSITIONS and there[1:] == here[1:]:
            say(f"config.init {path}: {resampled}")
        else:
            wrong.append(f"{name} is {list(there) if there is not None else 'missing'} there, {list(here)} here")
    if wrong:
        raise ConversionError(
            f"config.init {path} does not fit config.model.preset and tokenizer of this run: {sources.listed(wrong)}"
        )


def _place(array, leaf):
    if isinstance(array, jax.Array) and array.sharding == leaf.sharding:
        return array
    whole = np.asarray(array)  # every process has all of it
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: whole[index])


def convert(
    path,
    output,
    *,
    image_size: int | None = None,
    image_width: int | None = None,
    context_length: int | None = None,
    tokenizer: str = "",
    say: Callable[[str], None] = print,
    **overrides,
) -> None:
    """Writes published weights as a folder that `config.init`, `harmopower.evaluate` and `tools.export` take.

    Args:
      path: the source, see `source.open_source`.
      output: the new folder; appears whole or not at all.
      image_size, image_width, context_length: what the positions are resampled to; None keeps them, of `image_width`
        beside an `image_size` makes a square.
      tokenizer: `tokenizer.json`, a folder with one, `clip`, or `hf:NAME`; empty takes the source's.
      overrides: facts that the user states, see `formats.Facts`.

    Raises:
      ConversionError: one line that names what is wrong; nothing is written.
    """
    source = sources.open_source(path, **overrides)
    config = source.config
    config.init, config.data.tokenizer = str(path), ""
    old = clip.grid(config)
    if image_size or image_width:
        config.data.image_size, config.data.image_width = image_size or config.data.image_size, image_width or 0
    resampling = Resampling(old, clip.grid(config))
    config.data.context_length = context_length or config.data.context_length
    found = _tokenizer(source, tokenizer, say)
    for note in source.notes:
        say(note)
    wanted = sources.config_shapes(config, source.vocabulary)
    with new_folder(output, {"source": str(path)}) as folder:
        params = {name: jnp.asarray(_resampled(source, name, shape, resampling, say)) for name, shape in wanted.items()}
        with CheckpointWriter(str(folder)) as checkpoints:
            checkpoints.save(0, TrainState(jnp.zeros((), jnp.int32), params, ()), {})
        (folder / "config.json").write_text(configs.to_json(config))
        if found:
            found.save(folder / FILE_NAME)
    say(
        f"{output}: config.model.preset {config.model.preset}, {sum(map(math.prod, wanted.values())):,} parameters, "
        f"{formats.pixels(transforms.shape_of(config.data))}, {config.data.context_length} tokens"
    )


def _resampled(source: sources.Source, name: str, shape: tuple[int, ...], resampling: Resampling, say):
    array = source.read(name)
    if told := resampling.told(name, array.shape, shape):
        say(told)
    return resampling.apply(name, array, shape)


def _tokenizer(source: sources.Source, spec: str, say) -> Tokenizer | None:
    """The tokenizer to write beside the weights, if there is one; its ids must be those of the weights."""
    if not spec and not source.tokenizer:
        say("no tokenizer.json beside the weights: give --tokenizer, or set config.data.tokenizer where you train")
        return None
    spec = spec or str(source.tokenizer)
    try:
        found = Tokenizer.load(spec, "")
    except TokenizerError as error:
        raise ConversionError(str(error)) from error
    if found.vocab_size != source.vocabulary:
        raise ConversionError(
            f"{spec} has {found.vocab_size} ids, the weights have {source.vocabulary}; give the right --tokenizer"
        )
    return found
