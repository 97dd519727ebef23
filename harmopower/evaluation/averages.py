"""The averages that the papers print, over complete sets only, and their published rows (METHOD section 8)."""

from typing import NamedTuple

import numpy as np

from harmopower.evaluation.suite import Found


class Average(NamedTuple):
    """The mean of some results."""

    title: str
    results: tuple[str, ...]


_SETS = (
    "food101 cifar10 cifar100 sun397 cars voc2007 fgvc_aircraft dtd pets caltech101 flowers stl10 eurosat resisc45 "
    "gtsrb country211 pcam"
)
_VARIANTS = "imagenet1k imagenetv2 imagenet-a imagenet-r imagenet-o imagenet_sketch"
_RETRIEVAL = "mscoco_captions flickr8k flickr30k"

ZERO_SHOT = Average("zero_shot_17", tuple(f"{name}/acc1" for name in _SETS.split()))
IMAGENET = Average("imagenet_6", tuple(f"{name}/acc1" for name in _VARIANTS.split()))
RETRIEVAL = Average(
    "retrieval_6", tuple(f"{s}/{way}_r1" for s in _RETRIEVAL.split() for way in ("image_to_text", "text_to_image"))
)

# PowerCLIP (arXiv 2511.23170), ViT-B/16 trained on CC12M for 32 epochs, as METHOD section 8 has them.
PUBLISHED = {
    "CLIP (PowerCLIP's table)": (0.351, 0.427, 0.310),
    "CLIP-PGS (PowerCLIP's table)": (0.395, 0.451, 0.329),
    "SPARC (PowerCLIP's table)": (0.378, 0.423, 0.320),
    "PowerCLIP-R": (0.415, 0.458, 0.347),
    "PowerCLIP-S": (0.422, 0.470, 0.351),
}


def name(average: Average) -> str:
    """What the average is called among the results."""
    return f"average/{average.title}"


def published() -> dict[str, dict[str, float]]:
    """Model -> name of the average -> what its paper reports."""
    names = [name(average) for average in (ZERO_SHOT, RETRIEVAL, IMAGENET)]
    return {model: dict(zip(names, row, strict=True)) for model, row in PUBLISHED.items()}


def both(found: Found, *averages: Average) -> Found:
    """The averages of which every part was measured on a complete set; of the others how many of how many were."""
    result = Found()
    for average in averages:
        partial = {part.split("/")[0] for part in found.partial}
        there = [part for part in average.results if part in found.metrics and part.split("/")[0] not in partial]
        if len(there) == len(average.results):
            result.metrics[name(average)] = float(np.mean([found.metrics[part] for part in there]))
            result.chance[name(average)] = float(np.mean([found.chance[part] for part in there]))
        elif there or any(part in found.metrics for part in average.results):
            missing = ", ".join(part for part in average.results if part not in there)
            result.left_out[name(average)] = f"{len(there)} of {len(average.results)} are complete; not: {missing}"
    return result
