"""The detectors on tiny random models, against transformers' own processors."""

import numpy as np
from PIL import Image
import pytest

from harmopower.data.annotations import detectors
from harmopower.data.annotations.overlays import AnnotationError
from tests.data.annotations import tiny_models
from tests.data.annotations.test_masks import pictures

TEXTS = [["a dog", "the red sofa", "cat"], ["dog"]]


def test_a_prompt_has_a_point_after_each_text_and_none_within():
    text, spans = detectors.prompt(["A Dog", "St. Mary's?  church"])
    assert text == "a dog. st mary's church."
    assert [text[start:end] for start, end in spans] == ["a dog", "st mary's church"]


def test_the_score_of_a_text_is_that_of_its_best_token():
    scores = np.array([[0.9, 0.1, 0.3, 0.8], [0.5, 0.4, 0.2, 0.0]])
    offsets = np.array([[0, 0], [0, 1], [2, 5], [5, 6]])
    np.testing.assert_allclose(detectors._span_score(scores, offsets, (0, 5)), [0.3, 0.4])
    np.testing.assert_allclose(detectors._span_score(scores, offsets, (7, 9)), [0, 0])  # it was cut


def test_of_boxes_over_each_other_the_best_counts_and_empty_ones_do_not():
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.49], [0.6, 0.6, 0.9, 0.9], [1.0, 0.2, 1.4, 0.8]])
    scores = np.array([0.5, 0.7, 0.6, 0.99])
    found = detectors._best(3, scores, boxes, 0.5, 9)
    assert [(one.text, one.score) for one in found] == [(3, 0.7), (3, 0.6)]
    assert [one.score for one in detectors._best(3, scores, boxes, 0.65, 9)] == [0.7]
    assert len(detectors._best(3, scores, boxes, 0.0, 1)) == 1


@pytest.fixture(scope="module", params=["owlv2", "grounding_dino"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    getattr(tiny_models, request.param)(folder)
    return request.param, str(folder), detectors.detector(str(folder), "cpu")


@pytest.mark.slow
def test_boxes_and_scores_are_those_of_transformers_own_processor(made):
    import torch
    import transformers

    kind, folder, detector = made
    assert isinstance(detector, {"owlv2": detectors.Owlv2, "grounding_dino": detectors.GroundingDino}[kind])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    name = {"owlv2": "Owlv2Processor", "grounding_dino": "GroundingDinoProcessor"}[kind]
    processor = getattr(transformers, name)(detector._processor, tokenizer)
    for picture in pictures():
        text = "a dog" if kind == "grounding_dino" else ["a dog"]
        options = {} if kind == "grounding_dino" else {"padding": "max_length", "max_length": 16}
        inputs = processor(
            text=[text + "." if kind == "grounding_dino" else text], images=[picture], return_tensors="pt", **options
        )
        with torch.inference_mode():
            answer = detector._model(**inputs)
        sizes = [picture.size[::-1]]
        (wanted,) = processor.post_process_grounded_object_detection(answer, threshold=0.0, target_sizes=sizes)
        wide, high = picture.size
        corners = wanted["boxes"].numpy() / [wide, high, wide, high]
        best = detector.locate([picture], [["a dog"]], 0.0, 1)[0][0]
        near = np.abs(corners[:, [1, 0, 3, 2]].clip(0, 1) - best.box).max(axis=1) < 1e-4
        assert near.any()
        if kind == "owlv2":  # one text, so the processor's score is the text's own
            assert best.score == pytest.approx(wanted["scores"].numpy()[near].max(), abs=1e-5)


@pytest.mark.slow
def test_a_picture_is_seen_alike_alone_and_in_a_batch(made):
    detector = made[2]
    together = detector.locate(pictures(), TEXTS, 0.0, 2)
    for picture, texts, found in zip(pictures(), TEXTS, together):
        (alone,) = detector.locate([picture], [texts], 0.0, 2)
        assert {one.text for one in found} == set(range(len(texts)))
        if (
            made[0] == "owlv2"
        ):  # GroundingDINO's images and prompts are padded to the largest, which moves the last digits
            assert [one.text for one in found] == [one.text for one in alone]
            np.testing.assert_allclose([one.score for one in found], [one.score for one in alone], atol=1e-4)
    assert detector.locate(pictures(), [[], ["dog"]], 0.0, 1)[0] == []


@pytest.mark.slow
def test_many_texts_take_several_passes_and_none_is_lost(made):
    detector = made[2]
    texts = [f"{a} {b}" for a in tiny_models.WORDS[:6] for b in tiny_models.WORDS[:5]]
    assert made[0] == "owlv2" or len(list(detector._together(texts))) > 2  # of 32 tokens
    (found,) = detector.locate(pictures()[:1], [texts], 0.0, 1)
    assert sorted(one.text for one in found) == list(range(len(texts)))


@pytest.mark.slow
def test_what_is_no_detector_is_refused(tmp_path):
    tiny_models.sam(tmp_path)
    with pytest.raises(AnnotationError, match="type 'sam'; detectors are grounding-dino, owlv2"):
        detectors.kind_of(str(tmp_path))


def test_corners_of_a_centre_and_sides():
    np.testing.assert_allclose(detectors.corners(np.array([[0.5, 0.4, 0.2, 0.6]])), [[0.1, 0.4, 0.7, 0.6]], atol=1e-12)
    square = Image.new("RGB", (200, 100))
    found = detectors.Owlv2._in_shares(None, np.array([[0.25, 0.25, 0.5, 0.5]]), square.size)
    np.testing.assert_allclose(found, [[0, 0, 1, 0.5]])  # the picture fills the upper half of the square
