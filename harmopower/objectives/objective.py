"""What an objective is: one term of the loss, and all that the rest of the house has to know of it.

A new one is a module with a subclass of `Objective`, its defaults and ranges in config.py under `objective.NAME`, and
one line in registry.py. Nothing else asks for an objective by name.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar, NamedTuple, Protocol

from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped
from ml_collections import ConfigDict

from harmopower.arrays import AnyArray

Scalars = Mapping[str, ArrayLike]  # those of `Objective.scales` by name, and `step`, the step's number from 0
Loss = tuple[Float[Array, ""], dict[str, ArrayLike]]  # and metrics by name
_NOT_ASKED: Any = None  # an objective reads what it has asked for, so what is typed below leaves this out


class Needs(NamedTuple):
    """What objectives ask of the batch and of the towers, so that pipeline and step can leave out the rest.

    Attributes:
      regions: the vectors of the boxes.
      phrases: the tokens of captions, by the batch's phrases.
      groups: which regions have equal texts.
      region_text: a pass of the text tower over the texts of regions.
      alone_text: the same, but only over the texts of regions that have no phrase, where the data have such regions.
      crops: a pass of the image tower over the enlarged boxes.
      teacher: whose pass that is, a value of `objective.global_region.teacher`; "" where nobody asks.
      crop_chunk: crops of an image that are encoded at once; 0 for all.
      crop_size: their side in pixels; 0 for that of the images.
    """

    regions: bool = False
    phrases: bool = False
    groups: bool = False
    region_text: bool = False
    alone_text: bool = False
    crops: bool = False
    teacher: str = ""
    crop_chunk: int = 0
    crop_size: int = 0


class Scale(NamedTuple):
    """A scalar that the model learns for an objective. Of a logarithmic one the parameter is the log, as CLIP's is."""

    name: str
    start: float
    logarithmic: bool = True


class Encoded(Protocol):
    """What a tower gives, in the shared space and not normalised."""

    @property
    def pooled(self) -> AnyArray:
        """[B, D]; of the texts of regions [B, R, D]."""
        ...

    @property
    def tokens(self) -> AnyArray:
        """[B, N, D] or [B, T, D]; of the texts of regions [B, R, S, D]."""
        ...


class Towers(NamedTuple):
    """What features are read from: the batch, and what the towers have made of it, in the shared space.

    Attributes:
      image, text: of the images and of the captions.
      batch: mapping with the keys of DESIGN's `Batch` that are needed, and `box_group` int32 [B, M], equal for equal
        texts; `box_alone` bool [B, R] where the data have regions with a text and no phrase; with patch dropout
        `kept_patches` int32 [B, N], which patches the image tokens are.
      region_text: of the own texts of the first R regions; None where nobody asks.
      region_text_content: bool [B, R, S], the content tokens of those texts; a region without any has no own text.
      crops: [B, C, D] image embeddings of the first C boxes, enlarged, where somebody asks for them.
      filled: int32 [B, 2], rows and columns of patches that are not padding, where images are letterboxed.
    """

    image: Encoded
    text: Encoded
    batch: Mapping[str, AnyArray]
    region_text: Encoded = _NOT_ASKED
    region_text_content: AnyArray = _NOT_ASKED
    crops: AnyArray = _NOT_ASKED
    filled: AnyArray | None = None


class Features(NamedTuple):
    """What the losses need of a batch: a tree whose every leaf has the batch on its leading axis.

    Exact accumulation caches it, so it holds no more than the active objectives ask for; what nobody needs is None.

    Attributes:
      image, text: [B, D] L2-normalised.
      weight: float32 [B], 0 for a bad record.
      regions: [B, M, D] L2-normalised, 0 where region_mask, bool [B, M], is False.
      group: int32 [B, M], equal for equal texts.
      own: what each objective adds, by its name.
    """

    image: AnyArray
    text: AnyArray
    weight: AnyArray
    regions: AnyArray = _NOT_ASKED
    region_mask: AnyArray = _NOT_ASKED
    group: AnyArray = _NOT_ASKED
    own: Mapping[str, Mapping[str, AnyArray]] = {}


class Sizes(NamedTuple):
    """What work is counted from: B, M, K, T and D of DESIGN's batch, and R, the regions whose texts are encoded."""

    batch: int
    regions: int
    phrases: int
    tokens: int
    width: int
    text_rows: int


@dataclasses.dataclass(frozen=True)
class Objective:
    """A term of the loss with its settings, `config.objective.NAME`; an instance holds nothing else.

    Attributes:
      name: its name in the config, in the metrics and in `Features.own`.
      settings: have `weight`, perhaps `warmup_steps`, and what it reads itself.
      communication: how shards of the batch meet (see `harmopower.parallel.collectives`).
    """

    name: ClassVar[str]
    settings: ConfigDict
    communication: str = "auto"

    def needs(self) -> Needs:
        """What it asks of the batch and of the towers."""
        return Needs()

    def features(self, towers: Towers, shared: Features) -> dict[str, AnyArray]:
        """What it adds to the features, each [B, ...]; `shared` holds what it has asked for with `needs`."""
        return {}

    def loss(self, features: Features, scales: Scalars, rng: PRNGKeyArray | None) -> Loss:
        """The loss over the global batch, without its weight, and metrics.

        Args:
          features: of the global batch, inside a mesh sharded on their leading axis.
          scales: the scalars that all objectives have declared, exponentiated where they are logarithmic; and `step`.
          rng: key of the step; None where nothing is drawn.
        """
        raise NotImplementedError

    def guest(self, features: Features) -> AnyArray | None:
        """Of what the loss reads, the array [B, ...] that travels between shards; None where nothing does."""
        return None

    def scales(self) -> tuple[Scale, ...]:
        """The scalars that the model learns for it; also at weight 0, so that a weight changes no checkpoint."""
        return ()

    def flops(self, sizes: Sizes, hardware: bool = False) -> float:
        """Matrix products of value and gradient over the global batch, all devices together.

        Args:
          sizes: of the run.
          hardware: with what the backward pass computes again.
        """
        return 0.0

    def pooled(self, sizes: Sizes) -> int:
        """How many products of a token and a mask its own features take an example, each D multiply-adds."""
        return 0


def valid_pairs(features: Features, has_target: Bool[AnyArray, "B R"]) -> Bool[AnyArray, "B R"]:
    """Which of the first R regions have a target, bool [B, R], and lie in no bad record: bool [B, R]."""
    return features.region_mask[:, : has_target.shape[1]] & has_target & (features.weight > 0)[:, None]


def flat_rows(array: Shaped[AnyArray, "B M ..."]) -> Shaped[AnyArray, "P ..."]:
    """[B, M, ...] -> [B M, ...]; the batch stays the leading axis, so shards stay where they are."""
    return array.reshape((-1,) + array.shape[2:])
