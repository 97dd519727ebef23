"""MDETR's files: words and boxes of a miniature in the published form."""

import json

import numpy as np

from tests.data.readers import common

CAPTION = "Two young guys with shaggy hair look at their hands ."


def _prepare(tmp_path, images, annotations, *options):
    path = tmp_path / "final.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return common.run(tmp_path / "out", "mdetr", "--input", path, "--images", tmp_path, *options)


def _box(image_id, bbox, *ranges, **more):
    return {"image_id": image_id, "bbox": bbox, "tokens_positive": list(map(list, ranges)), "category_id": 1, **more}


def test_words_name_boxes(tmp_path):
    (tmp_path / "vg").mkdir()
    (tmp_path / "a.jpg").write_bytes(common.photo(0, size=(20, 16)))
    (tmp_path / "vg" / "b.jpg").write_bytes(common.photo(1))
    images = [
        {"id": 5, "file_name": "a.jpg", "caption": CAPTION, "width": 20, "height": 16, "data_source": "coco"},
        {"id": 6, "file_name": "b.jpg", "caption": " Zwei Männer ", "data_source": "vg"},
    ]
    annotations = [
        _box(6, [0, 0, 30, 8], (1, 5)),  # leaves the image on the right
        _box(5, [5, 4, 10, 8], (0, 14), (20, 31)),
        _box(5, [0, 0, 20, 16]),
        _box(5, [0, 0, 2, 2], (0, 3), iscrowd=1),
    ]
    assert _prepare(tmp_path, images, annotations, "--vg-images", tmp_path / "vg") == 0
    first, second = common.examples(tmp_path / "out")
    assert first["captions"] == [CAPTION] and first["image"] == common.photo(0, size=(20, 16))
    spans = [(part["caption"], part["start"], part["end"]) for part in first["regions"]]
    assert spans == [(0, 0, 14), (0, 20, 31), (-1, -1, -1)]
    np.testing.assert_allclose(first["regions"][0]["box"], [0.25, 0.25, 0.75, 0.75])
    np.testing.assert_allclose(first["regions"][2]["box"], [0, 0, 1, 1])
    np.testing.assert_allclose(second["regions"][0]["box"], [0, 0, 0.5, 1])
    assert second["captions"] == [" Zwei Männer "] and second["image"] == common.photo(1)


def test_bad_entries_are_counted_by_reason(tmp_path):
    (tmp_path / "a.jpg").write_bytes(common.photo())
    images = [{"id": i, "file_name": "a.jpg", "caption": CAPTION} for i in range(6)]
    images += [
        {"id": 6, "file_name": "../a.jpg", "caption": "x"},
        {"id": 7, "caption": "x"},
        {"id": 8, "file_name": "a"},
    ]
    annotations = [
        _box(1, [1, 1, 3, 3], (0, 999)),
        _box(2, [float("nan"), 1, 3, 3], (0, 3)),
        _box(3, [1, 1, 0, 3], (0, 3)),
        {"image_id": 4},
        _box(5, [1, 1, 3, 3], (3,)),
    ]
    assert _prepare(tmp_path, images, annotations) == 0
    assert len(common.examples(tmp_path / "out")) == 1
    found = common.reasons(tmp_path / "out")
    assert found == {"bad_span": 1, "nan_box": 1, "empty_box": 1, "bad_box": 2, "path_outside": 1, "missing_key": 2}
