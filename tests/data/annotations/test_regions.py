import argparse
import json

import numpy as np
import pytest

from harmopower.data.annotations import detectors, grounding, models, overlays, protocol, regions
from harmopower.data.annotations.overlays import AnnotationError
from tests.data.annotations import common, tiny_models
from tests.data.inspecting import common as examples

PART = protocol.Part("", "train", 0, 1)


def options(kind, *arguments):
    parser = argparse.ArgumentParser()
    kind.add_options(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def of_file(path, rows, *arguments, found=()):
    """The annotator of a file of these rows, and what it makes of the examples."""
    path.write_text(json.dumps(rows))
    annotator = regions.Annotator(options(regions.Annotator, "--source", f"file:{path}", *arguments))
    annotator.check()
    return annotator, [lists["regions"] for lists in annotator.annotate(PART, found)]


def test_boxes_of_a_file_keep_their_scores_and_labels_best_first(tmp_path):
    rows = [
        {
            "id": "a",
            "boxes": [[0, 0, 0.5, 0.5], [0.1, 0.1, 0.9, 0.9], [0, 0, 0.01, 0.01], [0, 0, 0, 0.5]],
            "scores": [0.3, 0.8, 0.9, 0.95],
            "labels": ["dog", None, "", "flat"],
        }
    ]
    annotator, (first, second) = of_file(
        tmp_path / "boxes.json", rows, found=[examples.example("a"), examples.example("b")]
    )
    assert [(one["score"], one["label"]) for one in first] == [(0.8, ""), (0.3, "dog")]
    assert second == [] and annotator.left_out == {"empty_box": 1, "not_in_file": 1}
    assert regions.Annotator.summary(annotator.counts) == ["2 regions, 1.0 an image"]


def test_pixels_and_corners_become_shares(tmp_path):
    rows = {"a": [[16, 12, 32, 24]]}  # an object of ids; images are 64 x 48
    _, (found,) = of_file(tmp_path / "boxes.json", rows, "--box-format", "xyxy_pixels", found=[examples.example("a")])
    np.testing.assert_allclose(found[0]["box"], [0.25, 0.25, 0.5, 0.5])
    assert "score" not in found[0]


def test_parquet_and_lines_say_the_same_as_json(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": "a", "boxes": [[0.0, 0.0, 0.5, 0.5]], "scores": [0.5], "labels": ["dog"], "texts": ["a wet dog"]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "boxes.parquet")
    (tmp_path / "boxes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, wanted = of_file(tmp_path / "boxes.json", rows, found=[examples.example("a")])
    for name in ("boxes.parquet", "boxes.jsonl"):
        annotator = regions.Annotator(options(regions.Annotator, "--source", f"file:{tmp_path / name}"))
        (found,) = annotator.annotate(PART, [examples.example("a")])
        assert found["regions"] == wanted[0] and found["regions"][0]["text"] == "a wet dog"


@pytest.mark.parametrize(
    "rows, words",
    [
        ([{"id": "a"}], "has no id or no boxes"),
        ([{"id": "a", "boxes": []}, {"id": "a", "boxes": []}], "an earlier row has too"),
        ([{"id": "a", "boxes": [[0, 0, 1, 1]], "scores": []}], "lists of different lengths"),
        (["a"], "has no id or no boxes"),
    ],
)
def test_a_wrong_file_is_refused_before_any_work(tmp_path, rows, words):
    with pytest.raises(AnnotationError, match=words):
        of_file(tmp_path / "boxes.json", rows)


@pytest.mark.parametrize("source", ["boxes.json", "file:", "random:1", "sam"])
def test_a_source_that_is_none_is_refused(source):
    with pytest.raises(AnnotationError, match="--source is"):
        regions.Annotator(options(regions.Annotator, "--source", source))


def test_a_missing_file_is_one_line_and_exit_code_2(tmp_path, capsys):
    data = common.data_set(tmp_path / "data", 3, 1)
    assert common.run(data, "regions", "--source", f"file:{tmp_path}/none.json", "--name", "boxes") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_overlay_of_a_file_has_the_boxes_and_their_scores(tmp_path):
    data = common.data_set(tmp_path / "data", 3, 1)
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({f"photo-{i:03d}": {"boxes": [[0, 0, 0.5, 1]], "scores": [0.25 * i]} for i in range(3)}))
    assert common.run(data, "regions", "--source", f"file:{path}", "--name", "boxes") == 0
    found = list(overlays.read(data, "train", "boxes"))
    assert [[one["score"] for one in example["regions"]] for example in found] == [[0.0], [0.25], [0.5]]


def test_asked_for_are_noun_phrases_without_another_one_within():
    chosen = grounding.choose(examples.tree(), "NP", every=False)
    assert [examples.CAPTION[one["start"] : one["end"]] for one in chosen] == ["a dog", "a red sofa"]
    outer = [*examples.tree(), examples.span(examples.CAPTION, "a dog on a red sofa")]
    assert grounding.choose(outer, "NP", every=False) == chosen
    assert len(grounding.choose(outer, "NP", every=True)) == 3
    other = {**examples.span(examples.CAPTION, "a dog on a red sofa"), "caption": 1}
    assert other in grounding.choose([*examples.tree(), other], "NP", every=False)  # of another caption


def test_located_phrases_become_regions_with_their_spans(monkeypatch):
    """The detector is a stand-in here; the real classes are in `test_detectors`."""
    asked = []

    class Detector:
        def locate(self, pictures, texts, threshold, most):
            asked.append((len(pictures), texts, threshold, most))
            return [[detectors.Found(len(of) - 1, 0.75, np.array([0, 0, 1, 1], np.float32))] for of in texts]

    monkeypatch.setattr(detectors, "detector", lambda name, device: Detector())
    monkeypatch.setattr(models, "chosen_device", lambda asked: "cpu")
    annotator = grounding.Annotator(options(grounding.Annotator, "--model", "x", "--threshold", 0.4, "--batch-size", 3))
    twice = examples.example(
        "c", ["a dog and A  dog"], [examples.span("a dog and A  dog", w) for w in ("a dog", "A  dog")]
    )
    given = [
        examples.example("a", phrases=examples.tree()),
        examples.example("b"),
        examples.example("broken", phrases=examples.tree(), image=b"junk"),
        twice,
    ]
    found = [lists["regions"] for lists in annotator.annotate(PART, given)]
    assert asked == [(1, [["a dog", "a red sofa"]], 0.4, 1), (1, [["a dog"]], 0.4, 1)]
    spans = [[(one["caption"], one["start"], one["end"], one["score"]) for one in of] for of in found]
    assert spans == [[(0, 9, 19, 0.75)], [], [], [(0, 0, 5, 0.75)]]
    assert annotator.left_out == {"image_broken": 1}
    assert annotator.counts == {"phrases": 3, "located": 2, "images": 4}


def test_each_worker_process_has_the_next_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = {
        "MainProcess": "cuda:0",
        "SpawnProcess-1": "cuda:0",
        "SpawnProcess-2": "cuda:1",
        "SpawnProcess-3": "cuda:0",
    }
    for name, device in names.items():
        monkeypatch.setattr(models.multiprocessing, "current_process", lambda name=name: argparse.Namespace(name=name))
        assert models.chosen_device("auto") == device
    assert models.chosen_device("cuda:1") == "cuda:1"
    for wrong in ("cuda:2", "tpu", "cuda:x"):
        with pytest.raises(AnnotationError, match=f"--device is '{wrong}'; this machine has cpu, cuda:0, cuda:1"):
            models.chosen_device(wrong)


def test_without_its_libraries_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(AnnotationError, match=r"pip install .*\[regions\]"):
        models.libraries()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sam", "sam2", "proposals"])
def test_the_command_makes_an_overlay_with_a_model(tmp_path, kind):
    data = common.data_set(tmp_path / "data", 5, 2)
    (tmp_path / "names.txt").write_text("dog\n\nred sofa\ndog\n")
    make = tiny_models.owlv2 if kind == "proposals" else getattr(tiny_models, kind)
    make(tmp_path / "model")
    loose = (
        "--min-score",
        -100,
        "--min-stability",
        0,
        "--points",
        3,
        "--threshold",
        0,
        "--classes",
        tmp_path / "names.txt",
    )
    arguments = (
        "regions",
        "--source",
        f"{kind}:{tmp_path / 'model'}",
        "--name",
        kind,
        *loose,
        "--max-regions",
        4,
        "--batch-size",
        2,
    )
    assert common.run(data, *arguments) == 0
    found = list(overlays.read(data, "train", kind))
    assert all(1 <= len(example["regions"]) <= 4 for example in found)
    scores = [[region["score"] for region in example["regions"]] for example in found]
    assert all(of == sorted(of, reverse=True) for of in scores)
    labels = {region["label"] for example in found for region in example["regions"]}
    assert labels <= ({"dog", "red sofa"} if kind == "proposals" else {""})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["owlv2", "grounding_dino"])
def test_grounding_by_the_command(tmp_path, kind):
    data = tmp_path / "data"
    from harmopower.data import records

    given = [examples.example(f"{i}", phrases=examples.tree(), image=examples.picture(seed=i)) for i in range(4)]
    records.write(data, {"train": given}, name="photos")
    model = getattr(tiny_models, kind)(tmp_path / "model")
    assert common.run(data, "grounding", "--model", model, "--name", "found", "--threshold", 0, "--boxes", 2) == 0
    for example in overlays.read(data, "train", "found"):
        words = {examples.CAPTION[one["start"] : one["end"]] for one in example["regions"]}
        assert words == {"a dog", "a red sofa"} and len(example["regions"]) <= 4
        assert all(0 <= one["score"] <= 1 for one in example["regions"])
    assert common.run(data, "grounding", "--model", tmp_path / "none", "--name", "x") == 2
