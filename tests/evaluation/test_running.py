"""Suites end to end: the scenes on a tiny untrained model, a model that knows the answers, own data, stopping."""

import io

import numpy as np
from PIL import Image
import pytest

from harmopower.config import get_config
from harmopower.data import records
from harmopower.errors import ConfigError
from harmopower.evaluation import classification, composition, running, suites
from harmopower.evaluation.encoder import Encoded
from harmopower.evaluation.preparing import Row, Share
from harmopower.evaluation.suites.records import RecordsTask

SPLITS = ("test", "test_unseen")


@pytest.fixture(scope="module")
def found(encoder, data):
    return running.run(scenes_config(data), encoder)


def scenes_config(data, suite="scenes"):
    config = get_config()
    config.data.source, config.evaluation.suite = str(data), suite
    return config


def test_every_part_of_every_split_is_there_with_its_chance(found):
    parts = [f"retrieval/{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    parts += ["boxes/top1", "boxes/top5", "boxes/class_mean_top1"]
    parts += [f"composition/{kind}" for kind in (*composition.KINDS, "mean")]
    assert list(found.metrics) == list(found.chance) == [f"{split}/{part}" for split in SPLITS for part in parts]
    assert found.chance["test/retrieval/text_to_image_r5"] == 5 / 40
    assert found.chance["test_unseen/boxes/top1"] == 1 / 64 and found.chance["test/composition/mean"] == 0.5
    # So few scenes hold no single thing: named, not dropped.
    assert set(found.left_out) == {f"{split}/classification" for split in SPLITS}


def test_the_names_of_all_results_are_known_before(found, config):
    names = suites.metric_names(config)
    assert set(found.metrics) < set(names) and len(set(names)) == len(names)
    assert set(names) - set(found.metrics) == {f"{split}/classification/top{k}" for split in SPLITS for k in (1, 5)}


def test_an_untrained_model_is_near_chance(found):
    for name in ("retrieval/image_to_text_r1", "retrieval/text_to_image_r1", "boxes/top1"):
        assert found.metrics[f"test/{name}"] <= 0.2
    assert 0.2 < found.metrics["test/composition/mean"] < 0.8


class Oracle:
    """An encoder that knows the answers: an image is encoded as its caption, a region as its label."""

    share = Share(0, 7, 7)

    def __init__(self, view):
        self.view, self._words = view, {}

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

    def encode_images(self, rows):
        rows = [row for row in rows if row.prepared]
        facts = [row.prepared.facts for row in rows]
        labels = [label for fact in facts for label in fact.labels]
        images = self.encode_texts([fact.captions[0] for fact in facts])
        return Encoded(np.array([row.index for row in rows]), images, self.encode_texts(labels))


def test_a_model_that_knows_the_answers_gets_everything_right(encoder, config):
    assert set(running.run(config, Oracle(encoder.view)).metrics.values()) == {1.0}


def test_an_example_that_is_lost_on_the_way_is_noticed(encoder, config):
    class Loses(Oracle):
        def encode_images(self, rows):
            return super().encode_images(rows[1:])

    with pytest.raises(RuntimeError, match="each must count once"):
        running.run(config, Loses(encoder.view))


@pytest.mark.slow  # starting worker processes takes long
def test_worker_processes_and_threads_prepare_the_same(encoder, config, found):
    config.data.workers, config.data.threads = 2, 3
    assert running.run(config, encoder) == found


def test_stopping_gives_nothing_and_asks_between_batches(encoder, config):
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) > 9

    assert running.run(config, encoder, should_stop) is None
    assert len(asked) == 10  # it asked no more after the first yes


def picture(colour, size=(40, 24)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_own_data_leave_out_what_they_lack_and_name_broken_records(encoder, config, tmp_path, caplog):
    rows = [{"id": f"own-{i}", "image": picture("red"), "captions": [f"a dog number {i}"]} for i in range(5)]
    rows[3]["image"] = rows[3]["image"][:40]
    records.write(tmp_path, {"test": rows}, name="own")
    config.data.source = str(tmp_path)
    found = running.run(config, encoder)
    assert {name.split("/")[1] for name in found.metrics} == {"retrieval"}
    assert found.chance["test/retrieval/image_to_text_r1"] == 1 / 4
    assert "no split 'test_unseen', only test" in found.left_out["test_unseen"]
    assert "1 of 5" in found.left_out["test/records"]
    assert "classes" in found.left_out["test/boxes"] and "negatives" in found.left_out["test/composition"]
    assert "own-3" in caplog.text


def test_single_objects_are_classified_over_all_classes(encoder, config, data, tmp_path):
    source = records.read(data, "test")
    examples = [source[index] for index in range(6)]
    for example in examples[:4]:
        example["regions"] = example["regions"][:1]
    classes = sorted({part["label"] for example in examples for part in example["regions"]})
    records.write(tmp_path, {"test": examples}, name="own", metadata={"classes": classes})
    config.data.source = str(tmp_path)
    found = running.run(config, encoder)
    assert found.chance["test/classification/top1"] == 1 / len(classes)
    task = RecordsTask(tmp_path, "test", classes, 8)
    own = [Row(index, task.prepare(task.source[index], encoder.view)) for index in range(4)]
    images = encoder.encode_images(own + [Row(-1, None)] * (encoder.share.count - 4)).images
    embeddings = classification.class_embeddings(encoder.encode_texts(classification.class_texts(classes)))
    hits = [
        classes[row.argmax()] == example["regions"][0]["label"]
        for row, example in zip(images @ embeddings.T, examples, strict=False)
    ]
    assert found.metrics["test/classification/top1"] == np.mean(hits)


def test_what_cannot_be_measured_is_said_before(config, tmp_path):
    records.write(tmp_path, {"train": [{"id": "1", "image": picture("red"), "captions": ["a"]}]}, name="own")
    assert running.nothing_to_measure(config) == ""
    config.data.source = str(tmp_path)
    assert "no split 'test', only train" in running.nothing_to_measure(config)
    config.evaluation.suite = ""
    assert running.nothing_to_measure(config) == "" and suites.metric_names(config) == []


@pytest.mark.parametrize("names, words", [("scene", "mean 'scenes'"), ("scenes, no", "'no' is none of")])
def test_an_unknown_suite_is_refused(config, names, words):
    config.evaluation.suite = names
    with pytest.raises(ConfigError, match=words):
        suites.tasks(config)


def test_scenes_and_records_need_a_data_set(config):
    config.data.source = ""
    with pytest.raises(ConfigError, match="config.data.source is empty"):
        suites.tasks(config)


def test_two_suites_of_one_name_are_refused(config):
    config.evaluation.suite = "scenes,records"
    with pytest.raises(ConfigError, match="both measure 'test'"):
        suites.tasks(config)
