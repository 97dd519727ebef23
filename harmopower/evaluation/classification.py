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
