"""Zero-shot classification on miniatures in the published layout, against figures computed without the package."""

import io
import json
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info

from harmopower.data import images as decoding
from harmopower.evaluation import averages, classification, kept, running, sets, shards, suites
from harmopower.evaluation.suite import Found
from harmopower.evaluation.suites import zero_shot
from tests.evaluation import miniatures


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    miniatures.classification(root / "wds_food101")
    miniatures.multilabel(root / "voc2007_multilabel")
    for label, name in enumerate(miniatures.COLOURS[:3]):
        folder = root / "elsewhere" / "test" / f"n0{label}"
        folder.mkdir(parents=True)
        (folder / f"{name}.JPEG").write_bytes(miniatures.picture(label, kind="JPEG"))
    (root / "elsewhere" / "classnames.txt").write_text("red\ngreen\nblue\n")
    (root / "elsewhere" / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    (root / sets.FILE).write_text('{"mine": "elsewhere"}')
    return root


@pytest.fixture
def chosen(config, root):
    config.evaluation.suite, config.evaluation.data = "zero_shot", str(root)
    return config


def embeddings(encoder, prompts):
    """Each prompt normalised, their mean, normalised again."""
    means = [encoder.encode_texts(texts).mean(0) for texts in prompts]
    return np.array([mean / np.linalg.norm(mean) for mean in means])


def features(encoder, source):
    from harmopower.evaluation.preparing import Row
    from harmopower.evaluation.suite import NO_BOXES, Prepared

    rows = [Row(i, Prepared(encoder.view.take(source[i].image)[0], NO_BOXES, 0)) for i in range(len(source))]
    size = encoder.share.count
    rows += [Row(-1, None)] * (-len(rows) % size)
    parts = [encoder.encode_images(rows[start : start + size]).images for start in range(0, len(rows), size)]
    return np.concatenate(parts)


def test_figures_of_a_set_are_those_of_plain_numpy(chosen, encoder, root):
    found = running.run(chosen, encoder)
    prompts = [[template.replace("{c}", name) for template in miniatures.TEMPLATES] for name in miniatures.COLOURS]
    source = shards.Shards(root / "wds_food101", "cls")
    labels = np.array([int(source[i].label) for i in range(len(source))])
    np.testing.assert_array_equal(labels, np.random.default_rng(1).integers(0, 7, 23))
    scores = features(encoder, source) @ embeddings(encoder, prompts).T
    best = np.argsort(-scores, axis=1)
    assert found.metrics["food101/acc1"] == pytest.approx((best[:, 0] == labels).mean())
    assert found.metrics["food101/acc5"] == pytest.approx((best[:, :5] == labels[:, None]).any(1).mean())
    recall = [(best[labels == label, 0] == label).mean() for label in np.unique(labels)]
    assert found.metrics["food101/mean_per_class_recall"] == pytest.approx(np.mean(recall))
    assert "23 images, the published set has 25250" in found.partial["food101/images"]
    assert "mine/acc5" not in found.metrics and 0 <= found.metrics["mine/acc1"] <= 1
    assert (
        "0 of 17" in found.left_out["average/zero_shot_17"] and "food101/acc1" in found.left_out["average/zero_shot_17"]
    )
    assert "clip-benchmark/wds_vtab-dtd" in found.left_out["dtd"] and str(root / "dtd") in found.left_out["dtd"]
    assert set(found.metrics) <= set(suites.metric_names(chosen))


def test_average_precision_by_hand_and_against_its_definition(chosen, encoder, root):
    assert classification.mean_average_precision(np.array([[3.0], [2], [1]]), [[1], [0], [1]]) == pytest.approx(5 / 6)
    assert classification.mean_average_precision(np.ones((2, 1)), [[1], [0]]) == 0.5  # a tie: the negative comes first
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(40, 6)), rng.integers(0, 2, (40, 6))
    targets[:, 2] = 0
    expected = []
    for column in range(6):
        order = sorted(range(40), key=lambda row: -scores[row, column])
        hits = [place for place, row in enumerate(order) if targets[row, column]]
        expected.append(np.mean([(i + 1) / (place + 1) for i, place in enumerate(hits)]) if hits else 0)
    assert classification.mean_average_precision(scores, targets) == pytest.approx(np.mean(expected))


