"""HarmoCLIP's ablation on COCO: which of its losses brings what, with both modes of GR (docs/finetuning.md).

Every variant is configs/coco_harmoclip_vitb16.py from the same published weights, `runs/init/b16`, with fewer losses.
Its 10 epochs of the 118,287 images of train2017 are said in steps, at which a table compares.
"""

from harmopower.experiments.table import Data, Table

NO_LRC, NO_GR = ({f"objective.{name}.weight": 0.0} for name in ("lexeme_region", "global_region"))
CROP = {"objective.global_region.mode": "crop"}
BY_HAND = (
    "python -m tools.convert_weights --source ViT-B-16.pt --output runs/init/b16 --tokenizer clip && "
    "python -m tools.prepare coco --images train2017 --output runs/data/coco --tokenizer clip "
    "--input train=captions_train2017.json train=instances_train2017.json; and below runs/data/evaluation what "
    "docs/evaluation.md says of the sets coco_val2017 and coco"
)


def get_table():
    """GC alone, each loss beside it, and all of them."""
    return Table(
        config="configs/coco_harmoclip_vitb16.py",
        seeds=(0, 1, 2),
        data={"coco": Data({"data.source": "runs/data/coco"}, by_hand=BY_HAND)},
        variants={
            "gc": {**NO_LRC, **NO_GR},
            "gc_lrc": NO_GR,
            "gc_gr": NO_LRC,
            "gc_gr_crop": {**NO_LRC, **CROP},
            "all": {},
            "all_crop": CROP,
        },
        baselines=("gc",),
        measures={
            "R@1": "*coco_val2017/*_r1",
            "boxes, class mean": "*coco_boxes/fineclip/roi_align_value/macc1",
            "boxes, instances": "*coco_boxes/fgclip/roi_align_value/top1",
        },
        common={
            "total_epochs": 0.0,
            "total_steps": 4620,
            "evaluation.suite": "retrieval,boxes",
            "evaluation.data": "runs/data/evaluation",
            "evaluation.box_features": "roi_align_value",
            "evaluation.every_steps": 0,  # at the end
            "checkpoint.keep": 1,
        },
    )
