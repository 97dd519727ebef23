"""CLIP on CC12M with open_clip's own settings where ours differ; docs/parity.md lists what still does."""

from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from our CLIP on CC12M."""
    config = load(Path(__file__).with_name("cc12m_clip_vitb16.py"))
    config.data.crop_aspect = "absolute"
    config.data.resize_mode = "shortest"
    config.model.activation = "gelu"
    config.model.position_init = "noise"
    config.optimizer.clip_norm = 0.0
    config.optimizer.epsilon = 1e-6
    return config
