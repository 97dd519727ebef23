"""The quick look during training: which examples, which prompts, and that a stop is heeded between batches."""

import numpy as np
import pytest

from harmopower import runs
from harmopower.errors import ConfigError
from harmopower.evaluation import light
from harmopower.evaluation.suite import Vectors
from harmopower.evaluation.suites.records import RecordsTask
from harmopower.evaluation.suites.retrieval import Retrieval
from harmopower.evaluation.suites.zero_shot import ZeroShot
from tests.evaluation import miniatures


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    miniatures.classification(root / "imagenet1k")
    miniatures.retrieval(root / "mscoco_captions")
    for label, name in enumerate(miniatures.COLOURS[:3]):
        (root / "food101" / f"n0{label}").mkdir(parents=True)
        for image in range(4):
            (root / "food101" / f"n0{label}" / f"{name}{image}.JPEG").write_bytes(
                miniatures.picture(label, kind="JPEG")
            )
    (root / "food101" / "classnames.txt").write_text("red\ngreen\nblue\n")
    (root / "food101" / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    return root


@pytest.fixture
def chosen(config, root):
    config.evaluation.light = "zero_shot/imagenet1k, zero_shot/food101,retrieval/mscoco_captions,scenes/test"
    config.evaluation.data = str(root)
    return config


@pytest.fixture
def few(monkeypatch):
    """So few examples that these miniatures have more."""
    monkeypatch.setattr(ZeroShot, "light", 6)
    monkeypatch.setattr(Retrieval, "light", 9)
    monkeypatch.setattr(RecordsTask, "light", 12)
    monkeypatch.setattr("harmopower.evaluation.suites.zero_shot._LIGHT_TEMPLATES", 2)


def test_the_first_examples_of_each_task_are_measured(chosen, few, model_and_params, tokenizer):
    tasks, skipped = light.tasks(chosen)
    assert not skipped
    counts = {name.removeprefix("light/"): len(task.source) for name, task in tasks.items()}
    assert counts == {"imagenet1k": 6, "food101": 6, "mscoco_captions": 9, "test": 12}
    labels = [int(tasks["light/food101"].source[index].label) for index in range(6)]
    assert labels == [0, 0, 1, 1, 2, 2]  # a folder lies in the order of its classes; every second image has them all
    model, params = model_and_params
    found = runs.make_light(chosen, model, tokenizer)(params, 7)
    assert found["light/imagenet1k/acc1"] * 6 == pytest.approx(round(found["light/imagenet1k/acc1"] * 6))
    assert found["light/mscoco_captions/text_to_image_r10"] * 46 == pytest.approx(  # nine images have 46 captions
        round(found["light/mscoco_captions/text_to_image_r10"] * 46)
    )
    assert {"light/test/boxes/top1", "light/test/retrieval/image_to_text_r1"} <= set(found)


def test_fewer_prompts_make_the_classes(chosen, few):
    task, asked = light.tasks(chosen)[0]["light/imagenet1k"], []
    classes = lambda prompts: (asked.extend(prompts), np.eye(7))[1]
    task.measure(Vectors([0, 1], np.eye(7)[:2], np.zeros((0, 7)), None, classes))
    assert [len(texts) for texts in asked] == [2] * 7 and asked[0][1] == "a bad picture of the red"


def test_a_stop_is_heeded_between_batches(chosen, model_and_params, tokenizer):
    asked = []
    look = runs.make_light(chosen, model_and_params[0], tokenizer, lambda: (asked.append(0), len(asked) > 2)[1])
    assert look(model_and_params[1], 7) == {} and len(asked) == 3


@pytest.mark.parametrize(
    "names, words",
    [
        ("zeroshot/imagenet1k", "no 'zeroshot'; did you mean 'zero_shot'"),
        ("zero_shot/imagenet1", "did you mean 'zero_shot/imagenet1k'"),
        ("zero_shot/imagenet1k,records/tests", "did you mean 'records/test'"),
    ],
)
def test_a_misspelt_name_is_refused_at_the_start(chosen, names, words):
    chosen.evaluation.light = names
    with pytest.raises(ConfigError, match=words):
        light.tasks(chosen)


def test_what_is_not_on_disk_is_skipped_with_a_line_at_the_start(chosen, few, root, model_and_params, tokenizer):
    model, params = model_and_params
    chosen.evaluation.light = "zero_shot/dtd,zero_shot/imagenet1k,records/validation"
    said = []
    look = runs.make_light(chosen, model, tokenizer, say=said.append)
    assert len(said) == 2
    assert said[0].startswith("config.evaluation.light zero_shot/dtd is skipped: not on disk; get the data set clip-")
    assert said[0].endswith(f"as {root / 'dtd'}")
    assert "records/validation is skipped: " in said[1] and "has no split 'validation', only train, test" in said[1]
    assert {name.split("/")[1] for name in look(params, 7)} == {"imagenet1k"}
    chosen.evaluation.light, said = "retrieval/flickr30k", []
    assert runs.make_light(chosen, model, tokenizer, say=said.append) is None and len(said) == 1


def test_no_look_unless_one_is_asked_for(config, model_and_params, tokenizer):
    assert runs.make_light(config, model_and_params[0], tokenizer) is None
