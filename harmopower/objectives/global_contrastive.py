"""The global objective: CLIP's softmax or SigLIP's sigmoid over the global batch (METHOD section 4)."""

import math

from jaxtyping import PRNGKeyArray

from harmopower.arrays import AnyArray
from harmopower.objectives import contrastive
from harmopower.objectives.objective import Features, Loss, Objective, Scalars, Scale, Sizes


class GlobalContrastive(Objective):
    """Images against captions by their pooled vectors. Its `logit_scale` is the one that others may share."""

    name = "global_contrastive"

    def loss(self, features: Features, scales: Scalars, rng: PRNGKeyArray | None) -> Loss:
        """See `contrastive.softmax_loss` and `contrastive.sigmoid_loss`."""
        image, text, weight, communication = features.image, features.text, features.weight, self.communication
        scale = scales["logit_scale"]
        if self.settings.kind == "sigmoid":
            return contrastive.sigmoid_loss(
                image, text, scale, scales["logit_bias"], weight_rows=weight, communication=communication
            )
        return contrastive.softmax_loss(image, text, scale, weight_rows=weight, communication=communication)

    def guest(self, features: Features) -> AnyArray:
        """The images."""
        return features.image

    def scales(self) -> tuple[Scale, ...]:
        """SigLIP's and CLIP's own starting points."""
        if self.settings.kind == "sigmoid":
            return Scale("logit_scale", math.log(10.0)), Scale("logit_bias", -10.0, logarithmic=False)
        return (Scale("logit_scale", math.log(1 / 0.07)),)

    def flops(self, sizes: Sizes, hardware: bool = False) -> float:
        """Pairs of the pooled vectors."""
        return contrastive.pair_flops(sizes.batch, sizes.width, hardware)
