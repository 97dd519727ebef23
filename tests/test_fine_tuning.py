"""The whole chain of fine-tuning: OpenCLIP's weights -> COCO -> HarmoCLIP -> evaluation -> interpolation -> OpenCLIP.

The weights are random and small, in OpenCLIP's own folder; the data are drawn and written in COCO's published format;
the settings are those of configs/coco_harmoclip_vitb16.py but for sizes.
"""

import importlib.util
import json
from pathlib import Path
import subprocess
import sys

import numpy as np
from PIL import Image, ImageDraw
import pytest

from harmopower.interop import torchvision_stand_in
from harmopower.training import writers
from tools import convert_weights, export, interpolate, prepare

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}
CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "patch_size": 32, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "layers": 1, "heads": 2},
}


def command(*words):
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def openclip_folder(folder):
    """A model of OpenCLIP's own making, as its `save_pretrained` lays it out."""
    open_clip, safetensors = torchvision_stand_in.import_open_clip(), pytest.importorskip("safetensors.torch")
    model = open_clip.CLIP(**{key: dict(value) if isinstance(value, dict) else value for key, value in CONFIG.items()})
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))


def coco_files(folder, split, first, count):
    """Pictures of two coloured boxes, their captions and instances; returns what `--input` takes."""
    folder.mkdir(exist_ok=True)
    rng, names = np.random.default_rng(first), list(COLOURS)
    images, captions, instances = [], [], []
    for number in range(first, first + count):
        picture, two = Image.new("RGB", (96, 64), (120, 120, 120)), rng.permutation(3)[:2]
        for place, colour in enumerate(two):
            x, y, width, height = 48 * place + 6, int(rng.integers(4, 24)), 34, 32
            ImageDraw.Draw(picture).rectangle((x, y, x + width, y + height), fill=COLOURS[names[colour]])
            box = {"bbox": [x, y, width, height], "category_id": int(colour) + 1, "iscrowd": 0, "area": width * height}
            instances.append({"id": len(instances) + 1, "image_id": number, **box})
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 96, "height": 64})
        picture.save(folder / f"{number:012d}.jpg")
        text = f"a {names[two[0]]} box left of a {names[two[1]]} box"
        captions.append({"id": number, "image_id": number, "caption": text})
    categories = [{"id": number + 1, "name": name, "supercategory": "box"} for number, name in enumerate(names)]
    files = {
        "captions": {"images": images, "annotations": captions},
        "instances": {"images": images, "annotations": instances, "categories": categories},
    }
    for name, content in files.items():
        (folder / f"{name}_{split}.json").write_text(json.dumps(content))
    return [f"{split}={folder / name}_{split}.json" for name in files]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The converted weights and the prepared data."""
    folder = tmp_path_factory.mktemp("chain")
    openclip_folder(folder / "openclip")
    arguments = ["--source", folder / "openclip", "--output", folder / "init", "--tokenizer", "clip"]
    assert convert_weights.main(list(map(str, arguments))) == 0
    inputs = coco_files(folder / "coco", "train", 1, 48) + coco_files(folder / "coco", "test", 100, 12)
    arguments = ["coco", "--images", folder / "coco", "--output", folder / "data", "--tokenizer", "clip"]
    assert prepare.main([*map(str, arguments), "--input", *inputs]) == 0
    return folder


def test_from_openclip_and_back(start, capsys):
    made = json.loads((start / "init" / "config.json").read_text())
    run = start / "run"
    settings = {
        "init": start / "init",
        "data.tokenizer": start / "init",
        "data.source": start / "data",
        "data.image_size": 64,
        "data.context_length": 16,
        "data.max_boxes": 4,
        "data.workers": 0,
        "model.preset": made["model"]["preset"],
        "model.dtype": "float32",
        "batch_size": 16,
        "total_epochs": 3.4,  # ten steps of 48 images
        "optimizer.warmup_steps": 2,
        "optimizer.ema": 0.5,
        "optimizer.groups": "text/tokens=0",
        "evaluation.suite": "records",
        "log.tensorboard": "false",
        "log.every_steps": 1,
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    told = command("-m", "harmopower.train", "--config=configs/coco_harmoclip_vitb16.py", f"--workdir={run}", *flags)
    assert "config.total_epochs 3.4 of 48 examples an epoch: 10 steps" in told
    rows = [row for row in writers.read_metrics(str(run)) if "loss/total" in row]
    assert [row["step"] for row in rows] == list(range(1, 11))
    for term in ("global_contrastive", "lexeme_region", "global_region"):
        assert all(np.isfinite(row[f"loss/{term}"]) and row[f"weight/{term}"] == 1 for row in rows)
    assert all(row["lexeme_region/pairs"] > 0 for row in rows)

    command("-m", "harmopower.evaluate", f"--workdir={run}", "--ema")
    last, average = (json.loads((path / "eval.json").read_text())["metrics"] for path in (run, run / "ema"))
    assert last.keys() == average.keys() >= {"test/retrieval/image_to_text_r1", "test/boxes/top1"}

    points = ["--alpha", "0", "0.5", "1", "--output", str(start / "between")]
    arguments = ["--a", str(start / "init"), "--b", str(run), *points]
    drawn = importlib.util.find_spec("matplotlib") is not None  # of the extra `docs`
    assert interpolate.main(arguments + (["--evaluate"] if drawn else [])) == 0
    if drawn:
        lines = (start / "between" / "curve.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["alpha", "0.0", "0.5", "1.0"]
        mean = (last["test/retrieval/image_to_text_r1"] + last["test/retrieval/text_to_image_r1"]) / 2
        assert [float(value) for value in lines[-1].split(",")[1:]] == pytest.approx([mean, last["test/boxes/top1"]])
        assert (start / "between" / "curve.png").stat().st_size > 1000 and (start / "between" / "table.md").exists()

    between = ["--workdir", str(start / "between" / "alpha_0.5"), "--format", "open_clip"]
    assert export.main([*between, "--output", str(start / "wise")]) == 0
    averaged = ["--workdir", str(run), "--ema", "--format", "open_clip"]
    assert export.main([*averaged, "--output", str(start / "ema")]) == 0
    capsys.readouterr()
    open_clip = torchvision_stand_in.import_open_clip()
    for name in ("wise", "ema"):
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{start / name}")
        tokens = open_clip.get_tokenizer(f"local-dir:{start / name}")(["a red box", "a blue box"])
        image = preprocess(Image.open(start / "coco" / f"{100:012d}.jpg"))[None]
        assert np.isfinite((model.encode_image(image) @ model.encode_text(tokens).T).detach().numpy()).all()
