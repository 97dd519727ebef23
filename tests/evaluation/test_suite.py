"""The suite end to end: a tiny untrained model on a few scenes, its table and file, own data, stopping."""

import dataclasses
import io
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import rich.console

from harmopower.config import get_config
from harmopower.data import records
from harmopower.data.scenes import builder as scenes
from harmopower.data.tokenize import Tokenizer
from harmopower.evaluation import classification, composition, suite
from harmopower.evaluation import encoder as encoders
from harmopower.features.regions import region_weights
from harmopower.features.vectors import normalise
from harmopower.models import clip

SIZE, LENGTH, BATCH = 64, 16, 16
SPLITS = ("test", "test_unseen")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scenes.prepare(
        tmp_path_factory.mktemp("scenes"), train=8, test=40, test_unseen=20, image_size=SIZE, processes=1
    )


@pytest.fixture(scope="module")
def tokenizer(data):
    return Tokenizer.train([example["captions"][0] for example in records.read(data, "test")], 300)


@pytest.fixture(scope="module")
def model_and_params(tokenizer):
    config = get_config()
    config.data.image_size, config.data.context_length = SIZE, LENGTH
    config.model.preset, config.model.pool = "tiny", "mean"
    model = clip.from_config(config, tokenizer.vocab_size, tokenizer.eot_id)
    images, ids = jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8), jnp.zeros((1, LENGTH), jnp.int32)
    return model, nn.unbox(jax.jit(model.init)(jax.random.key(0), images, ids))["params"]


@pytest.fixture(scope="module")
def encoder(model_and_params, tokenizer):
    return suite.Encoder(*model_and_params, tokenizer, SIZE, LENGTH, BATCH, region_pooling="overlap")


@pytest.fixture(scope="module")
def found(encoder, data):
    return suite.run(get_config().evaluation, encoder, data)


def test_every_part_of_every_split_is_there_with_its_chance(found):
    parts = [f"retrieval/{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    parts += ["boxes/top1", "boxes/top5", "boxes/class_mean_top1"]
    parts += [f"composition/{kind}" for kind in (*composition.KINDS, "mean")]
    assert list(found.metrics) == list(found.chance) == [f"{split}/{part}" for split in SPLITS for part in parts]
    assert found.chance["test/retrieval/text_to_image_r5"] == 5 / 40
    assert found.chance["test_unseen/boxes/top1"] == 1 / 64 and found.chance["test/composition/mean"] == 0.5
    # So few scenes hold no single thing: named, not dropped.
    assert set(found.left_out) == {f"{split}/classification" for split in SPLITS}


def test_an_untrained_model_is_near_chance(found):
    for name in ("retrieval/image_to_text_r1", "retrieval/text_to_image_r1", "boxes/top1"):
        assert found.metrics[f"test/{name}"] <= 0.2
    assert 0.2 < found.metrics["test/composition/mean"] < 0.8


def test_a_batch_does_not_depend_on_its_padding_and_regions_come_in_order(encoder, model_and_params, data):
    source = records.read(data, "test")
    prepared = [encoder.prepare(source[index]) for index in range(BATCH + 3)]
    images, regions = encoder.encode_images(prepared)
    assert images.shape == (BATCH + 3, 128) and len(regions) == sum(len(row.boxes) for row in prepared)
    np.testing.assert_allclose(np.linalg.norm(regions, axis=-1), 1, atol=1e-5)
    last, own = encoder.encode_images(prepared[-1:])
    np.testing.assert_allclose(images[-1:], last, atol=1e-5)
    np.testing.assert_allclose(regions[-len(own) :], own, atol=1e-5)
    model, params = model_and_params
    encoded = model.apply({"params": params}, prepared[-1].image[None], method="encode_image")
    weights = region_weights(prepared[-1].boxes, model.grid, "overlap")
    np.testing.assert_allclose(own, normalise(weights @ encoded.tokens[0]), atol=1e-4)


def test_new_parameters_change_the_result_without_compiling_again(encoder, model_and_params, tokenizer):
    texts = ["a red circle", "a blue square"] * BATCH
    before, compiled = encoder.encode_texts(texts), encoders._text_features._cache_size()
    model, params = model_and_params
    # Negated parameters are another function; an equal model, rebuilt, must find the compiled code.
    equal, negated = dataclasses.replace(model, parent=None), jax.tree.map(lambda leaf: -leaf, params)
    other = suite.Encoder(equal, negated, tokenizer, SIZE, LENGTH, BATCH)
    assert np.abs(other.encode_texts(texts) - before).max() > 0.01
    assert encoders._text_features._cache_size() == compiled
    np.testing.assert_allclose(before[:2], before[-2:], atol=1e-5)


class Oracle:
    """An encoder that knows the answers: an image is encoded as its caption, a region as its label."""

    batch_size = 7

    def __init__(self):
        self._words = {}

    def encode_texts(self, texts):
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text):
        # Single words, pairs and triples: with words alone a swapped caption would be the same sum.
        filler = ("a", "there", "is", "picture", "photo", "of")
        words = [word for word in text.replace(",", "").split() if word not in filler]
        vector = np.zeros(4000)
        for word in [" ".join(words[i : i + count]) for count in (1, 2, 3) for i in range(len(words) + 1 - count)]:
            vector[self._words.setdefault(word, len(self._words))] += 1
        return vector / max(np.linalg.norm(vector), 1e-9)

    def prepare(self, example):
        return encoders.Prepared(example, None, np.arange(len(example["regions"])))

    def encode_images(self, prepared):
        examples = [row.image for row in prepared]
        labels = [part["label"] for example in examples for part in example["regions"]]
        return self.encode_texts([example["captions"][0] for example in examples]), self.encode_texts(labels)


