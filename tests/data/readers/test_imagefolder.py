"""Images by class, in the layouts of torchvision and clip_benchmark, up to the suite that measures them."""

import pytest

from harmopower import config as configs
from harmopower.data import records
from harmopower.evaluation.suites import records as suite
from tests.data.readers import common, tar_files

CLASSES = ["crème brûlée", "tabby cat", "Zebra"]


def _folders(root, classes, seed=0):
    for number, name in enumerate(classes):
        (root / name / "more").mkdir(parents=True)
        (root / name / "b.JPEG").write_bytes(common.photo(seed + number))
        (root / name / "more" / "a.png").write_bytes(common.photo(seed + number, kind="PNG"))
        (root / name / "list.txt").write_text("no image")


def _run(tmp_path, *options, name="data"):
    return common.run(tmp_path / "out", "imagefolder", "--input", tmp_path / name, *options)


def _labels(rows):
    for row in rows:
        (region,) = row["regions"]
        assert region["box"].tolist() == [0, 0, 1, 1] and row["captions"] == [region["label"]]
        assert (region["caption"], region["start"], region["end"]) == (0, 0, len(region["label"]))
    return [(row["id"], row["captions"][0]) for row in rows]


def test_a_folder_a_class(tmp_path):
    _folders(tmp_path / "data", CLASSES)
    assert common.run(tmp_path / "out", "imagefolder", "--input", f"test={tmp_path / 'data'}") == 0
    found = common.examples(tmp_path / "out", "test")
    order = sorted(CLASSES)
    assert _labels(found) == [(f"{name}/{file}", name) for name in order for file in ("b.JPEG", "more/a.png")]
    assert found[0]["image"] == common.photo(CLASSES.index(order[0]))
    assert records.metadata(tmp_path / "out") == {"classes": order}


def test_a_folder_a_split_and_names_by_a_file(tmp_path):
    _folders(tmp_path / "data" / "train", ["n01", "n02"])
    _folders(tmp_path / "data" / "val", ["n02", "n10"], seed=5)
    (tmp_path / "names.txt").write_text("tench\ngreat white shark \nloggerhead\n\n")
    assert _run(tmp_path, "--class-names", tmp_path / "names.txt") == 0
    assert [label for _, label in _labels(common.examples(tmp_path / "out"))] == ["tench"] * 2 + [
        "great white shark"
    ] * 2
    assert _labels(common.examples(tmp_path / "out", "validation"))[0] == ("val/n02/b.JPEG", "great white shark")
    assert records.metadata(tmp_path / "out") == {"classes": ["tench", "great white shark", "loggerhead"]}


def _tars(root, members, classes=CLASSES):
    (root / "classnames.txt").parent.mkdir(parents=True, exist_ok=True)
    if classes:
        (root / "classnames.txt").write_text("\n".join(classes))
    for number, rows in enumerate(members):
        tar_files.write(root / "test" / f"{number}.tar", rows)
    (root / "test" / "nshards.txt").write_text(f"{len(members)}\n")


def test_clip_benchmarks_tars(tmp_path):
    first = [("s0000000.webp", common.photo(0, kind="WEBP")), ("s0000000.cls", "2")]
    second = [
        ("s0000001.jpg", common.photo(1)),
        ("s0000001.cls", "0"),
        ("s0000002.jpg", common.photo(2)),
        ("s0000002.cls", "3"),
    ]
    _tars(tmp_path / "data", [first, [*second, ("s0000003.jpg", common.photo(3)), ("s0000003.txt", "x")]])
    assert _run(tmp_path) == 0
    found = common.examples(tmp_path / "out", "test")
    assert _labels(found) == [("s0000000", "Zebra"), ("s0000001", "crème brûlée")]
    assert found[0]["image"] == first[0][1] and common.reasons(tmp_path / "out") == {"bad_field": 1, "missing_key": 1}
    assert records.metadata(tmp_path / "out") == {"classes": CLASSES}


def test_clip_benchmarks_retrieval_has_all_captions(tmp_path):
    rows = [
        ("s0.jpg", common.photo()),
        ("s0.txt", "ein Hund\\nam Meer\n猫 🐈\n"),
        ("s1.jpg", common.photo(1)),
        ("s1.txt", ""),
    ]
    _tars(tmp_path / "data", [rows], classes=None)
    (tmp_path / "data" / "dataset_type.txt").write_text("retrieval")
    assert _run(tmp_path) == 0
    (row,) = common.examples(tmp_path / "out", "test")
    assert row["captions"] == ["ein Hund\nam Meer", "猫 🐈"] and row["regions"] == []
    assert common.reasons(tmp_path / "out") == {"no_caption": 1}
    assert records.metadata(tmp_path / "out") == {"classes": []}


def test_the_suite_of_records_finds_the_classes(tmp_path):
    _folders(tmp_path / "data" / "test", CLASSES)
    assert _run(tmp_path) == 0
    config = configs.get_config()
    config.data.source = str(tmp_path / "out")
    task = suite.SUITE.tasks(config)["test"]
    assert task.numbers == {name: number for number, name in enumerate(sorted(CLASSES))}
    labels = {example["regions"][0]["label"] for example in task.source}
    assert labels == set(CLASSES) and "classification/top1" in task.metrics


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda root: (root / "a").mkdir(), ["classes", "splits", "it has: a"]),
        (
            lambda root: (_tars(root, [[]]), (root / "test" / "nshards.txt").write_text("2")),
            ["1.tar is missing", "2 tars"],
        ),
        (lambda root: _tars(root, [[]], classes=None), ["classnames.txt"]),
        (lambda root: _tars(root, [[]], classes=["crane", "cat", "crane"]), ["'crane'", "--class-names"]),
        (lambda root: (_tars(root, [[]]), (root / "dataset_type.txt").write_text("multilabel")), ["'multilabel'"]),
        (lambda root: _folders(root / "my split", ["a"]), ["'my split'", "no name of a split"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, capsys, make, words):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    assert _run(tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error


def test_a_wrong_number_of_names_is_refused(tmp_path, capsys):
    _folders(tmp_path / "data", ["n01", "n02"])
    (tmp_path / "names.txt").write_text("tench\n")
    assert _run(tmp_path, "--class-names", tmp_path / "names.txt") == 2
    assert "1 lines for 2 folders of classes, n01 to n02" in capsys.readouterr().err
