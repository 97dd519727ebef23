"""CLIPSelf on COCO's boxes, the baseline: regions learn from their own crops, nothing else (Wu et al. 2024).

Batch, epochs, resolution, frame, learning rate, weight decay and warm-up are those of its
scripts/train_clipself_coco_region_proposals_eva_vitb16.sh; alpha 0.7 between start and end is tools.interpolate's.
docs/parity.md lists what differs.
"""

from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from HarmoCLIP."""
    config = load(Path(__file__).with_name("coco_harmoclip_vitb16.py"))
    config.batch_size = 16
    config.total_epochs = 6.0
    config.data.image_size = 1024
    config.data.resize_mode = "letterbox"  # the longest side 1024, padded right and below
    config.objective.global_contrastive.weight = 0.0
    config.objective.lexeme_region.weight = 0.0
    config.objective.global_region.mode = "crop"
    config.optimizer.groups = "lock_text,logit_scale=0"
    return config
