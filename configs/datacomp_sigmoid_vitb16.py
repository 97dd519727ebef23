"""SigLIP's loss on DataComp's scale `large`: ViT-B/16, 1.28 billion samples seen.

Batch, samples, learning rate and warm-up are DataComp's (Gadre et al. 2023; `large` in its scale_configs.py), as are
the betas, weight decay and the absence of clipping, which it leaves to open_clip. The start of the scale at 10 and of
the bias at -10 is SigLIP's (Zhai et al. 2023). That the two fit each other is our assumption.
"""

from harmopower.config import get_config as defaults

SAMPLES = 1_280_000_000


def get_config():
    """The difference from the defaults."""
    config = defaults()
    config.batch_size = 8192
    config.total_steps = SAMPLES // config.batch_size
    config.data.source = "runs/data/datacomp"
    config.data.tokenizer = "clip"  # CLIP's 49,408 tokens; a path or hf:NAME works too
    config.data.min_crop_area = 0.9  # open_clip's default
    config.data.workers = 16
    config.model.dtype = "bfloat16"
    config.objective.global_contrastive.kind = "sigmoid"
    config.objective.lexeme_region.weight = 0.0
    config.objective.powerset.weight = 0.0
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.clip_norm = 0.0
    config.evaluation.suite = "records"
    config.log.every_steps = 50
    return config
