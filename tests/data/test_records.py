"""Records: what is written comes back, what is wrong is named, what is missing is explained."""

import io
import pickle
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from harmopower.data import records, shards
from harmopower.data.scenes import builder as scenes


def _image(color=(200, 30, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def _example(name="000001", **changes) -> dict:
    example = {
        "id": name,
        "image": _image(),
        "captions": ["a red circle", "café, ein roter Kreis"],
        "phrases": [{"caption": 0, "start": 0, "end": 12, "label": "NP"}],
        "regions": [
            {"box": [0.0, 0.25, 0.5, 1.0], "caption": 0, "start": 2, "end": 12, "text": "", "label": "red circle"},
            {"box": [0.1, 0.2, 0.3, 0.4], "caption": -1, "start": -1, "end": -1, "text": "thé", "label": ""},
        ],
        "negatives": [{"caption": 1, "kind": "replace_object", "text": "a red square"}],
    }
    return example | changes


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    bare = {"id": "bare", "image": _image(), "captions": []}
    train = (_example(f"{i:06d}", image=_image((i, i, i))) for i in range(5))
    records.write(path, {"train": train, "test": [bare, _example()]}, name="own", metadata={"classes": ["red circle"]})
    return path


def _plain(example: dict) -> dict:
    regions = [region | {"box": np.asarray(region["box"], np.float32).tolist()} for region in example["regions"]]
    return example | {"regions": regions}


def test_examples_come_back_as_written(directory):
    source = records.read(directory, "train")
    assert len(source) == 5
    for i, example in enumerate(source):
        assert _plain(example) == _plain(_example(f"{i:06d}", image=_image((i, i, i))))
    assert source[0]["regions"][0]["box"].dtype == np.float32


def test_missing_lists_are_empty(directory):
    example = records.read(directory, "test")[0]
    assert [example[key] for key in ("captions", "phrases", "regions", "negatives")] == [[], [], [], []]


def test_source_survives_pickling_and_slices(directory):
    source = pickle.loads(pickle.dumps(records.read(directory, "train")))
    assert source[3]["id"] == "000003"
    assert [example["id"] for example in records.read(directory, "train[1:3]")] == ["000001", "000002"]


def test_shards_end_by_bytes_and_the_same_examples_are_the_same_bytes(tmp_path):
    examples = [_example(f"{i:06d}") for i in range(10)]
    size = len(records.serialise(examples[0]))
    for folder, shard_bytes in (("one", 3 * size), ("two", 3 * size), ("whole", shards.SHARD_BYTES)):
        records.write(tmp_path / folder, {"train": iter(examples)}, name="own", shard_bytes=shard_bytes)
    contents = {
        folder: {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("one", "two")
    }
    assert contents["one"] == contents["two"]
    cut = [f"own-train.array_record-{number:05d}-of-00004" for number in range(4)]  # of 3, 3, 3 and 1
    assert sorted(name for name in contents["one"] if "array_record" in name) == cut
    assert [path.name for path in (tmp_path / "whole").glob("*array_record*")] == [
        "own-train.array_record-00000-of-00001"
    ]
    for folder in ("one", "whole"):
        assert [example["id"] for example in records.read(tmp_path / folder, "train")] == [e["id"] for e in examples]


def test_metadata(directory):
    assert records.metadata(directory) == {"classes": ["red circle"]}


def test_newest_version_folder_counts(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        records.write(tmp_path / version, {"train": [_example(version)]}, name="own")
    assert records.read(tmp_path, "train")[0]["id"] == "1.10.0"


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_missing_data_set_says_what_to_run(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(records.DataSourceError) as error:
        records.read(tmp_path / folder, "train")
    for part in (str(tmp_path / folder), "config.data.source", "python -m tools.prepare"):
        assert part in str(error.value)


def test_wrong_split_names_the_splits(directory):
    with pytest.raises(records.DataSourceError, match=r"'trian'.*train \(5 examples\), test \(2 examples\)"):
        records.read(directory, "trian")


def test_image_must_be_encoded(tmp_path):
    with pytest.raises(records.RecordError, match="record 7: image is ndarray"):
        records.write(tmp_path, {"train": [_example("7", image=np.zeros((2, 2, 3)))]}, name="own")


def test_good_example_has_no_problem():
    assert records.check(_example()) == []


def _region(**changes) -> list[dict]:
    return [_example()["regions"][0] | changes]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"captions": [], "phrases": [], "regions": [], "negatives": []}, ["no caption"]),
        ({"captions": ["a red circle", "  "]}, ["captions[1] is empty", "'  '"]),
        ({"regions": _region(box=[0.0, 0.0, 1.5, 1.0])}, ["regions[0].box", "1.5", "0 to 1"]),
        ({"regions": _region(box=[0.0, float("nan"), 1.0, 1.0])}, ["regions[0].box", "nan"]),
        ({"regions": _region(box=[0.5, 0.1, 0.2, 0.3])}, ["regions[0].box", "empty", "0.5", "0.2"]),
        ({"regions": _region(end=13)}, ["regions[0]", "2 to 13", "0 to 12"]),
        ({"regions": _region(caption=2)}, ["regions[0]", "caption 2", "2 captions"]),
        ({"regions": _region(start=-1)}, ["regions[0]", "-1 to 12"]),
        ({"phrases": [{"caption": 0, "start": 4, "end": 4, "label": "NP"}]}, ["phrases[0]", "4 to 4"]),
        ({"negatives": [{"caption": -1, "kind": "x", "text": "y"}]}, ["negatives[0]", "caption -1"]),
        ({"image": _image()[:40]}, ["image", "40 bytes", "cannot be decoded"]),
        ({"image": b""}, ["image", "0 bytes"]),
    ],
)
def test_check_names_what_is_wrong(changes, words):
    problems = records.check(_example("000042", **changes))
    assert len(problems) == 1
    assert "record 000042" in problems[0]
    for word in words:
        assert word in problems[0]


def test_check_can_leave_the_image_out():
    assert records.check(_example(image=b"no image"), decode_image=False) == []


def test_a_wrong_box_can_be_stored_and_named(tmp_path):
    records.write(tmp_path, {"train": [_example(regions=_region(box=[-3.0, 0.0, 1.0, 2.0]))]}, name="own")
    assert "[-3.0, 0.0, 1.0, 2.0]" in records.check(records.read(tmp_path, "train")[0])[0]


def test_reading_needs_neither_tensorflow_nor_jax(directory):
    script = (
        "import sys; from harmopower.data import records; "
        f"records.read({str(directory)!r}, 'train')[0]; "
        "sys.exit(', '.join({'tensorflow', 'jax'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class _Flaky:
    """Reads of a real source that fail so many times; shared by its pickled copies, as a disk is."""

    failures = 0

    def __init__(self, raw):
        self.raw = raw

    def __getattr__(self, name):
        if name == "raw":  # asked for while it is unpickled
            raise AttributeError(name)
        return getattr(self.raw, name)

    def __getitem__(self, index):
        if _Flaky.failures:
            _Flaky.failures -= 1
            raise OSError("Input/output error")
        return self.raw[index]


def test_a_read_that_fails_for_moments_is_tried_again(directory, monkeypatch):
    monkeypatch.setattr(records, "_FIRST_WAIT", 0.001)
    source = records.Source(_Flaky(records.read(directory, "train")._raw))
    for failures in (1, 3):
        _Flaky.failures = failures
        assert source[3]["id"] == "000003" and _Flaky.failures == 0


def test_a_read_that_goes_on_failing_names_the_file(directory, monkeypatch):
    monkeypatch.setattr(records, "_FIRST_WAIT", 0.001)
    source = records.Source(_Flaky(records.read(directory, "train[2:]")._raw))
    _Flaky.failures = 4
    with pytest.raises(records.DataSourceError, match=r"record 1 in .*own-train.*number 3.*4 times: Input/output"):
        source[1]
    assert _Flaky.failures == 0 and source[1]["id"] == "000003"


def test_damaged_bytes_of_a_shard_name_it(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_FIRST_WAIT", 0.001)
    records.write(tmp_path, {"train": [_example(f"{i:06d}") for i in range(9)]}, name="own")
    (shard,) = (path for path in tmp_path.iterdir() if "array_record" in path.name)
    damaged = bytearray(shard.read_bytes())
    damaged[100:300] = bytes(200)
    shard.write_bytes(damaged)
    with pytest.raises(records.DataSourceError, match=shard.name):
        for _ in records.read(tmp_path, "train"):
            pass


def test_a_row_has_the_regions_of_its_caption_and_each_box_once():
    one, other, third = [0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.6, 0.6], [0.3, 0.3, 0.7, 0.7]
    regions = [
        {"box": np.array(box, np.float32), "caption": caption, "start": start}
        for box, caption, start in [
            (one, -1, -1),
            (one, 0, 2),
            (one, 1, 4),
            (other, -1, -1),
            (other, 1, 0),
            (third, 1, 7),
        ]
    ]
    example = {"regions": regions}
    assert records.regions_of(example, 0) == [regions[1], regions[3]]
    assert records.regions_of(example, 1) == [regions[2], regions[4], regions[5]]
    assert records.regions_of(example, 2) == [regions[0], regions[3]]


def test_the_rows_of_the_scenes_have_the_regions_that_they_have_stored():
    for index in range(100):
        example = scenes.make_example("train", index)
        assert records.regions_of(example, 0) == example["regions"]
