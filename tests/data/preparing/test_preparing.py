"""Preparing: shards, resumption, shares, what is left out and why, and what a folder may be used for."""

import hashlib
import json
import os
import shutil
import struct
import zlib

from PIL import Image
import pytest

from harmopower.data import records
from harmopower.data.preparing import checking
from harmopower.data.readers import jsonl, protocol
from harmopower.data.tokenize import Tokenizer
from tests.data.preparing import common
from tools import prepare


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Units of 4 images and shards of at least 3 units, so that a few images make a job of several tasks."""
    monkeypatch.setattr(protocol, "_UNIT_IMAGES", 4)
    monkeypatch.setattr(jsonl.Reader, "shard_bytes", 12 * len(common.picture(0)))


@pytest.fixture
def photos(tmp_path):
    return common.photographs(tmp_path, 40)


def ids(folder, split="train") -> list[str]:
    return [example["id"] for example in records.read(folder, split)]


def summary(folder) -> dict:
    return json.loads((folder / "prepared.json").read_text())


def test_many_shards_hold_everything_in_order(photos):
    assert common.run(photos) == 0
    out = photos.parent / "out"
    assert ids(out) == [str(number) for number in range(1, 41)]
    assert len(list(out.glob("own-train.array_record-*-of-*"))) > 3
    for number, example in enumerate(records.read(out, "train")):
        assert example["image"] == common.picture(number)
        assert example["captions"] == [f"photo {number} – “dog” näher, 犬"]
    assert not [name for name in common.tree(out) if "partial" in name or ".info" in name]


def test_workers_shares_and_one_process_give_the_same_bytes(photos):
    assert common.run(photos, "--test-fraction", 0.3) == 0
    expected = common.tree(photos.parent / "out")
    assert common.run(photos, "--test-fraction", 0.3, "--workers", 2, output="two") == 0
    assert common.tree(photos.parent / "two") == expected
    for index in (2, 0, 1):
        assert not (photos.parent / "parts" / "dataset_info.json").exists()
        assert common.run(photos, "--test-fraction", 0.3, "--share", f"{index}/3", output="parts") == 0
    assert common.run(photos, "--test-fraction", 0.3, "--join", output="parts") == 0
    assert common.tree(photos.parent / "parts") == expected


def test_join_waits_for_all_shares(photos, capsys):
    assert common.run(photos, "--share", "0/2") == 0
    capsys.readouterr()
    assert common.run(photos, "--join") == 2
    assert "tasks are not done yet (1, 3" in capsys.readouterr().err
    assert not (photos.parent / "out" / "dataset_info.json").exists()


def test_only_what_is_missing_is_done_again(photos):
    assert common.run(photos) == 0
    expected = common.tree(photos.parent / "out")
    assert common.run(photos, "--share", "0/2", output="again") == 0
    folder = photos.parent / "again" / "preparing"
    reports = [folder / f"{number:05d}.json" for number in range(4)]
    assert [path.exists() for path in reports] == [True, False, True, False]
    # As a kill in the middle of a task leaves it.
    (folder / "00001-train-000.array_record.partial-0").write_bytes(b"half")
    (folder / "00003-train-000.array_record").write_bytes(b"whole, but its task was not at its end")
    kept = [os.stat(path).st_mtime_ns for path in reports[::2]]
    assert common.run(photos, output="again") == 0
    assert common.tree(photos.parent / "again") == expected
    assert [os.stat(path).st_mtime_ns for path in reports[::2]] == kept


def test_changed_images_are_noticed(photos, capsys):
    assert common.run(photos) == 0
    capsys.readouterr()
    assert common.run(photos) == 0
    assert "is prepared already" in capsys.readouterr().out
    (photos.parent / "3.png").write_bytes(common.picture(255))  # as long as before
    assert len(common.picture(255)) == len(common.picture(3))
    assert common.run(photos) == 0
    assert "inputs that have changed since; preparing it again" in capsys.readouterr().out
    assert records.read(photos.parent / "out", "train")[3]["image"] == common.picture(255)


def test_a_folder_of_other_data_is_refused_without_force(photos, capsys):
    assert common.run(photos) == 0
    before = common.tree(photos.parent / "out")
    other = photos.with_name("other.jsonl")
    shutil.copy(photos, other)
    capsys.readouterr()
    assert common.run(other) == 2
    error = capsys.readouterr().err
    assert "own.jsonl" in error and "other.jsonl" in error and "--force" in error and error.count("\n") == 1
    assert common.tree(photos.parent / "out") == before
    assert common.run(other, "--force") == 0
    assert summary(photos.parent / "out")["settings"]["options"]["input"] == [f"train={other}"]


def test_force_makes_it_anew(photos):
    assert common.run(photos) == 0
    out = photos.parent / "out"
    before, shard = common.tree(out), next(out.glob("own-train.array_record-*"))
    time = os.stat(shard).st_mtime_ns
    assert common.run(photos, "--force") == 0
    assert common.tree(out) == before
    assert os.stat(shard).st_mtime_ns > time


def test_shares_do_not_replace_a_data_set(photos, capsys):
    assert common.run(photos) == 0
    assert common.run(photos, "--drop-bad-boxes", "--share", "0/2") == 2
    assert "shares run at the same time" in capsys.readouterr().err


def test_inputs_have_splits_and_lines_may_say_their_own(photos):
    test = photos.with_name("test.jsonl")
    lines = [{"image": "1.png", "caption": "a"}, {"image": "2.png", "caption": "b", "split": "val"}]
    test.write_text("\n".join(map(json.dumps, lines)))
    arguments = ["jsonl", "--input", photos, f"test={test}", "--output", photos.parent / "out", "--vocab-size", 300]
    assert prepare.main([str(argument) for argument in arguments]) == 0
    assert records.splits(photos.parent / "out") == {"train": 40, "test": 1, "val": 1}
    assert ids(photos.parent / "out", "test") == ["1-1"]


def test_limit_makes_a_small_one(photos):
    assert common.run(photos, "--limit", 5) == 0
    assert ids(photos.parent / "out") == ["1", "2", "3", "4", "5"]


def test_dry_run_shows_and_writes_nothing(photos, capsys):
    assert common.run(photos, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "train 1: image 9 x 7" in printed and "photo 2 – “dog” näher, 犬" in printed and "photo 3" not in printed
    assert "KiB" in printed or "MiB" in printed
    assert not (photos.parent / "out").exists()


def bomb() -> bytes:
    """A PNG of some bytes that says it has 40,000 x 40,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + common.picture(1)[33:]


