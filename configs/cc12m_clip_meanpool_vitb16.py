"""CLIP on CC12M with both towers averaged as in PowerCLIP: the control that the paper lacks (METHOD section 8)."""

from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from CLIP."""
    config = load(Path(__file__).with_name("cc12m_clip_vitb16.py"))
    config.model.pool = "mean"  # the text tower follows
    return config
