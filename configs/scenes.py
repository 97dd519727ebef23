"""The quickstart: all three objectives on the embedded scenes, on two CPU cores."""

from harmopower.config import get_config as defaults


def get_config():
    """The difference from the defaults."""
    config = defaults()
    config.total_steps = 1100
    config.batch_size = 64
    config.data.source = "runs/data/scenes"
    config.data.image_size = 64
    config.data.context_length = 24
    config.data.max_phrases = 12
    config.data.max_boxes = 4
    config.data.max_region_texts = 1
    config.data.region_text_every = 2  # half the price of GR, and as good
    config.data.region_text_length = 8
    config.data.group_size = 4  # siblings: the same words, bound to other things and places
    config.model.preset = "tiny"
    config.model.pool = "mean"
    config.model.scan_unroll = 8  # a CPU runs straight code faster than a loop
    config.objective.region_pooling = "overlap"
    config.objective.lexeme_region.weight = 2.0
    config.objective.global_region.weight = 0.5
    config.objective.powerset.weight = 0.1  # to show all three: beside LRC and GR it gains nothing (docs/evidence.md)
    config.objective.powerset.warmup_steps = 300  # subsets mean little before regions do
    config.objective.powerset.score_norm = "mean"  # the paper's sum collapsed (docs/evidence.md)
    config.optimizer.name = "muon"  # AdamW needs more than twice the steps (docs/benchmarks.md)
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 40
    config.optimizer.b2 = 0.95
    config.optimizer.weight_decay = 0.1
    config.checkpoint.every_steps = 200
    config.evaluation.every_steps = 550
    config.log.every_steps = 20
    return config
