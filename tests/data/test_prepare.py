"""tools.prepare: finished folders are skipped, half-finished ones redone, bad lines named, user errors are one line."""

import io
import json
import time
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest

from harmopower.data import records
from harmopower.data.preparing import commands, progress
from harmopower.data.scenes import builder
from harmopower.data.tokenize import Tokenizer
from tools import prepare

TREE = "(NP (NP (DT a) (NN dog)) (PP (IN on) (NP (DT a) (NN sofa))))"
GOOD = {
    "image": "a.png",
    "caption": "a dog on a sofa",
    "tree": TREE,
    "boxes": [{"box": [0.3, 0.1, 0.9, 0.6], "span": [0, 5], "label": "dog"}, {"box": [0, 0, 1, 1], "text": "sofa"}],
}


@pytest.fixture
def folder(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (255, 0, 0)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    (tmp_path / "broken.png").write_bytes(buffer.getvalue()[:30])
    for index in range(40):
        (tmp_path / f"{index}.png").write_bytes(buffer.getvalue())
    return tmp_path


def _run(folder, lines, *more) -> int:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "own.jsonl").write_text(text)
    return prepare.main(
        ["jsonl", "--input", str(folder / "own.jsonl"), "--output", str(folder / "out"), "--vocab-size", "300", *more]
    )


def test_jsonl_becomes_records_and_a_tokenizer(folder, capsys):
    two = {
        "image": "a.png",
        "id": "two",
        "captions": ["ein Hund", "a dog on a sofa"],
        "trees": [None, TREE],
        "boxes": [{"box": [0, 0, 0.5, 0.5], "caption": 1, "span": [9, 15]}],
    }
    assert _run(folder, [GOOD, "", two]) == 0
    first, second = records.read(folder / "out", "train")
    assert (first["id"], second["id"]) == ("1", "two")
    assert [(p["start"], p["end"], p["label"]) for p in first["phrases"]] == [
        (0, 15, "NP"),
        (0, 5, "NP"),
        (6, 15, "PP"),
        (9, 15, "NP"),
    ]
    np.testing.assert_allclose(first["regions"][0].pop("box"), [0.3, 0.1, 0.9, 0.6], atol=1e-6)
    assert first["regions"][0] == {"caption": 0, "start": 0, "end": 5, "text": "", "label": "dog"}
    assert first["regions"][1]["text"] == "sofa" and first["regions"][1]["caption"] == -1
    assert {phrase["caption"] for phrase in second["phrases"]} == {1} and second["regions"][0]["caption"] == 1
    assert records.metadata(folder / "out") == {"classes": ["dog"]}
    assert Tokenizer.load("", folder / "out").vocab_size <= 300
    assert "2 of 2 samples used" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, words",
    [
        ("{broken", "not JSON"),
        ({"caption": "a"}, "field image"),
        ({"image": "absent.png", "caption": "a"}, "absent.png cannot be read"),
        ({"image": "broken.png", "caption": "a"}, "cannot be decoded"),
        ({"image": "a.png", "captoin": "a"}, "neither caption nor captions, but 'image', 'captoin'"),
        ({**GOOD, "boxes": [{"box": [3, 2, 9, 7]}]}, "looks like pixels, but --box-format is yxyx, shares"),
        ({"image": "a.png", "caption": 3}, "field caption: it must be text, not 3"),
        ({"image": "a.png", "caption": "a", "captions": ["a"]}, "not both"),
        ({"image": "a.png", "caption": " "}, "captions[0] is empty"),
        ({"image": "a.png", "caption": "a", "tree": "(NP (DT b))"}, "field tree: the tree has 'b'"),
        ({"image": "a.png", "caption": "a", "trees": ["(DT a)", None]}, "2 trees for 1 captions"),
        ({"image": "a.png", "caption": "a", "box": []}, "field box: unknown"),
        ({"image": "a.png", "caption": "a", "boxes": [[0, 0, 1, 1]]}, "field boxes[0]: it must be like"),
        ({"image": "a.png", "caption": "a", "boxes": [{"box": [0, 0, 1]}]}, "field boxes[0].box"),
        (
            {"image": "a.png", "caption": "a", "boxes": [{"box": [0, 0, 300, 1]}]},
            "field boxes[0].box: [0, 0, 300, 1] looks like pixels",
        ),
        ({"image": "a.png", "caption": "a", "boxes": [{"box": [0, 0, 1, 1], "span": "a"}]}, "field boxes[0].span"),
        ({"image": "a.png", "caption": "a", "boxes": [{"box": [0, 0, 1, 1], "span": [0, 2]}]}, "0 to 2"),
        ({"image": "a.png", "caption": "a", "boxes": [{"box": [0, 0, 1, 1], "lable": "a"}]}, "boxes[0].lable: unknown"),
        ({"image": "a.png", "caption": "a", "boxes": [{"box": [0, 0, 1, 1], "text": 1}]}, "field boxes[0].text"),
    ],
)
def test_bad_lines_are_named_and_left_out(folder, capsys, line, words):
    assert _run(folder, [GOOD, line]) == 0
    printed = capsys.readouterr()
    assert "line 2: " in printed.err and words in printed.err
    assert "1 of 2 samples used, 1 left out" in printed.out
    assert len(records.read(folder / "out", "train")) == 1


