"""All three objectives on CC12M: global, region (LRC, GR) and powerset. No paper has run it; the weights are ours."""
from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from PowerCLIP with stored regions, which here need phrases or texts of their own."""
    config = load(Path(__file__).with_name("cc12m_powerclip_vitb16_boxes.py"))
    config.objective.lexeme_region.weight = 0.1  # METHOD section 5: 0.1 each for pretraining
    config.objective.global_region.weight = 0.1
    config.data.max_region_texts = 1  # one of the ten texts, drawn anew each epoch: a tenth of the second text pass
    config.data.region_text_length = 6  # start, four tokens, end: with it all objectives add less than 3 % to the step
    return config