def test_a_model_that_knows_the_answers_gets_everything_right(data):
    found = suite.run(get_config().evaluation, Oracle(), data)
    assert set(found.metrics.values()) == {1.0}


def test_stopping_gives_nothing_and_asks_between_batches(encoder, data):
    answers = iter([False] * 25 + [True] * 100)
    assert suite.run(get_config().evaluation, encoder, data, lambda: next(answers)) is None
    assert len(list(answers)) == 99  # it asked no more after the first yes


def test_file_and_table(found, tmp_path):
    suite.write(tmp_path / "run", 7, found)
    suite.write(tmp_path / "run", 8, found)
    stored = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert stored["step"] == 8 and stored["metrics"] == found.metrics and stored["chance"] == found.chance
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["eval.json"]
    name, why = "test/boxes/top1", {"test_unseen": "the data set has no such split"}
    made = suite.Found({name: 0.5}, {name: 1 / 64}, why)
    with rich.console.Console(width=100, file=io.StringIO(), record=True) as console:
        console.print(suite.table(made, 8))
    text = console.export_text()
    row = next(line for line in text.splitlines() if "boxes/top1" in line)
    assert "50.0" in row and "1.6" in row and "step 8" in text and "no such split" in text


def test_own_data_leave_out_what_they_lack_and_name_broken_records(encoder, tmp_path, caplog):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 24), (200, 30, 30)).save(buffer, "PNG")
    rows = [{"id": f"own-{i}", "image": buffer.getvalue(), "captions": [f"a dog number {i}"]} for i in range(5)]
    rows[3]["image"] = buffer.getvalue()[:40]
    records.write(tmp_path, {"test": rows}, name="own")
    found = suite.run(get_config().evaluation, encoder, tmp_path)
    assert {name.split("/")[1] for name in found.metrics} == {"retrieval"}
    assert found.chance["test/retrieval/image_to_text_r1"] == 1 / 4
    assert found.left_out["test_unseen"] == "the data set has no such split"
    assert "1 of 5" in found.left_out["test records"]
    assert "classes" in found.left_out["test/boxes"] and "negatives" in found.left_out["test/composition"]
    assert "own-3" in caplog.text


def test_single_objects_are_classified_over_all_classes(encoder, data, tmp_path):
    source = records.read(data, "test")
    examples = [source[index] for index in range(6)]
    for example in examples[:4]:
        example["regions"] = example["regions"][:1]
    classes = sorted({part["label"] for example in examples for part in example["regions"]})
    records.write(tmp_path, {"test": examples}, name="own", metadata={"classes": classes})
    found = suite.run(get_config().evaluation, encoder, tmp_path)
    assert found.chance["test/classification/top1"] == 1 / len(classes)
    expected = encoder.encode_images([encoder.prepare(example) for example in examples[:4]])[0]
    embeddings = classification.class_embeddings(encoder.encode_texts(classification.class_texts(classes)))
    hits = [
        classes[row.argmax()] == example["regions"][0]["label"]
        for row, example in zip(expected @ embeddings.T, examples, strict=False)
    ]
    assert found.metrics["test/classification/top1"] == np.mean(hits)
