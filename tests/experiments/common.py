"""A table of four runs on 24 scenes, as a user writes it, and runs of it that need no training."""

from pathlib import Path

from harmopower.experiments import table as tables

CONFIG = """
from tests.training import common

def get_config():
    return common.small_config({source!r}, total_steps=4, batch_size=8, evaluation__every_steps=2,
                               checkpoint__every_steps=1, model__preset="patch16-shared16-vision16x3x2-text16x2x2")
"""

TABLE = """
from harmopower.experiments.table import Data, Table, Variant

def get_table():
    return Table(
        config={config!r},
        seeds=(0, 1),
        data={{"scenes": Data({{"data.source": {source!r}}})}},
        variants={{
            "clip": {{"objective.powerset.weight": 0.0, "objective.lexeme_region.weight": 0.0,
                      "objective.global_region.weight": 0.0}},
            "powerset": {{"objective.lexeme_region.weight": 0.0, "objective.global_region.weight": 0.0}},
            {more}
        }},
        baselines=("clip",),
        measures={{"R@1": "*_r1", "boxes": "*/boxes/top1"}},
        watched={{"active": "powerset/active"}},
    )
"""


def write_table(folder: Path, source="runs/data/none", more: str = "", **replaced: str) -> Path:
    """The files of a table; `more` are further variants, `replaced` words of its text."""
    (folder / "small.py").write_text(CONFIG.format(source=str(source)))
    text = TABLE.format(config=str(folder / "small.py"), source=str(source), more=more)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "tiny.py").write_text(text)
    return folder / "tiny.py"


def load(folder: Path, **how) -> tables.Table:
    """The table of `write_table`."""
    return tables.load(write_table(folder, **how))
