"""Fine-tuning a global-only model with region losses: what boxes gain and what retrieval pays (docs/region.md).

Every seed trains a CLIP on scenes without any region, `start`, and fine-tunes it. Pooling, dense features and regions
are those of configs/coco_harmoclip_vitb16.py; steps and learning rate are ours, a quarter and a tenth of the start's.
"""

from harmopower.experiments.table import QUICKSTART_MEASURES, Data, Table, Variant

OFF = {f"objective.{name}.weight": 0.0 for name in ("lexeme_region", "global_region", "powerset")}
LRC = {"objective.lexeme_region.weight": 1.0}
GR = {"objective.global_region.weight": 1.0}
CROP = {**GR, "objective.global_region.mode": "crop", "data.max_region_crops": 2}
TUNED = {**OFF, "total_steps": 275, "optimizer.learning_rate": 3e-4, "evaluation.every_steps": 25}
CLIPSELF = {  # regions learn from what the frozen start sees in their crops; texts stay
    **TUNED,
    **CROP,
    "objective.global_region.teacher": "start",
    "objective.global_contrastive.weight": 0.0,
    "optimizer.groups": "lock_text,logit_scale=0",
}


def tuned(*changes):
    """The start, trained on with the global loss and what the changes add."""
    return Variant({key: value for each in (TUNED, *changes) for key, value in each.items()}, start="start")


def get_table():
    """The start, nine ways to go on from it, and weights in between."""
    return Table(
        config="configs/scenes.py",
        seeds=(0, 1, 2),
        data={"single": Data({"data.group_size": 1}, prepare="scenes --output runs/data/scenes")},
        variants={
            "start": {**OFF, "evaluation.every_steps": 275},
            "gc": tuned(),
            "gc_lrc": tuned(LRC),
            "gc_gr": tuned(GR),
            "gc_gr_crop": tuned(CROP),
            "all": tuned(LRC, GR),
            "all_powerset": tuned(LRC, GR, {"objective.powerset.weight": 0.1}),
            "clipself": Variant(CLIPSELF, start="start"),
            **{f"all_alpha_{alpha}": Variant(between=("start", "all", alpha)) for alpha in (0.3, 0.5, 0.7)},
            "clipself_alpha_0.7": Variant(between=("start", "clipself", 0.7)),  # as CLIPSelf publishes it
        },
        baselines=("gc", "start"),
        measures=QUICKSTART_MEASURES,
        common={
            "data.source": "runs/data/scenes",
            "model.pool": "cls",
            "model.dense": "value",
            "objective.region_pooling": "roi_align",
            "objective.powerset.warmup_steps": 0,
            "checkpoint.keep": 1,
            "log.tensorboard": False,
        },
    )
