"""The command line of the export: a folder that appears whole or not at all, its card, and how much memory it takes."""

import json
import re
import subprocess
import sys
import tracemalloc

from interop_models import nested, random_params, settings, tokenizer, write_run
from libraries import open_clip, transformers
import numpy as np
import pytest
import safetensors.numpy

from harmopower.data import clip_vocabulary
from harmopower.data.tokenize import Tokenizer
from harmopower.interop import export, names, proof, tokenizer_files, weights
from tools import export as tool


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A mean-pooled run, as the quickstart's."""
    config = settings(pool="mean")
    config.data.source, config.objective.powerset.weight = "runs/data/scenes", 0.37
    flat = random_params(config)
    return write_run(tmp_path_factory.mktemp("runs") / "quick", config, flat, 5, {"scenes/retrieval_r1": 0.8125}), flat


def call(run, output, name="huggingface", *more):
    return tool.main(["--workdir", str(run), "--format", name, "--output", str(output), *more])


def test_quickstart_export(run, tmp_path, capsys):
    assert call(run[0], tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "largest difference of embeddings" in shown and "step 5 as huggingface" in shown
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "harmopower.json",
        "model.safetensors",
        "modeling_harmopower.py",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (
        "trust_remote_code=True",
        "| data.source | runs/data/scenes |",
        "| powerset | weight 0.37 |",
        "| scenes/retrieval_r1 | 0.8125 |",
        "Measured at step 5.",
        '"learning_rate"',
        "pool mean",
    ):
        assert text in card, text
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    (tmp_path / "out" / "stale").write_text("")
    assert call(run[0], tmp_path / "out") == 0  # an earlier export is replaced
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first and not (tmp_path / "out" / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_letterbox_is_exported_only_with_another_preprocessing(run, tmp_path, capsys):
    config, workdir = settings(pool="mean", resize_mode="letterbox"), tmp_path / "boxed"
    write_run(workdir, config, run[1])
    refused(tmp_path, capsys, "resize_mode is letterbox, which neither", workdir, tmp_path / "out")
    assert call(workdir, tmp_path / "out", "huggingface", "--resize-mode", "squash") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "RGB, bicubic, squash" in card and '"resize_mode": "letterbox"' in card


def refused(tmp_path, capsys, text, *arguments, code=2):
    before = sorted(tmp_path.rglob("*"))
    assert call(*arguments) == code
    shown = capsys.readouterr().err
    assert text in shown and shown.startswith("error: ") and shown.count("\n") == 1, shown
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_exported_is_one_line(run, tmp_path, capsys, monkeypatch):
    refused(tmp_path, capsys, "no mean over text tokens (config.model.text_pool", run[0], tmp_path / "out", "open_clip")
    refused(tmp_path, capsys, "no checkpoint of step 9", run[0], tmp_path / "out", "huggingface", "--step", "9")
    refused(tmp_path, capsys, "holds no run", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refused(tmp_path, capsys, "mine holds something else", run[0], tmp_path / "mine")
    refused(tmp_path, capsys, "letter.txt is a file", run[0], tmp_path / "mine" / "letter.txt")
    monkeypatch.setattr(proof, "LIMIT", 0.0)
    refused(tmp_path, capsys, "the exported model is not the trained one", run[0], tmp_path / "out")


def test_a_failed_export_keeps_the_earlier_one(run, tmp_path, capsys, monkeypatch):
    assert call(run[0], tmp_path / "out") == 0
    monkeypatch.setattr(proof, "LIMIT", 0.0)
    refused(tmp_path, capsys, "not the trained one", run[0], tmp_path / "out")


def test_a_damaged_checkpoint_is_one_line(tmp_path, capsys):
    config = settings()
    folder = write_run(tmp_path / "run", config, random_params(settings(image_size=64)))
    text = "vision/position is float32[65, 32] in the checkpoint, float32[17, 32] here"
    refused(tmp_path, capsys, text, folder, tmp_path / "out")


def test_training_only_parameters_are_named(tmp_path):
    config = settings("tiny")
    config.objective.lexeme_region.temperature = "own"
    flat, told = random_params(config), []
    model = export.exported_model(config, tokenizer())
    load = lambda: (1, nested(flat))
    export.export("huggingface", model, load, tokenizer(), config, tmp_path / "out", say=told.append)
    assert told[0] == "region_scale is not exported: it only serves training"
    assert "| not exported | region_scale |" in (tmp_path / "out" / "README.md").read_text()
    assert "This run was not evaluated." in (tmp_path / "out" / "README.md").read_text()


def test_writing_holds_one_tensor_at_a_time(tmp_path):
    flat = random_params(settings("patch8-shared64-vision256x6x4-text256x6x4"))
    total = sum(array.nbytes for array in flat.values())
    tracemalloc.start()
    weights.write_safetensors(tmp_path / "m.safetensors", names.their_tensors(names.HUGGING_FACE, flat))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * total, (peak, total)
    assert len(safetensors.numpy.load_file(tmp_path / "m.safetensors")) == 16 * 12 + 14


def test_the_file_is_what_the_library_writes(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"b": rng.normal(size=(3, 5)).astype(np.float32), "a": np.float32(2.5), "c": np.zeros((0, 4), np.float32)}
    weights.write_safetensors(
        tmp_path / "m.safetensors",
        [(name, np.shape(array), lambda array=array: array) for name, array in arrays.items()],
    )
    found = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_exported_facts_are_marked(run, tmp_path):
    with weights.new_folder(tmp_path / "a" / "out", {"format": "x"}) as folder:
        (folder / "file").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert json.loads((tmp_path / "a" / "out" / "harmopower.json").read_text()) == {"format": "x"}
    with pytest.raises(KeyboardInterrupt), weights.new_folder(tmp_path / "b", {}) as folder:
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@pytest.mark.slow  # a process of its own: here the stand-in for torchvision is in place already
def test_the_proof_of_an_open_clip_export_is_open_clip_itself(tmp_path):
    config = settings()
    write_run(tmp_path / "run", config, random_params(config))
    command = [sys.executable, "-m", "tools.export", "--workdir", tmp_path / "run", "--format", "open_clip"]
    shown = subprocess.run([*command, "--output", tmp_path / "out"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"of logits \S+ \(open_clip [\d.]+, ids and pixels compared too\)", shown.stdout), shown.stdout


@pytest.mark.skipif(clip_vocabulary.find() is None, reason="needs the file that open_clip_torch carries")
def test_clips_own_tokenizer_is_exported_with_its_ids(tmp_path):
    ours = Tokenizer.load("clip", "")
    tokenizer_files.write(tmp_path, ours, 24)
    captions = [
        "a photo of a dog",
        "It's 2 RED cars, isn't it?",
        "naïve café",
        "a word that is " + "very " * 30 + "long",
    ]
    wanted = ours.encode_batch(captions, 24)[0]
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    found = theirs(captions, padding="max_length", truncation=True)["input_ids"]
    for row, right in zip(found, wanted, strict=True):
        length = int(np.argmax(right)) + 1
        assert row[:length] == right[:length].tolist() and set(row[length:]) <= {ours.eot_id}
    # OpenCLIP cleans before it calls an exported tokenizer, as ours does.
    dirty = "salt &amp; “oil” in a ﬁne  café"
    read = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=24)([dirty])[0].tolist()
    right = ours.encode(dirty, 24)[0]
    length = int(np.argmax(right)) + 1
    assert read[:length] == right[:length].tolist()
