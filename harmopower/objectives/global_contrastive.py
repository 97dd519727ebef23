"""The global objective: CLIP's softmax or SigLIP's sigmoid over the global batch (METHOD section 4)."""

import math

from harmopower.objectives import contrastive
from harmopower.objectives.objective import Objective, Scale


class GlobalContrastive(Objective):
    """Images against captions by their pooled vectors. Its `logit_scale` is the one that others may share."""

    name = "global_contrastive"

    def loss(self, features, scales, rng):
        """See `contrastive.softmax_loss` and `contrastive.sigmoid_loss`."""
        rows = dict(weight_rows=features.weight, communication=self.communication)
        if self.settings.kind == "sigmoid":
            bias = scales["logit_bias"]
            return contrastive.sigmoid_loss(features.image, features.text, scales["logit_scale"], bias, **rows)
        return contrastive.softmax_loss(features.image, features.text, scales["logit_scale"], **rows)

    def guest(self, features):
        """The images."""
        return features.image

    def scales(self):
        """SigLIP's and CLIP's own starting points."""
        if self.settings.kind == "sigmoid":
            return Scale("logit_scale", math.log(10.0)), Scale("logit_bias", -10.0, logarithmic=False)
        return (Scale("logit_scale", math.log(1 / 0.07)),)

    def flops(self, sizes, hardware=False):
        """Pairs of the pooled vectors."""
        return contrastive.pair_flops(sizes.batch, sizes.width, hardware)
