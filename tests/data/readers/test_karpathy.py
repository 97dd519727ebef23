"""Karpathy's files: splits, folders, captions and ids of miniatures in the published form."""

import json

import pytest

from tests.data.readers import common


def _image(name, split, *captions, **more):
    return {"filename": name, "split": split, "sentences": [{"raw": text, "tokens": []} for text in captions], **more}


def _prepare(tmp_path, images, *options, name="dataset_coco.json"):
    (tmp_path / name).write_text(json.dumps({"images": images, "dataset": "coco"}))
    return common.run(tmp_path / "out", "karpathy", "--input", tmp_path / name, "--images", tmp_path, *options)


def test_coco_has_folders_and_restval_belongs_to_train(tmp_path):
    for number, folder in enumerate(("train2014", "val2014", "val2014")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{number}.jpg").write_bytes(common.photo(number))
    images = [
        _image("0.jpg", "train", " A man with a red helmet \n", "Ein Mann – überall", filepath="train2014", cocoid=7),
        _image("1.jpg", "restval", "A bench.", filepath="val2014", cocoid=8),
        _image("2.jpg", "test", "A café.", *"bcdef", filepath="val2014", cocoid=9),
    ]
    assert _prepare(tmp_path, images) == 0
    first, second = common.examples(tmp_path / "out", "train")
    assert (first["id"], first["captions"]) == ("0.jpg", ["A man with a red helmet", "Ein Mann – überall"])
    assert first["image"] == common.photo(0) and second["captions"] == ["A bench."]
    (third,) = common.examples(tmp_path / "out", "test")
    assert third["captions"] == ["A café.", *"bcdef"] and third["image"] == common.photo(2)


def test_flickr_has_neither_folder_nor_cocoid(tmp_path):
    (tmp_path / "5.jpg").write_bytes(common.photo())
    assert _prepare(tmp_path, [_image("5.jpg", "train", "Two men.")], name="dataset_flickr30k.json") == 0
    assert [row["id"] for row in common.examples(tmp_path / "out")] == ["5.jpg"]


def test_what_cannot_be_used_is_counted_by_reason_and_excluded_ids_stay_out(tmp_path):
    for name in ("good.jpg", "leak.jpg", "silent.jpg"):
        (tmp_path / name).write_bytes(common.photo(len(name)))
    (tmp_path / "ids.txt").write_text("coco:42\n")
    images = [
        _image("good.jpg", "train", "A man."),
        _image("leak.jpg", "train", "A boat.", cocoid=42),
        _image("silent.jpg", "train", "  "),
        _image("gone.jpg", "train", "A dog."),
        _image("../good.jpg", "train", "A dog."),
        _image("good.jpg", "../train", "A dog."),
        {"filename": "good.jpg", "split": "train"},
        {"split": "train"},
        {"filename": "good.jpg", "split": "train", "sentences": [{"tokens": ["a"]}]},
    ]
    assert _prepare(tmp_path, images, "--exclude", tmp_path / "ids.txt") == 0
    assert [row["id"] for row in common.examples(tmp_path / "out")] == ["good.jpg"]
    assert common.reasons(tmp_path / "out") == {
        "excluded": 1,
        "no_caption": 1,
        "image_missing": 1,
        "path_outside": 1,
        "bad_field": 2,
        "missing_key": 2,
    }


@pytest.mark.parametrize("text", ['{"annotations": []}', "[1]", "{"])
def test_another_file_is_refused_in_one_line(tmp_path, capsys, text):
    (tmp_path / "x.json").write_text(text)
    assert common.run(tmp_path / "out", "karpathy", "--input", tmp_path / "x.json", "--images", tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert "x.json" in error and len(error.splitlines()) == 1 and not (tmp_path / "out" / "dataset_info.json").exists()
