"""Box classification: the class of a ground-truth box from its region feature (HarmoCLIP, METHOD section 8)."""

import numpy as np

from harmopower.evaluation import classification, ranking


def accuracy(regions: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 over boxes, and the mean of the classes' own top-1, so that rare classes count as much.

    Args:
      regions: [n, D] region features and classes: [C, D] class texts, L2-normalised.
      labels: int [n], the right class of each box; a class without a box is left out of the class mean.
    """
    labels = np.asarray(labels)
    hit = ranking.ranks(regions @ classes.T, labels) == 0
    by_class = [hit[labels == label].mean() for label in np.unique(labels)]
    return classification.accuracy(regions, classes, labels) | {"class_mean_top1": float(np.mean(by_class))}


def chance(classes: int) -> dict[str, float]:
    """What guessing among that many classes reaches, for each metric of `accuracy`."""
    return classification.chance(classes) | {"class_mean_top1": ranking.chance(1, classes)}