def test_ties_are_wrong_and_few_classes_have_no_acc5():
    images, classes = np.ones((3, 1)), np.ones((2, 1))
    assert classification.recalls(images, classes, np.array([0, 0, 1])) == {"acc1": 0, "mean_per_class_recall": 0}


def test_tars_are_read_by_offset_in_their_order(root, tmp_path):
    source = shards.Shards(root / "wds_food101", "cls")
    again = pickle.loads(pickle.dumps(source))
    assert len(source) == len(again) == 23 and len(source.tars) == 5
    for index in (22, 0, 11):
        assert again[index] == source[index] and decoding.decode(source[index].image).size == (40, 28)
    np.testing.assert_array_equal(decoding.decode(source[1].image), decoding.decode(miniatures.picture(1)))


@pytest.mark.parametrize(
    "break_it, words",
    [
        (lambda folder: (folder / "test" / "1.tar").unlink(), "says 2, but 1.tar are not there"),
        (lambda folder: (folder / "test" / "nshards.txt").unlink(), "nshards.txt"),
        (lambda folder: (folder / "classnames.txt").unlink(), "classnames.txt"),
        (lambda folder: (folder / "zeroshot_classification_templates.txt").write_text("a {x}"), "another place"),
        (lambda folder: (folder / "test" / "0.tar").write_bytes(b"no tar" * 200), "0.tar cannot be read"),
        (lambda folder: (folder / "dataset_type.txt").write_text("multilabel"), "it needs an image"),
    ],
)
def test_a_broken_set_is_left_out_with_its_reason(chosen, encoder, tmp_path, break_it, words):
    miniatures.classification(tmp_path / "food101", 7)
    break_it(tmp_path / "food101")
    chosen.evaluation.data = str(tmp_path)
    found = running.run(chosen, encoder)
    assert words in found.left_out["food101"] and not found.metrics


def test_a_broken_image_or_label_is_named_and_counted(chosen, encoder, tmp_path, caplog):
    samples = [{"png": miniatures.picture(i), "cls": b"%d" % i} for i in range(3)]
    samples[1]["png"], samples[2]["cls"] = b"broken", b"9"
    miniatures.write_shards(tmp_path / "food101", samples, classes=("a", "b"), templates=("{c}",))
    chosen.evaluation.data = str(tmp_path)
    found = running.run(chosen, encoder)
    assert "2 of 3" in found.left_out["food101/records"] and "label 9 is none of the 2 classes" in caplog.text


def test_averages_only_over_complete_sets():
    parts = averages.ZERO_SHOT.results
    whole = Found({part: i / 100 for i, part in enumerate(parts)}, dict.fromkeys(parts, 0.1))
    assert averages.both(whole, averages.ZERO_SHOT).metrics == {"average/zero_shot_17": pytest.approx(0.08)}
    assert len(parts) == 17 and len(averages.IMAGENET.results) == len(averages.RETRIEVAL.results) == 6
    whole.partial["dtd/images"] = "1879"
    found = averages.both(whole, averages.ZERO_SHOT)
    assert not found.metrics and "16 of 17 are complete; not: dtd/acc1" in found.left_out["average/zero_shot_17"]
    assert averages.published()["PowerCLIP-S"]["average/zero_shot_17"] == 0.422
    known = {published.name: published.size for published in zero_shot.SETS}
    for part in (*parts, *averages.IMAGENET.results):
        assert known[part.split("/")[0]] > 0


