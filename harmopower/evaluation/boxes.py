"""Box classification: the class of a ground-truth box from its region feature (METHOD section 8)."""

from typing import Protocol

import numpy as np

from harmopower.evaluation import classification, ranking
from harmopower.evaluation.suite import Found

# What each published protocol reports; `macc` are means over the classes that have boxes (CLIPSelf's word).
METRICS = {
    "clipself": ("thing_macc1", "thing_macc5", "stuff_macc1", "stuff_macc5"),
    "fineclip": ("macc1", "macc5"),
    "fgclip": ("top1", "top5"),
}
_WRONG = 3  # of the most frequent wrong answers in a row of confusions


class Classes(Protocol):
    """Their names, and which of them are things."""

    names: list[str]
    things: np.ndarray


def score(protocol: str, regions: np.ndarray, classes: np.ndarray, labels: np.ndarray, kind: Classes) -> Found:
    """The figures of a protocol, and a table of confusions; a tie is wrong.

    Args:
      protocol: of `METRICS`.
      regions: [n, D] and classes: [C, D], L2-normalised.
      labels: int [n].
    """
    rank, answers = _answers(regions, classes, labels)
    found = Found(
        _figures(protocol, rank, labels, kind.things), tables={"confusions": confusions(answers, labels, kind)}
    )
    found.chance = {name: ranking.chance(5 if name.endswith("5") else 1, len(classes)) for name in found.metrics}
    return found


def _figures(protocol: str, rank: np.ndarray, labels: np.ndarray, things: np.ndarray) -> dict[str, float]:
    if protocol == "fgclip":
        return {f"top{k}": ranking.hit_rate(rank, k) for k in (1, 5)}
    groups = {"": np.ones(len(labels), bool)}
    if protocol == "clipself":
        groups = {"thing_": things[labels], "stuff_": ~things[labels]}
    return {
        f"{prefix}macc{k}": class_mean(rank[group] < k, labels[group])
        for prefix, group in groups.items()
        if group.any()
        for k in (1, 5)
    }


def _answers(regions: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rank of the right class, and the class that is first; -1 where the right one ties with another."""
    ranks, answers = [], []
    for part, scores in ranking.blocks(regions, classes):
        rank, best = ranking.ranks(scores, labels[part]), scores.argmax(1)
        ranks.append(rank)
        answers.append(np.where((rank > 0) & (best == labels[part]), -1, best))
    return np.concatenate(ranks), np.concatenate(answers)


def confusions(answers: np.ndarray, labels: np.ndarray, kind: Classes) -> list[list]:
    """A row a class that has boxes: how many, the share that is right, and the most frequent wrong answers."""
    rows: list[list] = [["class", "boxes", "right", *(f"{n}. wrong answer, share" for n in range(1, _WRONG + 1))]]
    for label in np.unique(labels):
        own = answers[labels == label]
        wrong, counts = np.unique(own[own != label], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:_WRONG]
        named = [f"{kind.names[wrong[n]] if wrong[n] >= 0 else 'a tie'}: {counts[n] / len(own):.4f}" for n in most]
        rows.append([kind.names[label], len(own), round(float((own == label).mean()), 4), *named])
    return rows


def class_mean(hit: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the classes' own shares of hits; a class without a box is left out."""
    return float(np.mean([hit[labels == label].mean() for label in np.unique(labels)]))


def accuracy(regions: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 over boxes, and the mean of the classes' own top-1, so that rare classes count as much.

    Args:
      regions: [n, D] region features and classes: [C, D] class texts, L2-normalised.
      labels: int [n], the right class of each box; a class without a box is left out of the class mean.
    """
    labels = np.asarray(labels)
    hit = ranking.ranks(regions @ classes.T, labels) == 0
    return classification.accuracy(regions, classes, labels) | {"class_mean_top1": class_mean(hit, labels)}


def chance(classes: int) -> dict[str, float]:
    """What guessing among that many classes reaches, for each metric of `accuracy`."""
    return classification.chance(classes) | {"class_mean_top1": ranking.chance(1, classes)}
