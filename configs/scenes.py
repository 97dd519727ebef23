"""The quickstart: all three objectives on the embedded scenes, on two CPU cores."""
from harmopower.config import get_config as defaults


def get_config():
    """The difference from the defaults."""
    config = defaults()
    config.total_steps = 600
    config.batch_size = 128
    config.data.source = "runs/data/scenes"
    config.data.image_size = 64
    config.data.context_length = 24
    config.data.group_size = 4  # scenes are stored in groups of four that differ in one fact
    config.data.max_phrases = 12
    config.data.max_boxes = 4
    config.data.region_text_length = 8
    config.model.preset = "tiny"
    config.model.pool = "mean"
    config.model.scan_unroll = 8
    config.objective.region_pooling = "overlap"
    config.objective.lexeme_region.weight = 0.5
    config.objective.global_region.weight = 0.1
    config.objective.powerset.weight = 0.2
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 60
    config.checkpoint.every_steps = 200
    config.evaluation.every_steps = 300
    return config