def test_what_is_done_is_not_done_again(chosen, encoder, root, tmp_path, monkeypatch):
    class Stops(kept.KeptIn):
        def keep(self, name, task, found):
            super().keep(name, task, found)
            if name == "food101":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.run(chosen, encoder, kept=Stops(tmp_path, encoder))
    assert json.loads((tmp_path / kept.UNFINISHED).read_text())["tasks"].keys() == {"food101"}
    embedded = sorted((tmp_path / kept.CLASSES).iterdir())
    decoded = []
    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda data: decoded.append(data) or decode(data))
    keeper = kept.KeptIn(tmp_path, encoder)
    found = running.run(chosen, encoder, kept=keeper)
    assert len(decoded) == 17 + 3 and keeper.tasks.keys() == {"food101", "voc2007_multilabel", "mine"}
    assert found == running.run(chosen, encoder) and len(embedded) == 1
    again = kept.KeptIn(tmp_path, encoder, again=True)
    decoded.clear()
    running.run(chosen, encoder, kept=again)
    assert len(decoded) == 23 + 17 + 3


def test_other_weights_or_other_data_are_measured_anew(encoder, model_and_params, tokenizer, root, tmp_path):
    import jax

    from harmopower.evaluation.encoder import Encoder
    from tests.evaluation.conftest import BATCH, LENGTH, SIZE

    model, params = model_and_params
    other = jax.tree.map(lambda leaf: leaf, params)
    other["text"] = jax.tree.map(lambda leaf: leaf.at[(-1,) * leaf.ndim].add(1e-6), params["text"])
    made = [Encoder(model, each, tokenizer, SIZE, LENGTH, BATCH, region_pooling="overlap") for each in (params, other)]
    assert made[0].identity == encoder.identity != made[1].identity
    assert (
        Encoder(model, params, tokenizer, SIZE, LENGTH + 1, BATCH, region_pooling="overlap").identity
        != made[0].identity
    )
    before = zero_shot.ZeroShot(root / "wds_food101", zero_shot.SETS[7]).identity
    assert before == zero_shot.ZeroShot(root / "wds_food101", zero_shot.SETS[7]).identity
    miniatures.classification(tmp_path / "copy", 22)
    assert before != zero_shot.ZeroShot(tmp_path / "copy", zero_shot.SETS[7]).identity


def prepare_with_tfds(folder):
    """What `tfds build` leaves: several record files a split, labels as numbers, images encoded."""
    folder.mkdir(parents=True)
    identity = dataset_info.DatasetIdentity(
        name="stl10", version=tfds.core.Version("2.0.0"), data_dir=str(folder), module_name=__name__
    )
    label = tfds.features.ClassLabel(names=list(miniatures.COLOURS))
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": label})
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, 4, file_format="array_record")
    writer.initialize_splits(["train", "test"])
    rows = lambda count: [{"image": io.BytesIO(miniatures.picture(i)), "label": i % 7} for i in range(count)]
    writer.add_examples({"train": rows(2), "test": rows(10)})
    writer.close_all()


def test_a_set_that_tfds_has_prepared(chosen, encoder, tmp_path):
    prepare_with_tfds(tmp_path / "stl10" / "2.0.0")
    (tmp_path / "stl10" / "classnames.txt").write_text("\n".join(miniatures.COLOURS) + "\n")
    (tmp_path / "stl10" / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    chosen.evaluation.data = str(tmp_path)
    found = running.run(chosen, encoder)
    task = suites.tasks(chosen)["zero_shot"]["stl10"]
    source = pickle.loads(pickle.dumps(task.source))
    assert len(source) == 10 and [int(source[i].label) for i in range(10)] == [i % 7 for i in range(10)]
    scores = features(encoder, source) @ embeddings(encoder, [[f"a {name}"] for name in miniatures.COLOURS]).T
    assert found.metrics["stl10/acc1"] == np.mean(scores.argmax(1) == np.arange(10) % 7)
    assert task.identity == suites.tasks(chosen)["zero_shot"]["stl10"].identity
    (tmp_path / "stl10" / "classnames.txt").write_text("red\n")
    assert "7 labels, but classnames.txt names 1" in suites.tasks(chosen)["zero_shot"]["stl10"]
    info = tmp_path / "stl10" / "2.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    assert "prepare it with --file_format=array_record" in suites.tasks(chosen)["zero_shot"]["stl10"]
