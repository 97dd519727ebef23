"""CLIP on CC12M: the baseline of PowerCLIP's tables (METHOD section 8); the other cc12m configs start from it."""

from harmopower.config import get_config as defaults

PAIRS, EPOCHS = 10_968_539, 32


def get_config():
    """The difference from the defaults, which already are CLIP's ViT-B/16, AdamW, learning rate 1e-3, 0.9/0.98, 0.2."""
    config = defaults()
    config.batch_size = 4096
    config.total_steps = EPOCHS * PAIRS // config.batch_size
    config.data.source = "runs/data/cc12m"
    config.data.tokenizer = "clip"  # CLIP's 49,408 tokens; a path or hf:NAME works too
    config.data.min_crop_area = 0.9  # open_clip's default; the papers do not say
    config.data.workers = 16
    config.model.dtype = "bfloat16"
    config.objective.lexeme_region.weight = 0.0
    config.objective.powerset.weight = 0.0
    config.optimizer.warmup_steps = 10_000
    config.evaluation.suite = "records"
    config.log.every_steps = 50
    return config
