"""Overlays: made at once or in parts, laid over the records, refused where they belong to others."""

import json
import pickle
import sys

import numpy as np
import pytest

from harmopower import config as configs
from harmopower.data import pipeline, records, sources
from harmopower.data.annotations import making, match, overlays, protocol
from harmopower.data.tokenize import Tokenizer
from tests.data.annotations import common
from tests.data.preparing.common import tree


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(match.Annotator, "records_per_task", 4)


@pytest.fixture
def data(tmp_path):
    return common.data_set(tmp_path / "data")


def overlay_files(data, name="match") -> dict[str, str]:
    """What of an overlay counts; reports tell the time that tasks took."""
    return {path: mark for path, mark in tree(overlays.folder(data, name)).items() if not path.startswith("making/0")}


def test_an_overlay_keeps_order_ids_and_every_bit_of_boxes(data, capsys):
    assert common.run(data, "match", "--name", "match") == 0
    out = capsys.readouterr().out
    assert "58 regions with a label, 29 of them named by a caption (50.0%)" in out
    plain, overlaid = records.read(data, "train"), overlays.read(data, "train", "match")
    assert len(overlaid) == len(plain) == 23
    for before, after in zip(plain, pickle.loads(pickle.dumps(overlaid)), strict=True):
        assert before["id"] == after["id"] and before["image"] == after["image"]
        assert before["phrases"] == after["phrases"]  # the overlay has none
        assert {region["box"].tobytes() for region in before["regions"]} == {
            region["box"].tobytes() for region in after["regions"]
        }
        assert all(region["box"].dtype == np.float32 for region in after["regions"])
        assert not records.examine(after)
    assert sorted(path.name for path in overlays.folder(data, "match").rglob("*.array_record")) == [
        "test.array_record",
        "train.array_record",
    ]


def test_shares_workers_and_one_process_give_the_same_bytes(data):
    assert common.run(data, "match", "--name", "match") == 0
    expected = overlay_files(data)
    assert len(expected) == 4  # info, plan, and a file for each split
    for folder, arguments in (("workers", ("--workers", 2)), ("shares", ("--share", "1/2"))):
        other = common.data_set(data.parent / folder)
        assert common.run(other, "match", "--name", "match", *arguments) == 0
        if arguments[0] == "--share":
            assert not (other / "annotations" / "match" / overlays.INFO).exists()
            assert common.run(other, "match", "--name", "match", "--share", "0/2") == 0
            assert common.run(other, "match", "--name", "match", "--join") == 0
        assert overlay_files(other) == expected


def test_an_incomplete_overlay_is_not_there_and_goes_on_where_it_was(data, capsys):
    assert common.run(data, "match", "--name", "match", "--share", "0/2") == 0
    with pytest.raises(overlays.AnnotationError, match="has no annotations 'match', or they are not complete"):
        overlays.read(data, "train", "match")
    making = data / "annotations" / "match" / "making"
    done = {path: path.stat().st_mtime_ns for path in making.glob("0*")}
    (making / "00001-train-000.array_record.partial-0").write_bytes(b"half")  # as a kill leaves it
    assert common.run(data, "match", "--name", "match", "--join") == 2
    assert "tasks are not done yet (1, 3" in capsys.readouterr().err
    assert common.run(data, "match", "--name", "match") == 0
    reports = {path: path.stat().st_mtime_ns for path in done if path.suffix == ".json"}
    assert reports and reports.items() <= done.items()
    assert not [*making.glob("*partial*")] and len(overlays.read(data, "train", "match")) == 23
    assert common.run(data, "match", "--name", "match") == 0
    assert "is made already" in capsys.readouterr().out


def test_a_kill_at_the_very_end_leaves_nothing_behind(data, monkeypatch):
    assert common.run(data, "match", "--name", "match") == 0
    expected = overlay_files(data)
    other = common.data_set(data.parent / "other")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(making, "remove_parts", lambda _: sys.exit("killed"))
        common.run(other, "match", "--name", "match")
    making_folder = other / "annotations" / "match" / "making"
    assert len(list(making_folder.glob("*.array_record"))) == 8 and overlays.read(other, "train", "match")
    assert common.run(other, "match", "--name", "match") == 0
    assert overlay_files(other) == expected and not list(making_folder.glob("*.array_record"))


def test_lists_are_added_or_replaced_and_the_last_overlay_is_on_top(data):
    assert common.run(data, "match", "--name", "more", "--mode", "add") == 0
    assert common.run(data, "match", "--name", "match", "--annotations", "more") == 0
    plain, more, match = (overlays.read(data, "train", names)[0]["regions"] for names in ("", "more", "match"))
    assert [len(plain), len(more), len(match)] == [2, 6, 6]  # the dog in both captions, besides what was there
    assert str(more[:2]) == str(plain)
    assert str(overlays.read(data, "train", "more,match")[0]["regions"]) == str(match)
    assert str(overlays.read(data, "train", "match,more")[0]["regions"]) == str(match + more[2:])


