"""FineCLIP on COCO, the baseline: global loss, region texts, regions that learn from their crops (Jing et al. 2024).

docs/parity.md lists what differs.
"""

from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from HarmoCLIP, which has FineCLIP's batch, epochs and rates already."""
    config = load(Path(__file__).with_name("coco_harmoclip_vitb16.py"))
    config.objective.global_region.mode = "crop"
    config.objective.global_region.teacher = "self"  # of its model as it is; here without gradient
    config.optimizer.clip_norm = 0.0
    config.optimizer.epsilon = 1e-6
    return config
