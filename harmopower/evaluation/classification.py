"""Zero-shot classification of images by the similarity to class texts."""

import numpy as np

from harmopower.evaluation import ranking

# Sentence patterns of the embedded scenes; neutral enough for other data (our choice).
TEMPLATES = ("a {}", "there is a {}", "a picture of a {}", "a photo of a {}")
DEPTHS = (1, 5)


def class_texts(classes: list[str]) -> list[str]:
    """The texts whose embeddings `class_embeddings` takes: all templates of the first class, then of the second, ..."""
    return [template.format(name) for name in classes for template in TEMPLATES]


def class_embeddings(texts: np.ndarray) -> np.ndarray:
    """One embedding a class: the normalised mean over its templates, as CLIP ensembles prompts.

    Args:
      texts: [C * len(TEMPLATES), D] L2-normalised, in the order of `class_texts`.

    Returns:
      [C, D] L2-normalised.
    """
    means = texts.reshape(-1, len(TEMPLATES), texts.shape[-1]).mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=-1, keepdims=True), 1e-12)


def accuracy(images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 over all classes; a tie counts as wrong (see `ranking.ranks`).

    Args:
      images: [n, D] and classes: [C, D], L2-normalised.
      labels: int [n], the right class of each image.
    """
    rank = ranking.ranks(images @ classes.T, labels)
    return {f"top{k}": ranking.hit_rate(rank, k) for k in DEPTHS}


def chance(classes: int) -> dict[str, float]:
    """What guessing among that many classes reaches, for each metric of `accuracy`."""
    return {f"top{k}": ranking.chance(k, classes) for k in DEPTHS}


def recalls(images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The three figures of clip_benchmark for sets with one label an image (its `metrics/zeroshot_classification.py`).

    Args:
      images: [n, D] and classes: [C, D], L2-normalised.
      labels: int [n].

    Returns:
      `acc1`, `acc5` where there are five classes or more, and `mean_per_class_recall`, over the classes that have
      images. A tie counts as wrong, where clip_benchmark takes the class that comes first.
    """
    rank = ranking.nearest(images, classes, labels)
    right = rank == 0
    found = {"acc1": ranking.hit_rate(rank, 1)}
    if len(classes) >= 5:
        found["acc5"] = ranking.hit_rate(rank, 5)
    counts = np.bincount(labels, minlength=len(classes))
    hits = np.bincount(labels, weights=right, minlength=len(classes))
    return found | {"mean_per_class_recall": float((hits[counts > 0] / counts[counts > 0]).mean())}


def recall_chance(classes: int) -> dict[str, float]:
    """What guessing reaches, for each figure of `recalls`."""
    found = {f"acc{k}": ranking.chance(k, classes) for k in DEPTHS if k == 1 or classes >= k}
    return found | {"mean_per_class_recall": 1 / classes}


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """mAP for sets with several labels an image: the mean over classes of the average precision of their images.

    As clip_benchmark computes it: precision at each positive, not interpolated, and a class without any counts as 0.
    Of equal scores the negatives come first (our choice; the order is undefined there).

    Args:
      scores: [n, C], similarity of images and classes.
      targets: [n, C], 1 where the image has the class.
    """
    found = []
    for score, target in zip(scores.T, np.asarray(targets, bool).T, strict=True):
        truth = target[np.lexsort((target, -score))]
        precision = np.cumsum(truth) / np.arange(1, len(truth) + 1)
        found.append(precision[truth].sum() / max(truth.sum(), 1))
    return float(np.mean(found))