BAD = {
    "unreadable": b"{broken",
    "not_utf8": b'{"image": "1.png", "caption": "caf\xe9"}',
    "missing_key": b'{"file": "1.png", "caption": "a"}',
    "bad_field": b'{"image": "1.png", "caption": "a", "colour": "red"}',
    "image_missing": b'{"image": "absent.png", "caption": "a"}',
    "image_empty": b'{"image": "empty.jpg", "caption": "a"}',
    "image_broken": b'{"image": "truncated.jpg", "caption": "a"}',
    "image_bomb": b'{"image": "bomb.png", "caption": "a"}',
    "path_outside": b'{"image": "../out.png", "caption": "a"}',
    "duplicate_id": b'{"image": "1.png", "caption": "a", "id": 1}',
    "empty_caption": b'{"image": "1.png", "caption": " "}',
    "bad_tree": b'{"image": "1.png", "caption": "a", "tree": "(NP (DT the))"}',
    "nan_box": b'{"image": "1.png", "caption": "a", "boxes": [{"box": [NaN, 0, 1, 1]}]}',
    "box_outside": b'{"image": "1.png", "caption": "a", "boxes": [{"box": [0, 0, 1, 2]}]}',
    "empty_box": b'{"image": "1.png", "caption": "a", "boxes": [{"box": [0.5, 0, 0.5, 1]}]}',
    "bad_box": b'{"image": "1.png", "caption": "a", "boxes": [{"box": [0, 0, 1]}]}',
    "bad_span": b'{"image": "1.png", "caption": "a", "boxes": [{"box": [0, 0, 1, 1], "span": [0, 2]}]}',
}
MORE = {
    "not_utf8": b'{"image": "1.png", "caption": "\\ud800"}',
    "unreadable": b"[" * 100_000,
    "image_broken": b'{"image": "own.jsonl", "caption": "a"}',
    "path_outside": b'{"image": "/etc/hostname", "caption": "a"}',
}


