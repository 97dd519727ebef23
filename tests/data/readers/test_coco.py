"""COCO's and LVIS's files: joined by image, boxes, stuff and spans, on miniatures in the published form."""

import io
import json

import numpy as np
from PIL import Image
import pytest

from harmopower.data import matching
from harmopower.data.readers import coco
from tests.data.readers import common

THINGS = [{"id": 1, "name": "person", "isthing": 1}, {"id": 18, "name": "dog", "isthing": 1}]
STUFF = [{"id": 184, "name": "tree-merged", "isthing": 0}, {"id": 200, "name": "rug/carpet", "isthing": 0}]


def _image(number, **more):
    return {"id": number, "file_name": f"{number:012d}.jpg", "width": 20, "height": 16, **more}


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / f"{number:012d}.jpg").write_bytes(common.photo(number, size=(20, 16)))
    return tmp_path


def _write(folder, name, images, annotations, categories=()):
    content = {"images": images, "annotations": annotations, "categories": list(categories)}
    (folder / name).write_text(json.dumps(content))
    return folder / name


def _captions(folder, *texts):
    annotations = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)]
    return _write(folder, "captions.json", [_image(3), _image(1), _image(2)], annotations)


def _prepare(folder, *options):
    return common.run(folder / "out", "coco", "--images", folder, "--input", *options)


def _thing(image, category, bbox, **more):
    return {"image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0, **more}


def test_captions_and_instances_are_joined_by_image(folder):
    captions = _captions(folder, (1, " A man with two Dogs. \n"), (1, "Hotdogs, no animal"), (2, "Nothing here"))
    things = [
        _thing(1, 18, [5, 4, 10, 8]),
        _thing(1, 1, [15, 0, 10, 16]),  # leaves the image
        _thing(1, 1, [3, 3, 5, 0]),  # published: 2 boxes have no height
        _thing(1, 18, [0, 0, 9, 9], iscrowd=1, segmentation={"counts": [], "size": [16, 20]}),
    ]
    instances = _write(folder, "instances.json", [_image(1), _image(2)], things, THINGS)
    assert _prepare(folder, captions, instances) == 0
    first, second = common.examples(folder / "out")
    assert (first["id"], first["captions"]) == ("1", ["A man with two Dogs.", "Hotdogs, no animal"])
    named = [(part["label"], part["caption"], part["start"], part["end"]) for part in first["regions"]]
    assert named == [("dog", -1, -1, -1), ("dog", 0, 15, 19), ("person", -1, -1, -1)]
    np.testing.assert_allclose(first["regions"][0]["box"], [0.25, 0.25, 0.75, 0.75])
    np.testing.assert_allclose(first["regions"][2]["box"], [0, 0.75, 1, 1])
    assert second["regions"] == []  # an image without boxes stays
    summary = json.loads((folder / "out" / "prepared.json").read_text())
    assert summary["left_out"] == {"no_caption": 1} and summary["notes"] == {"empty_box": 1}


def _mask(*segments):
    ids = np.zeros((16, 20), np.int64)
    for number, (y0, x0, y1, x1) in segments:
        ids[y0:y1, x0:x1] = number
    buffer = io.BytesIO()
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_stuff_boxes_are_the_extents_of_segments(folder):
    """Ids above 255 and 65,535 tell whether the bytes were widened before they were added up."""
    (folder / "masks").mkdir()
    (folder / "masks" / "1.png").write_bytes(
        _mask((7_000_001, (0, 0, 8, 20)), (300, (8, 5, 16, 15)), (5, (9, 6, 10, 7)))
    )
    segments = [
        {"id": 7_000_001, "category_id": 184, "bbox": [1, 1, 1, 1], "iscrowd": 0},
        {"id": 300, "category_id": 200, "bbox": [1, 1, 1, 1], "iscrowd": 0},
        {"id": 5, "category_id": 18, "bbox": [1, 1, 1, 1], "iscrowd": 0},
        {"id": 6, "category_id": 184, "bbox": [1, 1, 1, 1], "iscrowd": 1},
    ]
    annotation = {"image_id": 1, "file_name": "1.png", "segments_info": segments}
    panoptic = _write(folder, "panoptic.json", [_image(1)], [annotation], THINGS + STUFF)
    instances = _write(folder, "instances.json", [_image(1)], [_thing(1, 18, [5, 8, 5, 4])], THINGS)
    captions = _captions(folder, (1, "a dog on a rug"))
    assert _prepare(folder, captions, instances, panoptic, "--panoptic-masks", folder / "masks") == 0
    (example,) = common.examples(folder / "out")
    unnamed = [part for part in example["regions"] if part["caption"] == -1]
    assert [part["label"] for part in unnamed] == ["dog", "tree-merged", "rug or carpet"]
    np.testing.assert_allclose([part["box"] for part in unnamed[1:]], [[0, 0, 0.5, 1], [0.5, 0.25, 1, 0.75]])


def test_lvis_has_no_file_names(folder):
    (folder / "train2017").mkdir()
    (folder / "000000000002.jpg").rename(folder / "train2017" / "000000000002.jpg")
    image = {
        "id": 2,
        "coco_url": "images/train2017/000000000002.jpg",
        "neg_category_ids": [3],
        "width": 20,
        "height": 16,
    }
    things = [{"image_id": 2, "category_id": 9, "bbox": [0, 0, 10, 16], "segmentation": []}]
    lvis = _write(folder, "lvis.json", [image], things, [{"id": 9, "name": "tennis_racket", "synset": "racket.n.04"}])
    assert _prepare(folder, f"val={lvis}", "--caption-from-labels") == 0
    (example,) = common.examples(folder / "out", "val")
    assert example["captions"] == ["tennis racket"] and example["image"] == common.photo(2, size=(20, 16))
    assert [(part["caption"], part["start"], part["end"]) for part in example["regions"]] == [(-1, -1, -1), (0, 0, 13)]


@pytest.mark.parametrize(
    "annotations, words",
    [([{"image_id": 1, "keypoints": []}], ["keypoints"]), ([{"caption": "a"}], ["image_id"]), ("x", ["'annotations'"])],
)
def test_another_file_is_refused_in_one_line(folder, capsys, annotations, words):
    assert _prepare(folder, _write(folder, "x.json", [_image(1)], annotations)) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(word in error for word in ["x.json", *words]), error


@pytest.mark.parametrize(
    "name, caption, found",
    [
        ("dog", "a hotdog", None),
        ("dog", "A DOG.", "DOG"),
        ("bus", "two buses", "buses"),
        ("person", "some people", "people"),
        ("woman", "women", "women"),
        ("wine glass", "wine\n glasses", "wine\n glasses"),
        ("c++", "c++ book", "c++"),
        ("cherry", "cherries", "cherries"),
        ("café", "cafés", "cafés"),
    ],
)
def test_names_are_found_in_whole_words_and_plurals(name, caption, found):
    span = matching.find((name,), caption)
    assert (caption[slice(*span)] if span else None) == found


def test_ids_of_segments():
    assert coco.segment_ids(np.array([[[255, 255, 255], [1, 2, 3]]], np.uint8)).tolist() == [[16_777_215, 197_121]]
