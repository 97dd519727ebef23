"""Leak guards: each reads a published test set's own file and keeps its images out, by name and count."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from harmopower.data.preparing import guards
from harmopower.data.readers.protocol import ReaderError
from tests.data.readers import common

REFS = [{"image_id": 3, "split": "train"}, {"image_id": 4, "split": "testA"}, {"image_id": 5, "split": "val"}]
FILES = {
    "coco": ({"images": [{"id": 7}, {"id": 8}], "annotations": []}, {"coco:7", "coco:8"}),
    "lvis": ({"images": [{"id": 7, "coco_url": "x/train2017/7.jpg"}]}, {"coco:7"}),
    "karpathy": ({"images": [{"cocoid": i, "split": s} for i, s in enumerate(("train", "restval", "val", "test"))]},
                 {"coco:2", "coco:3"}),
    "refcoco": (REFS, {"coco:4", "coco:5"}),
}  # fmt: skip


@pytest.mark.parametrize("name", guards.GUARDS)
def test_the_ids_of_a_published_file(tmp_path, name):
    content, expected = FILES[name]
    (tmp_path / "file.json").write_text(json.dumps(content))
    assert guards.read(f"{name}={tmp_path / 'file.json'}") == (name, expected)


def test_refs_may_be_parquet(tmp_path):
    pyarrow.parquet.write_table(pa.Table.from_pylist(REFS), tmp_path / "refs.parquet")
    assert guards.read(f"refcoco={tmp_path / 'refs.parquet'}")[1] == {"coco:4", "coco:5"}


@pytest.mark.parametrize(
    "guard", ["coco", "cocoa=x.json", "coco=missing.json", "refcoco={}", "coco=[]", 'lvis={"images":[]}']
)
def test_what_is_no_guard_is_refused(tmp_path, guard):
    name, _, text = guard.partition("=")
    if text and not text.endswith(".json"):
        (tmp_path / "x").write_text(text)
        guard = f"{name}={tmp_path / 'x'}"
    with pytest.raises(ReaderError, match="--guard"):
        guards.read(guard)


def test_guarded_images_are_left_out_by_name(tmp_path):
    names = [f"COCO_train2014_{number:012d}.jpg" for number in (1, 2)]
    for name in names:
        (tmp_path / name).write_bytes(common.photo())
    images = [{"id": number, "file_name": name, "caption": "a dog"} for number, name in enumerate(names)]
    (tmp_path / "final.json").write_text(json.dumps({"images": images, "annotations": []}))
    (tmp_path / "val.json").write_text(json.dumps({"images": [{"id": 2}]}))
    options = ("--input", tmp_path / "final.json", "--images", tmp_path, "--guard", f"coco={tmp_path / 'val.json'}")
    assert common.run(tmp_path / "out", "mdetr", *options) == 0
    assert len(common.examples(tmp_path / "out")) == 1 and common.reasons(tmp_path / "out") == {"guard_coco": 1}
