"""The arithmetic of all metrics: known answers, ties, NaN, chance levels."""

import numpy as np
import pytest

from harmopower.evaluation import boxes, classification, composition, ranking, retrieval


def unit(*shape, seed=0):
    vectors = np.random.default_rng(seed).normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_ranks_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.1]])
    np.testing.assert_array_equal(ranking.ranks(scores, [0, 1, 2, 0]), [0, 1, 2, 1])  # the tie counts against
    assert ranking.hit_rate(np.array([0, 1, 2, 1]), 1) == 0.25 and ranking.hit_rate(np.array([0, 1, 2, 1]), 2) == 0.75


def test_a_model_that_is_broken_or_blind_is_never_right():
    for scores in (np.full((4, 4), np.nan), np.full((4, 4), 0.3)):
        np.testing.assert_array_equal(ranking.ranks(scores, np.arange(4)), 3)


def test_chance_never_exceeds_one():
    assert ranking.chance(5, 64) == 5 / 64 and ranking.chance(10, 4) == 1.0


def test_retrieval_of_perfect_embeddings():
    images = unit(20, 32)
    found = retrieval.recall(images, images)
    assert set(found.values()) == {1.0} and list(found) == list(retrieval.chance(20))


def test_retrieval_by_hand_is_not_the_same_both_ways():
    images, texts = np.array([[1, 0], [0.8, 0.6]]), np.array([[1, 0], [0.9, np.sqrt(0.19)]])
    similarity = images @ texts.T  # [[1, .9], [.8, .98]]
    assert similarity[0].argmax() == 0 and similarity[1].argmax() == 1
    assert retrieval.recall(images, texts)["image_to_text_r1"] == 1.0
    texts = np.array([[1, 0], [1, 0]])  # both texts tie for every image; image 0 is best for both texts
    found = retrieval.recall(images, texts)
    assert found["image_to_text_r1"] == 0.0 and found["text_to_image_r1"] == 0.5 and found["image_to_text_r5"] == 1.0


def test_random_embeddings_are_near_chance():
    found, chance = retrieval.recall(unit(1000, 16), unit(1000, 16, seed=1)), retrieval.chance(1000)
    for name, value in found.items():
        assert value == pytest.approx(chance[name], abs=0.01)  # five standard errors for the largest, r10
    labels = np.random.default_rng(2).integers(0, 64, 4000)
    found = boxes.accuracy(unit(4000, 16), unit(64, 16, seed=1), labels)
    for name, value in found.items():
        assert value == pytest.approx(boxes.chance(64)[name], abs=0.02)
    found = composition.accuracy(unit(4000, 8), unit(4000, 8, seed=1), unit(4000, 8, seed=2), ["swap_object"] * 4000)
    assert found["mean"] == pytest.approx(0.5, abs=0.04)


def test_classes_are_means_over_templates():
    assert classification.class_texts(["cat", "dog"])[:2] == ["a cat", "there is a cat"]
    count = len(classification.TEMPLATES)
    texts = np.concatenate([np.tile([1.0, 0, 0], (count, 1)), np.eye(3)[np.arange(count) % 2 + 1]])
    classes = classification.class_embeddings(texts)
    np.testing.assert_allclose(classes, [[1, 0, 0], [0, np.sqrt(0.5), np.sqrt(0.5)]])


def test_classification_of_perfect_and_of_shifted_embeddings():
    classes = np.eye(8)
    labels = np.array([3, 1, 7])
    assert classification.accuracy(classes[labels], classes, labels) == {"top1": 1.0, "top5": 1.0}
    images = classes[labels] * 0.5 + classes[[0, 1, 0]] * 0.8  # class 0 first, the right one second, twice of three
    assert classification.accuracy(images, classes, labels) == {"top1": pytest.approx(1 / 3), "top5": 1.0}


def test_class_mean_counts_rare_classes_as_much():
    classes, labels = np.eye(3), np.array([0, 0, 0, 1])
    found = boxes.accuracy(classes[[0, 0, 0, 2]], classes, labels)  # class 2 has no box: not in the mean
    assert found["top1"] == 0.75 and found["class_mean_top1"] == 0.5


def test_composition_by_kind_where_a_tie_is_wrong():
    image, better, worse = np.array([1.0, 0]), np.array([0.9, 0.1]), np.array([0.5, 0.5])
    kinds = ["swap_object", "swap_object", "swap_attribute", "my_kind"]
    captions, negatives = np.stack([better, worse, better, better]), np.stack([worse, better, better, worse])
    found = composition.accuracy(np.tile(image, (4, 1)), captions, negatives, kinds)
    assert found == {"swap_attribute": 0.0, "swap_object": 0.5, "my_kind": 1.0, "mean": 0.5}
    assert list(found) == list(composition.chance(kinds)) == ["swap_attribute", "swap_object", "my_kind", "mean"]
