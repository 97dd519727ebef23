"""Image-text retrieval: recall at 1, 5 and 10, both ways, where every caption of an image is a right answer."""

import numpy as np

from harmopower.evaluation import ranking

DEPTHS = (1, 5, 10)


def recall(images: np.ndarray, texts: np.ndarray, owners: np.ndarray | None = None) -> dict[str, float]:
    """Recall at `DEPTHS`: the share of queries that have a right answer among their first k.

    That is what CLIP and its successors report: of an image with five captions one suffices. (The share of all right
    answers that are found, which the word means elsewhere, is lower.) Similarities are computed in blocks on all
    devices, each way its own, so memory does not grow with the number of pairs.

    Args:
      images: [I, D] and texts: [T, D], L2-normalised.
      owners: int [T], the image of each text; None: text i belongs to image i.

    Returns:
      `image_to_text_r1` and so on, shares in 0..1; a wrong answer that ties with the best right one comes before it.
      Images without a text are no queries.
    """
    owners = np.arange(len(texts)) if owners is None else np.asarray(owners)
    from harmopower.evaluation import similarity  # jax, which worker processes that hold tasks go without

    names = np.arange(len(images))
    found = {
        "image_to_text": similarity.ranks(images, texts, names, owners),
        "text_to_image": similarity.ranks(texts, images, owners, names),
    }
    return {f"{way}_r{k}": ranking.hit_rate(rank[rank >= 0], k) for way, rank in found.items() for k in DEPTHS}


def chance(images: int, texts: int | None = None) -> dict[str, float]:
    """What a random order reaches, for each metric of `recall`.

    Args:
      texts: where there are more than images, each image has the same number of them.
    """
    texts = images if texts is None else texts
    found = {f"image_to_text_r{k}": 1 - _all_missed(k, texts, texts / images) for k in DEPTHS}
    return found | {f"text_to_image_r{k}": ranking.chance(k, images) for k in DEPTHS}


def _all_missed(k: int, texts: int, own: float) -> float:
    """The probability that none of the first `k` of a random order is one's own."""
    return float(np.prod([max(0.0, 1 - own / (texts - place)) for place in range(min(k, texts))]))
