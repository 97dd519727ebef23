"""PowerCLIP-R on CC12M: subsets of random regions against the phrases of the parse tree (METHOD sections 6 and 8).

The paper's form but for one thing: a score is divided by its number of regions. On drawn scenes the sum collapsed with
two seeds of three (docs/evidence.md); objective.powerset.score_norm=sum has it back.
"""

from pathlib import Path

from harmopower.config import load


def get_config():
    """The difference from CLIP with both towers averaged; M 10, tau 0.001 and margin 0.2 are defaults."""
    config = load(Path(__file__).with_name("cc12m_clip_meanpool_vitb16.py"))
    config.data.regions = "random"
    config.objective.powerset.weight = 0.2
    config.objective.powerset.score_norm = "mean"
    return config
