import hypothesis
from hypothesis import strategies
import numpy as np

from harmopower.data.annotations import overlap


def literal_ratio(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0


def literal(boxes, scores, threshold, most):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if len(kept) < most and all(literal_ratio(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@hypothesis.given(strategies.integers(0, 2**31), strategies.integers(0, 40), strategies.integers(1, 12))
def test_suppression_is_the_literal_one(seed, count, most):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 8, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 5, (count, 2))], axis=1)  # empty and equal ones among them
    scores = rng.integers(0, 6, count) / 5
    for threshold in (0.0, 0.3, 0.7, 1.0):
        assert overlap.suppress(boxes, scores, threshold, most) == literal(boxes.tolist(), scores, threshold, most)
