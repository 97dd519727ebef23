"""PowerCLIP-S on CC12M: as with random regions, but with those stored beside the images (METHOD sections 2 and 8)."""

from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from random regions."""
    config = load(Path(__file__).with_name("cc12m_powerclip_vitb16.py"))
    config.data.regions = "boxes"
    return config
