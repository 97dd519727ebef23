"""All three objectives on GRIT's grounded captions, from a published CLIP. No paper has run it: settings ours."""

from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from HarmoCLIP on COCO: one pass over 20 million pairs, and the powerset over parsed captions."""
    config = load(Path(__file__).with_name("coco_harmoclip_vitb16.py"))
    config.batch_size = 1024
    config.total_epochs, config.total_examples = 0.0, 20_000_000
    config.data.source = "runs/data/grit"
    config.data.annotations = "spacy"  # tools.annotate parses
    config.data.max_boxes = 10
    config.data.max_region_texts = 1
    config.objective.powerset.weight = 0.2
    config.objective.powerset.score_norm = "mean"  # as cc12m_powerclip_vitb16 has it, and why
    config.objective.powerset.warmup_steps = 1000
    return config