@pytest.fixture
def damaged(photos, monkeypatch):
    monkeypatch.setattr(jsonl.Reader, "shard_bytes", 1 << 30)
    folder = photos.parent
    Image.effect_noise((64, 64), 80).save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:900])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "bomb.png").write_bytes(bomb())
    good = photos.read_bytes().splitlines()
    photos.write_bytes(b"\n".join([good[0], *BAD.values(), *MORE.values(), *good[1:]]))
    return photos


def test_every_bad_input_is_counted_under_its_reason(damaged, capsys):
    assert common.run(damaged) == 0
    out = damaged.parent / "out"
    counted = summary(out)["left_out"]
    assert counted == {reason: 1 + (reason in MORE) for reason in BAD}, counted
    assert len(ids(out)) == 40
    report = json.loads((out / "preparing" / "00000.json").read_text())
    assert {reason for reason, _, _ in report["named"]} == set(BAD)
    assert all("own.jsonl line" in text for _, _, text in report["named"])
    assert "40 of 61 samples used, 21 left out: bad_box 1" in capsys.readouterr().out


def test_strict_ends_with_the_first_bad_sample(damaged, capsys):
    assert common.run(damaged, "--strict") == 65
    assert "--strict: unreadable" in capsys.readouterr().err
    assert not (damaged.parent / "out" / "dataset_info.json").exists()
    assert common.run(damaged) == 0  # strictness is not part of the plan


def test_max_bad_fails_the_job(damaged, capsys):
    assert common.run(damaged, "--max-bad", 0.3) == 65
    error = capsys.readouterr().err
    assert "21 of 61 samples (34.43%)" in error and "--max-bad 0.3" in error and "nan_box 1" in error
    assert not (damaged.parent / "out" / "dataset_info.json").exists()
    assert common.run(damaged, "--max-bad", 0.4) == 0


def test_a_bad_box_may_cost_the_box_alone(tmp_path):
    photos = common.photographs(tmp_path, 1)
    boxes = [{"box": [float("nan"), 0, 1, 1]}, {"box": [0.5, 0.0, 1.0, 0.25], "label": "dog"}, {"box": [1]}]
    boxes += [{"box": [0, 0, 1, 1], "span": [5, 99]}, {"box": [0, 0, 0, 0]}, {"box": [0, 0, 1, 9]}]
    photos.write_text(json.dumps({"image": "0.png", "caption": "a dog", "boxes": boxes}))
    assert common.run(photos) == 2
    assert common.run(photos, "--drop-bad-boxes") == 0
    (example,) = records.read(tmp_path / "out", "train")
    assert [(list(region["box"]), region["label"]) for region in example["regions"]] == [([0.5, 0, 1, 0.25], "dog")]
    expected = {"bad_box": 1, "bad_span": 1, "box_outside": 1, "empty_box": 1, "nan_box": 1}
    assert summary(tmp_path / "out")["notes"] == expected


def test_a_file_without_the_key_fails_early_and_names_its_keys(tmp_path, capsys):
    path = tmp_path / "own.jsonl"
    path.write_text('{"picture": "1.png", "text": "a"}\n' * 1500)
    assert common.run(path) == 65
    error = capsys.readouterr().err
    assert "none of the first 1000 samples" in error and "picture, text" in error
    path.write_text('{"picture": "1.png", "text": "a"}\n' * 3)
    assert common.run(path) == 2
    assert "none of the 3 samples" in (error := capsys.readouterr().err) and "picture, text" in error


