"""SAM and SAM 2: preprocessing as that of transformers, boxes of masks as those that loops find."""

import math

import numpy as np
from PIL import Image
import pytest

from harmopower.data.annotations import masks, models, overlap
from harmopower.data.annotations.overlays import AnnotationError
from tests.data.annotations import tiny_models

EVERYTHING = masks.Filters(min_score=-math.inf, min_stability=0, min_area=0, overlap=1.0, most=10**6)


def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((60, 90), (100, 40))]


def literal_boxes(logits, scores, share, filters):
    """What `filtered` gives, pixel by pixel."""
    found = []
    for mask, score in zip(logits, scores):
        height, width = share[0] * mask.shape[0], share[1] * mask.shape[1]
        mask = mask[: math.ceil(height), : math.ceil(width)]
        ys, xs = np.nonzero(mask > 0)
        loose, tight = (mask > -1).sum(), (mask > 1).sum()
        if not len(ys) or score < filters.min_score or len(ys) / (height * width) < filters.min_area:
            continue
        if tight / loose < filters.min_stability:
            continue
        box = np.array([ys.min() / height, xs.min() / width, (ys.max() + 1) / height, (xs.max() + 1) / width])
        found.append((score, box.clip(0, 1)))
    return found


@pytest.mark.parametrize("share", [(1.0, 1.0), (0.6, 1.0), (1.0, 0.33)])
def test_the_filters_and_boxes_are_those_of_loops(share):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    smooth = rng.normal(size=(60, 4, 4)).repeat(3, 1).repeat(3, 2) * 2 + rng.normal(size=(60, 12, 12)) * 0.3
    smooth[0] = -5  # an empty mask
    scores = rng.uniform(0.5, 1, 60).astype(np.float32)
    filters = masks.Filters(min_score=0.6, min_stability=0.4, min_area=0.3, overlap=1, most=100)
    got = masks.filtered(torch.from_numpy(smooth), torch.from_numpy(scores), share, filters)
    wanted = literal_boxes(smooth, scores, share, filters)
    assert 5 < len(wanted) < 55
    np.testing.assert_array_equal(got[0], [score for score, _ in wanted])
    np.testing.assert_allclose(got[1], [box for _, box in wanted], atol=1e-6)


def test_the_points_lie_in_the_middle_of_their_fields():
    np.testing.assert_allclose(masks.point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    assert masks.point_grid(32).shape == (1024, 2)


@pytest.fixture(scope="module", params=["sam", "sam2"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    getattr(tiny_models, request.param)(folder)
    return request.param, str(folder), masks.Segmenter(request.param, str(folder), "cpu")


@pytest.mark.slow
def test_the_boxes_are_those_of_the_model_asked_point_by_point(made):
    import torch

    kind, _, segmenter = made
    for picture, found in zip(pictures(), segmenter.boxes(pictures(), 3, EVERYTHING)):
        size = segmenter._size(picture)
        pixels = torch.from_numpy(segmenter._pixels(picture, size))[None]
        wanted = []
        for x, y in masks.point_grid(3):
            point = torch.tensor([[[[x * size[0], y * size[1]]]]])
            with torch.inference_mode():
                answer = segmenter._model(pixel_values=pixels, input_points=point, multimask_output=True)
            logits, scores = answer.pred_masks[0, 0].numpy(), answer.iou_scores[0, 0].numpy()
            share = (size[1] / tiny_models.SIDE, size[0] / tiny_models.SIDE)
            wanted += literal_boxes(logits, scores, share, EVERYTHING)
        boxes, scores = np.array([box for _, box in wanted]), np.array([score for score, _ in wanted])
        kept = overlap.suppress(boxes, scores, 1.0, 10**6)
        assert len(found) == len(kept) > 0, kind
        np.testing.assert_allclose(sorted(score for score, _ in found), sorted(scores[kept]), atol=1e-4)
        np.testing.assert_allclose(
            np.sort(np.array([box for _, box in found]), axis=0), np.sort(boxes[kept], axis=0), atol=1e-5
        )


@pytest.mark.slow
def test_the_pixels_of_sam_are_those_of_its_own_processor(made):
    import transformers

    kind, _, segmenter = made
    if kind == "sam2":
        pytest.skip("its processor needs torchvision; the square is checked below")
    side = tiny_models.SIDE
    processor = transformers.SamImageProcessorPil(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    for picture in pictures():
        wanted = processor(picture, return_tensors="np")
        size = segmenter._size(picture)
        assert tuple(wanted["reshaped_input_sizes"][0]) == size[::-1]
        np.testing.assert_allclose(segmenter._pixels(picture, size), wanted["pixel_values"][0], atol=1e-4)


@pytest.mark.slow
def test_sam_2_sees_the_picture_stretched_to_its_square(made):
    kind, _, segmenter = made
    if kind == "sam2":
        side = tiny_models.SIDE
        picture = Image.new("RGB", (30, 10), (255, 0, 0))
        assert segmenter._size(picture) == (side, side)
        red = (np.array([1, 0, 0]) - models.MEAN) / models.STD
        np.testing.assert_allclose(
            segmenter._pixels(picture, (side, side)), red[:, None, None].repeat(side, 1).repeat(side, 2), atol=1e-5
        )


@pytest.mark.slow
def test_the_best_come_first_and_at_most_as_many_as_asked_for(made):
    found = made[2].boxes(pictures(), 3, masks.Filters(-math.inf, 0, 0, 1.0, 4))
    for of in found:
        scores = [score for score, _ in of]
        assert len(of) <= 4 and scores == sorted(scores, reverse=True)
    assert masks.Segmenter.boxes(made[2], pictures(), 3, masks.Filters(math.inf, 0, 0, 1.0, 4)) == [[], []]


@pytest.mark.slow
def test_a_model_of_another_kind_is_refused(made, tmp_path):
    kind, folder, _ = made
    other = "sam2" if kind == "sam" else "sam"
    with pytest.raises(AnnotationError, match=f"of type '{kind}'"):
        masks.Segmenter(other, folder, "cpu")
    with pytest.raises(AnnotationError, match="no model at"):
        masks.Segmenter(kind, str(tmp_path / "nothing"), "cpu")
