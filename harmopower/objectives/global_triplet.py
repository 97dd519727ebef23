"""The control that PowerCLIP's ablation lacks: its triplet loss on pooled vectors, no powerset (METHOD section 6)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from harmopower.arrays import AnyArray
from harmopower.objectives import search
from harmopower.objectives.objective import Features, Loss, Objective, Scalars, Sizes
from harmopower.objectives.search import Side, inner_products


class GlobalTriplet(Objective):
    """Hardest negatives by the plain similarity of image and caption, which is the powerset's with one vector each."""

    name = "global_triplet"

    def loss(self, features: Features, scales: Scalars, rng: PRNGKeyArray | None) -> Loss:
        """See `search.triplet_loss`."""
        images, texts = _side(features.image), _side(features.text)
        how = dict(margin=self.settings.margin, numbers=1, communication=self.communication)
        return search.triplet_loss(_Similarity(), images, texts, features.weight, **how)

    def guest(self, features: Features) -> AnyArray:
        """The images."""
        return features.image

    def flops(self, sizes: Sizes, hardware: bool = False) -> float:
        """Both sweeps; there is nothing that only the hardware sees."""
        return search.matrix_products(sizes.batch, 2 * sizes.width)


def _side(vectors) -> Side:
    """[B, D] as one vector a row."""
    return Side(vectors[:, None], jnp.ones((len(vectors), 1), bool))


@dataclasses.dataclass(frozen=True)
class _Similarity:
    """Cosine, of vectors that are normalised."""

    def tile(self, images: Side, texts: Side, drawn: AnyArray | None) -> jax.Array:
        return inner_products("imd,jmd->ij", images.vectors, texts.vectors)

    def pairs(self, images: Side, texts: Side, drawn: AnyArray | None) -> jax.Array:
        return inner_products("pmd,pmd->p", images.vectors, texts.vectors)

    def gradients(
        self, images: Side, texts: Side, cotangent: AnyArray, drawn: AnyArray | None
    ) -> tuple[AnyArray, AnyArray]:
        cotangent = cotangent[:, None, None]
        return cotangent * texts.vectors, cotangent * images.vectors
