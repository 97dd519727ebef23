"""Image-text retrieval: recall at 1, 5 and 10, both ways."""

import numpy as np

from harmopower.evaluation import ranking

DEPTHS = (1, 5, 10)


def recall(images: np.ndarray, texts: np.ndarray) -> dict[str, float]:
    """Recall at `DEPTHS`, where row i of one side is the only right answer to row i of the other.

    Args:
      images, texts: [C, D] L2-normalised.

    Returns:
      `image_to_text_r1` and so on, shares in 0..1; a tie counts as a miss (see `ranking.ranks`).
    """
    similarity, answers = images @ texts.T, np.arange(len(images))
    ways = {"image_to_text": similarity, "text_to_image": similarity.T}
    found = {way: ranking.ranks(scores, answers) for way, scores in ways.items()}
    return {f"{way}_r{k}": ranking.hit_rate(rank, k) for way, rank in found.items() for k in DEPTHS}


def chance(candidates: int) -> dict[str, float]:
    """What a random order of that many candidates reaches, for each metric of `recall`."""
    ways = ("image_to_text", "text_to_image")
    return {f"{way}_r{k}": ranking.chance(k, candidates) for way in ways for k in DEPTHS}
