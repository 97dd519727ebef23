"""The objectives in float64 NumPy, written from METHOD.md alone: plain loops and sums, no trick of the package."""

import itertools

import numpy as np


def valid_part(s, region_mask, phrase_mask):
    return np.asarray(s, np.float64)[np.asarray(region_mask, bool)][:, np.asarray(phrase_mask, bool)]


def subset_sums(s):
    """Q_Ak for all subsets A of the rows of s [M, K]: [2^M, K]."""
    subsets = np.array(list(itertools.product((0.0, 1.0), repeat=len(s)))).reshape(2 ** len(s), len(s))
    return subsets @ s


def tree_to_region(s):
    """mean_k max_A Q_Ak, by enumeration."""
    return subset_sums(s).max(0).mean() if s.size else 0.0


def region_to_tree(s):
    """2^-M sum_A max_k Q_Ak, by enumeration."""
    return subset_sums(s).max(1).mean() if s.size else 0.0


def t1(s, tau):
    return (tau * np.logaddexp(0, s / tau)).sum(0).mean() if s.size else 0.0


def t2(s, tau, zeta):
    if not s.size:
        return 0.0
    half = s / tau / 2
    log_cosh = np.logaddexp(half, -half) - np.log(2)
    return tau * np.logaddexp.reduce((half + zeta * log_cosh).sum(0))


def single(s):
    """T2R and R2T of single regions: a phrase takes the best region or none, a region the best phrase."""
    if not s.size:
        return 0.0, 0.0
    return np.mean([max(0.0, *column) for column in s.T]), np.mean([max(row) for row in s])


def score(s, method="nla", temperature=1e-3, zeta=0.75, score_norm="sum", direction="both"):
    if method == "exact":
        both = tree_to_region(s), region_to_tree(s)
    elif method == "single":
        both = single(s)
    else:
        both = t1(s, temperature), t2(s, temperature, zeta)
    total = {"both": sum(both), "tree_to_region": both[0], "region_to_tree": both[1]}[direction]
    return total / max(len(s), 1) if score_norm == "mean" else total


def scores(regions, region_mask, phrases, phrase_mask, **how):
    """X [B_images, B_texts]."""
    return np.array(
        [
            [score(valid_part(r @ p.T, rm, pm), **how) for p, pm in zip(phrases, phrase_mask)]
            for r, rm in zip(regions, region_mask)
        ]
    )


def triplet(x, margin, weight):
    """mean_i relu(max_{j != i} X_ij - X_ii + margin) on X and on its transpose, over the rows that have weight."""
    total = 0.0
    for matrix in (x, x.T):
        for i in np.flatnonzero(weight):
            others = [matrix[i, j] for j in np.flatnonzero(weight) if j != i]
            total += weight[i] * max(max(others) - matrix[i, i] + margin, 0) if others else 0.0
    return total / max(weight.sum(), 1e-6)


def log_sum_exp(values):
    return np.logaddexp.reduce(values)


def softmax(image, text, scale, weight):
    """CLIP's symmetric cross-entropy over the rows that have weight."""
    kept = np.flatnonzero(weight)
    logits, w = scale * image[kept] @ text[kept].T, weight[kept]
    rows = [log_sum_exp(logits[i]) - logits[i, i] for i in range(len(kept))]
    columns = [log_sum_exp(logits[:, i]) - logits[i, i] for i in range(len(kept))]
    return float((w * (np.array(rows) + columns)).sum() / 2 / w.sum()) if len(kept) else 0.0


def sigmoid(image, text, scale, bias, weight):
    """SigLIP: the sum over all pairs of -log sigmoid(+-logit), a mean over images."""
    kept = np.flatnonzero(weight)
    logits, w = scale * image[kept] @ text[kept].T + bias, weight[kept]
    signs = 2 * np.eye(len(kept)) - 1
    return float((w * np.logaddexp(0, -signs * logits).sum(1)).sum() / w.sum()) if len(kept) else 0.0


def pairs(a, b, valid, group, scale, duplicates):
    """Symmetric InfoNCE over the valid rows, equal groups positive (or all but the row itself left out)."""
    kept = np.flatnonzero(valid)
    total = 0.0
    for left, right in ((a, b), (b, a)):
        for i in kept:
            same = [j for j in kept if group[j] == group[i]] if duplicates == "positives" else [i]
            pool = kept if duplicates == "positives" else [j for j in kept if j == i or group[j] != group[i]]
            logits = {j: scale * left[i] @ right[j] for j in kept}
            total += log_sum_exp([logits[j] for j in pool]) - np.mean([logits[j] for j in same])
    return total / 2 / max(len(kept), 1)


def bilinear(image, y, x):
    """Value of image [H, W, C] at a point; outside -1 .. H, -1 .. W it is 0, from there to the border the border's."""
    height, width = image.shape[:2]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(image.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    return (
        (1 - down) * (1 - across) * image[top, left]
        + (1 - down) * across * image[top, right]
        + down * (1 - across) * image[bottom, left]
        + down * across * image[bottom, right]
    )


def roi_align(image, box):
    """Textbook RoIAlign of image [H, W, C] to one cell: aligned, ceil(length) samples along each axis."""
    height, width = image.shape[:2]
    y0, x0, y1, x1 = np.asarray(box, np.float64) * [height, width, height, width] - 0.5
    rows, columns = int(np.ceil(y1 - y0)), int(np.ceil(x1 - x0))
    points = [
        (y0 + (i + 0.5) * (y1 - y0) / rows, x0 + (j + 0.5) * (x1 - x0) / columns)
        for i in range(rows)
        for j in range(columns)
    ]
    return np.mean([bilinear(image, y, x) for y, x in points], axis=0)


def directional_derivative(function, arguments, directions, step=1e-6):
    """Central difference of a float64 function along directions of its arguments."""
    ahead = function(*(a + step * d for a, d in zip(arguments, directions)))
    behind = function(*(a - step * d for a, d in zip(arguments, directions)))
    return (ahead - behind) / (2 * step)
