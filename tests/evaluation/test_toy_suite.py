"""The seam: a suite is a module, this one, and a line in the registry; nothing private is imported."""

import io

import numpy as np
from PIL import Image
import pytest

from harmopower.evaluation import running, suites
from harmopower.evaluation.suite import NO_BOXES, Found, Prepared, Suite, Task, Vectors, View

COLOURS = ("red", "green", "blue", "yellow", "white")


class Pictures:
    """A data source of its own: no records, only length and random access."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        buffer = io.BytesIO()
        Image.new("RGB", (30, 20), COLOURS[index % len(COLOURS)]).save(buffer, "PNG")
        return buffer.getvalue(), index % len(COLOURS)


class Colours(Task):
    source, metrics = Pictures(), ("top1", "counted")

    def __init__(self, prompt):
        self._prompt = prompt

    def prepare(self, example, view: View) -> Prepared:
        image, label = example
        return Prepared(view.take(image)[0], NO_BOXES, label)

    def measure(self, vectors: Vectors) -> Found:
        classes = vectors.texts([self._prompt.format(colour) for colour in COLOURS])
        right = (vectors.images @ classes.T).argmax(axis=1) == np.array(vectors.facts)
        found = {"top1": float(right.mean()), "counted": len(vectors.facts) / len(self.source)}
        return Found(found, {"top1": 1 / len(COLOURS), "counted": 1.0})


class ColourSuite(Suite):
    name, averages = "colours", ("colours_mean",)

    def tasks(self, config):
        return {"short": Colours("{}"), "long": Colours("a photo of {}"), "absent": "put it where it belongs"}

    def average(self, found: Found) -> Found:
        return Found({"colours_mean": float(np.mean([found.metrics["short/top1"], found.metrics["long/top1"]]))})


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(suites.SUITES, "colours", ColourSuite())


def test_a_suite_is_a_module_and_a_line(registered, encoder, config):
    config.evaluation.suite = "colours"
    found = running.run(config, encoder)
    assert found.metrics.keys() == set(suites.metric_names(config))
    assert found.metrics["short/counted"] == found.metrics["long/counted"] == 1.0
    assert found.metrics["colours_mean"] == (found.metrics["short/top1"] + found.metrics["long/top1"]) / 2
    assert found.chance["short/top1"] == 0.2 and found.left_out == {"absent": "put it where it belongs"}


def test_suites_are_run_together(registered, encoder, config):
    config.evaluation.suite = "colours,scenes"
    found = running.run(config, encoder)
    assert {name.split("/")[0] for name in found.metrics} == {"short", "long", "colours_mean", "test", "test_unseen"}
