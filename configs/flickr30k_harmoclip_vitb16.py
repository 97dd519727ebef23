"""HarmoCLIP on Flickr30k Entities, whose boxes have spans of their captions; settings ours, from COCO's."""

from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from COCO."""
    config = load(Path(__file__).with_name("coco_harmoclip_vitb16.py"))
    config.data.source = "runs/data/flickr30k_entities"
    config.optimizer.warmup_steps = 100  # 10 epochs of 29,783 images are 1,163 steps
    return config
