"""CLIPSelf on COCO's boxes, the baseline: regions learn from their own crops, nothing else (Wu et al. 2024).

All settings are those of its scripts/train_clipself_coco_region_proposals_eva_vitb16.sh and of the defaults behind it;
alpha 0.7 between start and end is tools.interpolate's.
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
    config.objective.global_region.teacher = "start"
    config.objective.global_region.crop_size = 224  # what the teacher was trained at
    config.objective.global_region.crop_chunk = 5  # two images a device
    config.optimizer.groups = "lock_text,lock_image,vision/transformer/blocks/*=1,logit_scale=0"  # its 12 groups
    config.optimizer.clip_norm = 0.0
    config.optimizer.epsilon = 1e-6
    return config
