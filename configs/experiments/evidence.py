"""What each objective brings, and which form of the powerset: docs/evidence.md says how to run and to read it.

The quickstart's model and schedule. The baseline is the global loss alone on averaged tokens, `clip_mean`: every other
variant but `clip` has its pooling, so a difference is of the objectives.
"""

from harmopower.experiments.table import QUICKSTART_MEASURES, Data, Table

SCENES = {"data.source": "runs/data/scenes"}
EMOJI = {
    "data.source": "runs/data/emoji",
    "data.group_size": 1,
    "data.context_length": 40,  # the longest caption of 3,000 scenes needed 38
    "data.max_phrases": 20,
    "data.max_boxes": 6,  # of two to six things
    "data.region_text_length": 12,
}
PACKAGES = "node_modules/emoji-datasource"
BY_HAND = (
    "npm install emoji-datasource-google emoji-datasource-twitter && python -m tools.prepare emoji "
    f"--input train={PACKAGES}-google test={PACKAGES}-twitter --output runs/data/emoji"
)

OFF = {f"objective.{name}.weight": 0.0 for name in ("lexeme_region", "global_region", "powerset")}
LRC = {"objective.lexeme_region.weight": 2.0}
GR = {"objective.global_region.weight": 0.5}
# One crop an image, as one text an image in two: the price of a crop is that of an image.
CROP = {**GR, "objective.global_region.mode": "crop", "data.max_region_crops": 1}
# Said although they are the defaults, so that other defaults make other runs of it.
FORM = {"weight": 0.2, "method": "nla", "zeta": 0.75, "temperature": 1e-3, "margin": 0.2}
FORM |= {"negatives": "hardest", "loss": "triplet", "direction": "both", "words": "phrases"}
POWERSET = OFF | {f"objective.powerset.{name}": value for name, value in FORM.items()}
MIXED = {"data.regions": "mixed"}
MENDS = {
    "semi_hard": {"negatives": "semi_hard"},
    "top_8": {"negatives": "top_k", "top_k": 8},
    "top_8_softmax": {"negatives": "top_k", "top_k": 8, "loss": "softmax"},
    # Of 1,100: the last quarter as the paper has it.
    "growing": {"negatives": "hardest_of", "negative_share_steps": 800},
}
# Both data sets have every variant, one by one. In batches of siblings, where the paper's form collapses, parts and
# regions of it have nothing to tell: there the objectives run and what may keep the term alive.
MAIN = ("clip_mean", "triplet", "lrc", "gr_text", "lrc_gr", "powerset", "exact", "all")


def powerset(**changes):
    """The powerset term beside the global loss, in another form."""
    return POWERSET | {f"objective.powerset.{name}": value for name, value in changes.items()}


def get_table():
    """28 variants on scenes and on emoji drawings; on batches of siblings those that siblings can decide."""
    return Table(
        config="configs/scenes.py",
        seeds=(0, 1, 2),
        data={
            "siblings": Data(
                {**SCENES, "data.group_size": 4},
                prepare="scenes --output runs/data/scenes",
                variants=(*MAIN, "single_regions", "late", *MENDS),
            ),
            "single": Data({**SCENES, "data.group_size": 1}, prepare="scenes --output runs/data/scenes"),
            "emoji": Data(EMOJI, by_hand=BY_HAND),
        },
        variants={
            "clip_mean": OFF,
            "clip": {**OFF, "model.pool": "cls"},
            "triplet": {**OFF, "objective.global_triplet.weight": 0.2, "objective.global_triplet.warmup_steps": 300},
            "lrc": {**OFF, **LRC},
            "gr_text": {**OFF, **GR},
            "gr_crop": {**OFF, **CROP},
            "lrc_gr": {**OFF, **LRC, **GR},
            "powerset": powerset(),
            "zeta_0.25": powerset(zeta=0.25),
            "zeta_0": powerset(zeta=0.0),
            "exact": powerset(method="exact"),
            "sum": powerset(score_norm="sum"),  # the paper's; the quickstart divides by the number of regions
            "random": {**POWERSET, "data.regions": "random", "data.max_boxes": 10},  # the paper's R
            **{f"mixed_m{count}": {**POWERSET, **MIXED, "data.max_boxes": count} for count in (2, 6, 10)},
            **{f"weight_{weight}": powerset(weight=weight) for weight in (0.05, 0.5)},
            "t1_alone": powerset(direction="tree_to_region"),
            "t2_alone": powerset(direction="region_to_tree"),
            "single_regions": powerset(method="single"),
            "single_tokens": powerset(words="tokens"),
            # The whole weight after three quarters of the run, not after 300 steps: does what was learned protect it?
            "late": powerset(warmup_steps=800),
            **{name: powerset(**mend) for name, mend in MENDS.items()},
            "all": {},
        },
        baselines=("clip_mean", "lrc_gr", "powerset"),
        measures=QUICKSTART_MEASURES,
        watched={name: f"powerset/{name}" for name in ("active", "positive", "gap", "spread")},
        common={"evaluation.every_steps": 110, "checkpoint.keep": 1, "log.tensorboard": False},
    )