def test_only_bad_lines_is_an_error(folder, capsys):
    assert _run(folder, ["{broken", {"image": "a.png"}]) == 2
    assert "none of the 2 samples" in capsys.readouterr().err
    assert not (folder / "out" / "prepared.json").exists()


def test_after_a_preparation_that_found_nothing_the_right_one_may_follow(folder, capsys):
    assert _run(folder, ["{broken"]) == 2
    (folder / "right.jsonl").write_text(json.dumps(GOOD))
    right = ["jsonl", "--input", str(folder / "right.jsonl"), "--output", str(folder / "out"), "--vocab-size", "300"]
    assert prepare.main(right) == 0 and "found no sample; making it anew" in capsys.readouterr().out
    assert _run(folder, [GOOD]) == 2 and "holds another data set" in capsys.readouterr().err


def test_images_are_split_once_and_for_all(folder):
    lines = [{"image": f"{i}.png", "caption": "a dog"} for i in range(40)]
    assert _run(folder, lines + lines + ["{broken"], "--test-fraction", "0.4") == 0
    names = {split: [e["id"] for e in records.read(folder / "out", split)] for split in ("train", "test")}
    images = {split: {(int(name) - 1) % 40 for name in ids} for split, ids in names.items()}
    assert len(names["train"]) + len(names["test"]) == 80
    assert images["train"] | images["test"] == set(range(40)) and not images["train"] & images["test"]
    assert 5 < len(images["test"]) < 30


def test_finished_is_skipped_and_unfinished_redone(folder, capsys):
    assert _run(folder, [GOOD]) == 0
    mark = folder / "out" / "prepared.json"
    stored = (folder / "out" / "dataset_info.json").stat().st_mtime_ns
    arguments = ["jsonl", "--input", str(folder / "own.jsonl"), "--output", str(folder / "out"), "--vocab-size", "300"]
    capsys.readouterr()
    assert prepare.main(arguments) == 0
    assert capsys.readouterr().out.strip() == f"{folder / 'out'} is prepared already"
    assert (folder / "out" / "dataset_info.json").stat().st_mtime_ns == stored
    mark.unlink()
    assert prepare.main(arguments) == 0
    assert (folder / "out" / "dataset_info.json").stat().st_mtime_ns > stored and mark.exists()
    assert prepare.main([*arguments[:-1], "290"]) == 0
    assert "shards that are done already stay" in capsys.readouterr().out
    assert Tokenizer.load("", folder / "out").vocab_size <= 290


