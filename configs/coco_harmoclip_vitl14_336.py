"""HarmoCLIP on COCO, from CLIP ViT-L/14 of 336 px."""

from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from ViT-B/16."""
    config = load(Path(__file__).with_name("coco_harmoclip_vitb16.py"))
    config.init = config.data.tokenizer = "runs/init/l14_336"
    config.data.image_size = 336
    config.model.preset = "ViT-L/14"
    config.model.remat = "full"
    return config