def test_excluded_by_id_and_by_hash(photos):
    excluded = photos.with_name("excluded.txt")
    excluded.write_text("7\n" + hashlib.sha256(common.picture(20)).hexdigest() + "\n\n")
    assert common.run(photos, "--exclude", excluded) == 0
    out = photos.parent / "out"
    assert set(map(str, range(1, 41))) - set(ids(out)) == {"7", "21"}
    assert summary(out)["left_out"] == {"excluded": 2}
    excluded.write_text("8\n")
    assert common.run(photos, "--exclude", excluded) == 0
    assert "7" in ids(out) and "8" not in ids(out)


def test_shortest_side(tmp_path):
    photos = common.photographs(tmp_path, 2)
    (tmp_path / "0.png").write_bytes(common.picture(0, (90, 60)))
    assert common.run(photos, "--shortest-side", 20) == 0
    large, small = records.read(tmp_path / "out", "train")
    assert protocol.image_size(large["image"]) == (30, 20) and small["image"] == common.picture(1)


def test_ids_are_unique_over_all_shards(photos):
    lines = photos.read_text().splitlines()
    photos.write_text("\n".join(line[:-1] + f', "id": "{number % 30}"}}' for number, line in enumerate(lines)))
    assert common.run(photos) == 0
    out = photos.parent / "out"
    assert ids(out) == [str(number) for number in range(30)]
    assert [example["image"] for example in records.read(out, "train")] == [common.picture(n) for n in range(30)]
    assert summary(out)["left_out"] == {"duplicate_id": 10}
    for index in range(2):
        assert common.run(photos, "--share", f"{index}/2", output="parts") == 0
    assert common.run(photos, "--join", "--workers", 2, output="parts") == 0
    assert common.tree(photos.parent / "parts") == common.tree(out)


def test_tokenizer_of_a_path_is_copied(photos):
    assert common.run(photos) == 0
    given = photos.parent / "out" / "tokenizer.json"
    assert common.run(photos, "--tokenizer", given, output="other") == 0
    made = Tokenizer.load("", photos.parent / "other")
    assert made.encode("photo 17", 16)[0].tolist() == Tokenizer.load(str(given), "").encode("photo 17", 16)[0].tolist()
    assert common.run(photos, "--tokenizer", photos.parent / "absent.json", output="third") == 2


def test_check_finds_bad_records_and_images_that_splits_share(photos, capsys):
    assert common.run(photos) == 0
    assert prepare.main(["check", "--data", str(photos.parent / "out")]) == 0
    bad = {"id": "x", "image": b"no image", "captions": [""]}
    shared = {"id": "y", "image": common.picture(5), "captions": ["a"]}
    train = [{"id": str(number), "image": common.picture(number), "captions": ["a"]} for number in range(9)]
    records.write(photos.parent / "leaky", {"train": train, "test": [bad, shared]}, name="own")
    capsys.readouterr()
    assert prepare.main(["check", "--data", str(photos.parent / "leaky")]) == 65
    printed = capsys.readouterr()
    assert "test: empty_caption: record x" in printed.out and "test: image_broken: record x" in printed.out
    assert "the same image: train 5 and test y" in printed.out
    assert "2 problems, 1 images in several splits" in printed.err


def test_check_says_the_same_with_worker_processes_and_less_with_a_limit(photos, capsys, monkeypatch):
    monkeypatch.setattr(checking, "_RANGE", 4)
    bad = {"id": "x", "image": b"no image", "captions": ["a"]}
    train = [{"id": str(number), "image": common.picture(number), "captions": ["a"]} for number in range(9)]
    records.write(photos.parent / "leaky", {"train": [*train, bad], "test": train[7:8]}, name="own")
    printed = []
    for more in ((), ("--workers", "2"), ("--limit", "4")):
        assert prepare.main(["check", "--data", str(photos.parent / "leaky"), *more]) == (
            0 if "--limit" in more else 65
        )
        printed.append(capsys.readouterr())
    assert printed[0] == printed[1] and "train and test share 1 images" in printed[0].out
    assert "train: 4 records, 0 problems (none), 0 images again" in printed[2].out
    assert prepare.main(["check", "--data", str(photos.parent / "leaky"), "--workers", "0"]) == 2