def test_scenes_with_their_tokenizer(tmp_path, capsys):
    arguments = [
        "scenes",
        "--output",
        str(tmp_path),
        "--train",
        "12",
        "--test",
        "0",
        "--test-unseen",
        "0",
        "--image-size",
        "32",
        "--vocab-size",
        "300",
    ]
    assert prepare.main(arguments) == 0
    source = records.read(tmp_path, "train")
    assert len(source) == 12
    assert all(records.check(example) == [] for example in source)
    tokenizer = Tokenizer.load("", tmp_path)
    ids, _ = tokenizer.encode(source[0]["captions"][0], 64)
    assert tokenizer.eot_id in ids
    capsys.readouterr()
    assert prepare.main(arguments) == 0
    assert "is prepared already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["scenes", "--output", "{out}", "--train", "0"], "--train is 0; it must be at least 1"),
        (["jsonl", "--output", "{out}", "--input", "/absent.jsonl"], "/absent.jsonl does not exist"),
        (["jsonl", "--output", "{out}", "--input", "{file}", "--test-fraction", "1.5"], "--test-fraction is 1.5"),
        (["scenes", "--output", "{file}"], "--output {file} is a file; name a folder"),
        (
            ["scenes", "--output", "{out}", "--tokenizer", "clp"],
            "no tokenizer at clp (--tokenizer is 'clp'); set --tok",
        ),
        (["scenes", "--output", "{out}", "--vocab-size", "100"], "--vocab-size is 100; it must be at least 259"),
    ],
)
def test_user_errors_are_one_line_and_code_2(folder, capsys, arguments, words):
    names = {"out": folder / "out", "file": folder / "a.png"}
    assert prepare.main([argument.format(**names) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert words.format(**names) in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, code", [(["--help"], 0), (["scenes", "--help"], 0), (["jsonl", "--help"], 0), (["scenes"], 2), ([], 2)]
)
def test_help_has_an_example(capsys, arguments, code):
    with pytest.raises(SystemExit) as stopped:
        prepare.main(arguments)
    assert stopped.value.code == code
    printed = capsys.readouterr()
    assert ("python -m tools.prepare" in printed.out) if code == 0 else ("usage" in printed.err)


def test_scenes_of_a_former_version_are_made_anew(tmp_path, capsys):
    sizes = {"train": 4, "test": 0, "test_unseen": 0, "image_size": 32, "seed": 0}
    builder.prepare(tmp_path, **sizes, processes=1)
    (tmp_path / "prepared.json").write_text(json.dumps({"command": "scenes", **sizes, "vocab_size": 300}))
    arguments = ["scenes", "--output", str(tmp_path), "--train", "8", "--test", "0", "--test-unseen", "0"]
    arguments += ["--image-size", "32", "--vocab-size", "300"]
    assert prepare.main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path} was made by a former version of this command")
    assert len(records.read(tmp_path, "train")) == 8
    (tmp_path / "preparing" / "plan.json").unlink()
    assert prepare.main([*arguments, "--seed", "1"]) == 2  # a folder of unknown origin is still refused
    assert "--force" in capsys.readouterr().err


def test_ctrl_c_is_one_line_that_says_how_to_go_on(folder, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(commands.jobs, "run", stop)
        assert _run(folder, [GOOD]) == 130
    error = capsys.readouterr().err
    assert error == "tools.prepare: stopped; what is done is kept: run the same command again\n"
    assert _run(folder, [GOOD]) == 0


def test_the_line_tells_how_far_a_job_is(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with progress.Progress("data/own", 4 * 2**30, 2**30, 4, 1) as shown:
        assert shown.line().endswith("0 examples, 0 a second, no task done yet")
        for now[0] in (30.0, 60.0):
            shown.advance(2**30 // 2, 600)
    assert shown.line() == "data/own: 3 of 4 tasks, 2.0 GiB of 4.0 GiB, 1200 examples, 20 a second, 2 min left"


def test_the_line_comes_while_a_task_takes_long_and_no_more_after_the_end(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_EVERY_SECONDS", 0.01)
    with progress.Progress("data/own", 100, 0, 2, 0) as shown:
        shown.advance(50, 7)
        while not (said := capsys.readouterr().out):
            time.sleep(0.01)
    assert said.startswith("data/own: 1 of 2 tasks, 0.0 MiB of 0.0 MiB, 7 examples")
    time.sleep(0.03)
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_training_the_tokenizer_says_that_it_goes_on(folder, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_EVERY_SECONDS", 0.01)
    train, said = Tokenizer.train, []

    def slow(captions, vocab_size):
        while not any("training the tokenizer: 0 min" in part for part in said):  # or the test hangs
            time.sleep(0.01)
            said.append(capsys.readouterr().err)
        return train(captions, vocab_size)

    monkeypatch.setattr(Tokenizer, "train", slow)
    assert _run(folder, [GOOD]) == 0
    time.sleep(0.03)
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_values_are_counted_a_line_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for value in progress.tracked(range(5000), "looking"):
        now[0] = value / 32
    assert capsys.readouterr().err.splitlines() == [
        "looking: 1921 of 5000, 32 a second, 2 min left",
        "looking: 3841 of 5000, 32 a second, 1 min left",
    ]
