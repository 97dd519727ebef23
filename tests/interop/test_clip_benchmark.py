"""The figures are those of clip_benchmark 1.6.2, run by its own command line on the exported model and same files."""

import io

import clip_benchmark_here as theirs
from interop_models import nested, random_params, settings, tokenizer, write_export
import numpy as np
from PIL import Image
import pytest

from harmopower.evaluation import running
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.suite import Vectors, View
from harmopower.evaluation.suites import zero_shot
from harmopower.interop import torchvision_stand_in as stand_in
from tests.evaluation import miniatures

pytestmark = pytest.mark.slow
PARTS = ("add_att", "swap_obj")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    miniatures.classification(root / "food101", 40)
    miniatures.multilabel(root / "voc2007_multilabel", 30)
    miniatures.retrieval(root / "flickr8k", 20)
    miniatures.sugar_crepe(root / "sugar_crepe", PARTS, pairs=9)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An exported random model, and ours of the same weights."""
    config = settings("tiny", 64, 32, resize_mode="shortest")
    # Three times the usual weights: else the pictures hardly differ, and every one would be of the same class.
    flat = {name: value * np.float32(3 if value.ndim > 1 else 1) for name, value in random_params(config).items()}
    folder = tmp_path_factory.mktemp("exported") / "model"
    model = write_export(folder, "open_clip", config, flat)
    return folder, Encoder(model, nested(flat), tokenizer(), 64, 32, 16, resize_mode="shortest")


@pytest.fixture
def ours(made, root, monkeypatch):
    """Our results, and the scores and labels of each classification task."""
    config, scores = settings("tiny", 64, 32), {}
    config.evaluation.suite, config.evaluation.data = "zero_shot,retrieval,composition", str(root)
    measure = zero_shot.ZeroShot.measure

    def remembered(task, vectors: Vectors):
        prompts = [[template.format(c=name) for template in task.templates] for name in task.classes]
        scores[task._published.name] = vectors.images @ vectors.classes(prompts).T, np.array(vectors.facts)
        return measure(task, vectors)

    monkeypatch.setattr(zero_shot.ZeroShot, "measure", remembered)
    return running.run(config, made[1]).metrics, scores


def test_figures_and_predictions_are_theirs(made, root, ours, tmp_path, monkeypatch):
    metrics, scores = ours
    their = theirs.evaluate(monkeypatch, made[0], "wds/food101", root / "food101", tmp_path / "a.json")
    similarity, labels = scores["food101"]
    np.testing.assert_array_equal(similarity.argmax(1), their["logits"].argmax(1))  # to the last example
    assert len(set(similarity.argmax(1))) >= 4 and len(labels) == 40
    np.testing.assert_array_equal(labels, their["target"])
    np.testing.assert_allclose(100 * similarity, their["logits"], atol=1e-2)
    for name in ("acc1", "acc5", "mean_per_class_recall"):
        assert metrics[f"food101/{name}"] == pytest.approx(their[name], abs=1e-6), name

    name = "voc2007_multilabel"
    their = theirs.evaluate(monkeypatch, made[0], f"wds/{name}", root / name, tmp_path / "b.json")
    np.testing.assert_array_equal(scores[name][0].argmax(1), their["logits"].argmax(1))
    metric = "mean_average_precision"
    assert metrics[f"{name}/{metric}"] == pytest.approx(their[metric], abs=1e-6)

    flags = ("--task", "zeroshot_retrieval", "--recall_k", "1", "5", "10")  # theirs by default is 5 alone
    their = theirs.evaluate(monkeypatch, made[0], "wds/flickr8k", root / "flickr8k", tmp_path / "c.json", *flags)
    for k in (1, 5, 10):
        assert metrics[f"flickr8k/text_to_image_r{k}"] == pytest.approx(their[f"image_retrieval_recall@{k}"], abs=1e-6)
        assert metrics[f"flickr8k/image_to_text_r{k}"] == pytest.approx(their[f"text_retrieval_recall@{k}"], abs=1e-6)

    for part in PARTS:
        their = theirs.evaluate(
            monkeypatch, made[0], f"sugar_crepe/{part}", root / "sugar_crepe", tmp_path / f"{part}.json"
        )
        assert metrics[f"sugar_crepe/{part}"] == pytest.approx(their["text_acc"], abs=1e-6)


@pytest.mark.parametrize("size", [(40, 28), (28, 40), (100, 75), (320, 241), (64, 64), (91, 64), (1500, 9)])
def test_the_pixels_are_theirs(size):
    picture = Image.open(io.BytesIO(miniatures.picture(1, size))).convert("RGB")
    resized = stand_in.Resize(64, stand_in.InterpolationMode.BICUBIC)(picture)
    expected = np.asarray(stand_in.CenterCrop(64)(resized)).astype(int)
    found = View(64, "shortest").take(miniatures.picture(1, size))[0]
    assert np.abs(found - expected).max() <= (2 if max(size) > 16 * min(size) else 0)