def test_slices_of_a_split_have_their_own_lines(data):
    assert common.run(data, "match", "--name", "match") == 0
    whole = [str(example) for example in overlays.read(data, "train", "match")]
    assert [str(example) for example in overlays.read(data, "train[5:9]", "match")] == whole[5:9]
    parts = overlays.read(data, "train[:2]+train[20:]", "match")
    assert [str(example) for example in parts] == whole[:2] + whole[20:]


def test_other_records_are_refused_with_both_values(data):
    assert common.run(data, "match", "--name", "match") == 0
    kept = overlays.folder(data, "match")

    def replaced(examples) -> None:
        records.write(data, {"train": examples}, name="photos")

    assert kept.exists()
    replaced([common.example(number) for number in range(22)])
    with pytest.raises(overlays.AnnotationError, match="of 23 records, but the split train has 22"):
        overlays.read(data, "train", "match")
    replaced([common.example(number) for number in range(1, 24)])
    with pytest.raises(overlays.AnnotationError, match="'photo-000' at record 0, where the data have 'photo-001'"):
        overlays.read(data, "train", "match")
    changed = [common.example(number) for number in range(23)]
    changed[11]["captions"][1] += "."
    replaced(changed)
    overlaid = overlays.read(data, "train", "match")
    assert overlaid[10]["id"] == "photo-010"
    with pytest.raises(
        overlays.AnnotationError, match="captions that have changed since .of 'photo-011'. at record 11"
    ):
        overlaid[11]


def test_a_try_with_a_limit_is_laid_over_as_many_records_only(data):
    assert common.run(data, "match", "--name", "match", "--limit", 5) == 0
    assert len(overlays.read(data, "train[:5]", "match")) == 5
    with pytest.raises(overlays.AnnotationError, match=r"of 5 records \(made with --limit 5\), but .* train has 23"):
        overlays.read(data, "train", "match")


def test_another_overlay_of_the_name_is_kept_unless_force(data, capsys):
    assert common.run(data, "match", "--name", "match") == 0
    before = tree(data)
    assert common.run(data, "match", "--name", "match", "--mode", "add") == 2
    assert "mode 'replace' -> 'add'" in capsys.readouterr().err
    assert common.run(data, "match", "--name", "match", "--mode", "add", "--share", "0/2", "--force") == 2
    assert tree(data) == before
    marks = [overlays.fingerprint(data, "train", names) for names in ("", "match")]
    assert common.run(data, "match", "--name", "match", "--mode", "add", "--force") == 0
    marks.append(overlays.fingerprint(data, "train", "match"))
    assert marks[0] == records.fingerprint(data, "train")
    assert marks[1]["annotations"]["match"] != marks[2]["annotations"]["match"]


def test_annotating_writes_nothing_else_into_the_data_set(data):
    before = tree(data)
    assert common.run(data, "match", "--name", "match") == 0
    after = tree(data)
    assert {path: after[path] for path in before} == before
    assert all(path.startswith("annotations/match/") for path in after.keys() - before.keys())


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a,b"])
def test_names_are_folders_of_one_level(data, name, capsys):
    assert common.run(data, "match", "--name", name) == 2
    assert "--name is" in capsys.readouterr().err


def test_nothing_that_is_laid_over_makes_a_record_bad(data, monkeypatch):
    def broken(self, part, examples):
        for number, example in enumerate(examples):
            region = example["regions"][0] | {"box": [0, 0, 2, 1] if number == 1 else [0, 0, 1, 1]}
            yield {"regions": [region]}

    monkeypatch.setattr(match.Annotator, "annotate", broken)
    assert common.run(data, "match", "--name", "match") == 0
    info = json.loads((data / "annotations" / "match" / overlays.INFO).read_text())
    assert info["left_out"] == {"box_outside": 8}
    assert "photo-001" in str(info["named"][0]) and overlays.read(data, "train", "match")[1]["regions"] == []


def test_what_is_drawn_is_a_function_of_seed_and_id():
    draws = [protocol.generator(seed, name).random() for seed, name in ((0, "a"), (0, "b"), (1, "a"), (0, "a"))]
    assert draws[0] == draws[3] and len(set(draws)) == 3


def test_training_reads_overlays_and_knows_them_by_their_contents(data):
    assert common.run(data, "match", "--name", "match") == 0
    Tokenizer.train([caption for number in range(23) for caption in common.example(number)["captions"]], 300).save(
        data / "tokenizer.json"
    )
    config = configs.get_config().data
    config.source, config.image_size, config.context_length, config.max_boxes = str(data), 8, 32, 4
    plain = pipeline.from_config(config, seed=0, batch_size=4)
    marks = [sources.fingerprint(config)]
    config.annotations = "match"
    matched = pipeline.from_config(config, seed=0, batch_size=4)
    marks.append(sources.fingerprint(config))
    config.annotations, config.sources = "", f"{data}, {data} annotations=match"
    mixed = pipeline.from_config(config, seed=0, batch_size=4)
    found = [maker.batch(0)["box_phrase"] >= 0 for maker in (plain, matched, mixed)]
    assert not found[0].any() and found[1].any(1).all()
    assert found[2].any(1).sum() == 2  # every other example is of the second data set
    assert [maker.batch(0)["box_valid"].sum() for maker in (plain, matched)] == [8, 8]  # each box once
    assert sources.fingerprint(config) == marks and marks[0] != marks[1]
