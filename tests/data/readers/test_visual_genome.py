"""Visual Genome: folders by address, both names of ids, clipped boxes, on a miniature in the published form."""

import json

import numpy as np

from tests.data.readers import common


def _region(x, y, width, height, phrase, **more):
    return {"x": x, "y": y, "width": width, "height": height, "phrase": phrase, "synsets": [], **more}


def _prepare(folder, described, facts, *options):
    (folder / "region_descriptions.json").write_text(json.dumps(described))
    (folder / "image_data.json").write_text(json.dumps(facts))
    files = ("--input", folder / "region_descriptions.json", "--image-data", folder / "image_data.json")
    return common.run(folder / "out", "visual_genome", *files, "--images", folder, *options)


def _facts(number, folder, key="image_id", **more):
    return {key: number, "url": f"https://example.org/x/{folder}/{number}.jpg", "width": 20, "height": 16, **more}


def _images(tmp_path, **folders):
    for name, numbers in folders.items():
        (tmp_path / name).mkdir()
        for number in numbers:
            (tmp_path / name / f"{number}.jpg").write_bytes(common.photo(number, size=(20, 16)))


def test_phrases_become_texts_and_a_caption(tmp_path):
    _images(tmp_path, VG_100K=[1], VG_100K_2=[2])
    described = [
        {
            "id": 1,
            "regions": [
                _region(5, 4, 10, 8, "a green clock", region_id=1),
                _region(-3, 0, 40, 16, " the café wall ", region_id=2),
                _region(0, 0, 2, 2, "a green clock", region_id=3),
                _region(0, 0, 1, 1, "too long to fit into the caption", region_id=4),
            ],
        },
        {"image_id": 2, "regions": [_region(0, 0, 10, 16, "man", id=5)]},
    ]
    facts = [_facts(1, "VG_100K"), _facts(2, "VG_100K_2", key="id")]
    assert _prepare(tmp_path, described, facts, "--caption-length", 30) == 0
    first, second = common.examples(tmp_path / "out")
    assert (first["id"], first["captions"]) == ("1", ["the café wall. a green clock"])
    texts = [(part["text"], part["caption"], part["start"], part["end"]) for part in first["regions"]]
    clock = ("a green clock", 0, 15, 28)
    assert texts == [("the café wall", 0, 0, 13), clock, clock, ("too long to fit into the caption", -1, -1, -1)]
    np.testing.assert_allclose(first["regions"][0]["box"], [0, 0, 1, 1])
    np.testing.assert_allclose(first["regions"][1]["box"], [0.25, 0.25, 0.75, 0.75])
    assert second["image"] == common.photo(2, size=(20, 16)) and second["captions"] == ["man"]


def test_what_cannot_be_used_is_counted_and_coco_ids_are_guarded(tmp_path):
    _images(tmp_path, VG_100K=[1, 2, 3, 4])
    region = [_region(0, 0, 5, 5, "a dog")]
    described = [{"image_id": number, "regions": region} for number in (1, 2, 3, 7)]
    described += [{"image_id": 4, "regions": [_region(30, 30, 2, 2, "far"), {"phrase": "x"}]}, {"regions": region}, 5]
    facts = [_facts(1, "VG_100K", coco_id=None), _facts(2, "VG_100K", coco_id=-1), _facts(4, "VG_100K")]
    facts.append(_facts(3, "VG_100K", coco_id=42))
    (tmp_path / "ids.txt").write_text("coco:42\n")
    assert _prepare(tmp_path, described, facts, "--exclude", tmp_path / "ids.txt") == 0
    assert [row["id"] for row in common.examples(tmp_path / "out")] == ["1", "2"]
    assert common.reasons(tmp_path / "out") == {"excluded": 1, "missing_key": 3, "no_caption": 1}


def test_another_file_is_refused_in_one_line(tmp_path, capsys):
    assert _prepare(tmp_path, {"images": []}, []) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "region_descriptions.json" in error and "images" in error
