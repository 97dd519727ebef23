"""A real model on own image-text pairs: ViT-B/16 with class token and 77 tokens, as OpenCLIP's, and the powerset loss.

Works on any records that tools.prepare makes: an image without boxes gets random regions, a caption without a tree is
one phrase. Where boxes have texts or spans, switch the region losses on: objective.lexeme_region.weight=0.1 and
objective.global_region.weight=0.1; beside them the powerset brought nothing on drawn scenes, so set
objective.powerset.weight=0 (docs/evidence.md).

Batch and learning rate are OpenCLIP's for runs of this size (our choice).
"""

from harmopower.config import get_config as defaults


def get_config():
    """The difference from the defaults."""
    config = defaults()
    config.total_steps = 20_000
    config.batch_size = 256
    config.data.source = "runs/data/mine"
    config.data.resize_mode = "shortest"  # the centre square, as CLIP and OpenCLIP see images
    config.data.min_crop_area = 0.9  # open_clip's default
    config.data.regions = "mixed"
    config.data.threads = 8
    config.objective.lexeme_region.weight = 0.0
    config.objective.powerset.score_norm = "mean"  # as cc12m_powerclip_vitb16 has it, and why
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 1000
    config.evaluation.suite = "records"
    config.log.every_steps = 50
    return config
