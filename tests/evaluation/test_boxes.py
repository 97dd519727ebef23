"""Box classification: each protocol against a literal implementation, on 200 images in COCO's layout."""

import csv
import dataclasses
import hashlib
import json

import jax
import numpy as np
from PIL import Image
import pytest

from harmopower.data import images as decoding
from harmopower.errors import ConfigError, RecordError
from harmopower.evaluation import boxes, framing, prompts, report, running, segmentations, suites
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.suite import FEATURES, Found
from harmopower.models import vision
from tests.evaluation import literal_boxes as literal
from tests.evaluation import miniatures
from tests.evaluation.conftest import BATCH, LENGTH, SIZE

SIDE = 128


class Apart(Encoder):
    """An untrained text tower gives all texts nearly one vector; here they are far apart: rounding decides little."""

    def encode_texts(self, texts):
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        return literal.unit(np.array([np.random.default_rng(seed).normal(size=128) for seed in seeds], np.float32))


# What two hundred show beyond twenty is breadth alone; they take most of a minute.
@pytest.fixture(scope="module", params=[24, pytest.param(200, marks=pytest.mark.slow)])
def root(tmp_path_factory, request):
    root = tmp_path_factory.mktemp("boxes")
    miniatures.coco(root / "coco", request.param)
    return root


@pytest.fixture
def chosen(config, root):
    config.evaluation.suite, config.evaluation.data, config.evaluation.padded_size = "boxes", str(root), SIDE
    config.evaluation.box_features = ",".join(FEATURES)
    return config


@pytest.fixture(scope="module")
def apart(model_and_params, tokenizer):
    return Apart(*model_and_params, tokenizer, SIZE, LENGTH, BATCH)


@pytest.fixture(scope="module")
def tokens(model_and_params):
    """The model as the literal protocols call it."""
    model, params = model_and_params

    def encode(pixels, dense):
        side = pixels.shape[1]
        sized = model.clone(image_size=side, dense=dense)
        position = vision.resample_position(params["vision"]["position"], model.grid, (side // 16,) * 2)
        own = params | {"vision": params["vision"] | {"position": position}}
        run = jax.jit(lambda part: sized.apply({"params": own}, part, method="encode_image"))
        padded = np.concatenate([pixels, np.zeros((-len(pixels) % 32, *pixels.shape[1:]), np.uint8)])
        found = [run(padded[start : start + 32]) for start in range(0, len(padded), 32)]
        parts = [np.concatenate([np.asarray(part[which]) for part in found])[: len(pixels)] for which in (0, 1)]
        return parts

    return encode


def classes(encoder, all_prompts):
    return literal.unit(np.array([encoder.encode_texts(texts).mean(0) for texts in all_prompts]))


def tops(regions, embeddings, labels):
    """Whether the right class is among the first 1 and 5, a tie being wrong."""
    scores = literal.unit(regions) @ embeddings.T
    before = (scores >= scores[np.arange(len(labels)), labels][:, None]).sum(1) - 1
    return before < 1, before < 5


def pooled(rows, kept, which, mode, grid, normalised):
    found = []
    for row, own in zip(rows, kept, strict=True):
        own = literal.unit(own) if normalised else own
        masks = row["masks" if which == "padded" else "squashed_masks"]
        for box, mask in zip(row[f"{which}_boxes"], masks, strict=True):
            found.append(literal.weights(mode, box, mask, grid) @ own)
    return np.array(found)


def test_all_protocols_are_those_of_the_papers_programs(chosen, apart, tokens, root, monkeypatch):
    decoded, decode = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda data: (decoded.append(hash(data)), decode(data))[1])
    found = running.run(chosen, apart)
    images = len(list((root / "coco" / "val2017").iterdir()))
    assert len(decoded) == len(set(decoded)) == 2 * images - 1  # and PNGs, of which one image has none: each once

    rows = list(literal.panoptic(root / "coco", SIDE, SIDE // 16, SIZE))
    labels = np.concatenate([row["labels"] for row in rows]).astype(int)
    things = np.concatenate([row["things"] for row in rows]) > 0
    templates = [text.replace("<a>", "{article}").replace("<name>", "{}") for text in prompts.VILD]
    names = [name for _, name, _ in miniatures.CATEGORIES]
    embeddings = classes(apart, [literal.article_prompts(name, templates) for name in names])
    expected, everyone = {}, np.ones(len(labels), bool)
    for dense in ("full", "value"):
        padded = tokens(np.stack([row["padded"] for row in rows]), dense)[1]
        squashed = tokens(np.stack([row["squashed"] for row in rows]), dense)[1]
        for mode in ("cover", "overlap", "roi_align", "mask"):
            top = tops(pooled(rows, padded, "padded", mode, SIDE // 16, True), embeddings, labels)
            name = f"coco_boxes/clipself/{mode}_{dense}"
            for k, hit in zip((1, 5), top, strict=True):
                expected[f"{name}/thing_macc{k}"] = literal.class_means(hit, labels, things)
                expected[f"{name}/stuff_macc{k}"] = literal.class_means(hit, labels, ~things)
            top = tops(pooled(rows, squashed, "squashed", mode, SIZE // 16, True), embeddings, labels)
            for k, hit in zip((1, 5), top, strict=True):
                expected[f"coco_boxes/fineclip/{mode}_{dense}/macc{k}"] = literal.class_means(hit, labels, everyone)
    crops = tokens(np.concatenate([np.stack(row["crops"]) for row in rows if row["crops"]]), "full")[0]
    for k, hit in zip((1, 5), tops(crops, embeddings, labels), strict=True):
        expected[f"coco_boxes/clipself/crop/thing_macc{k}"] = literal.class_means(hit, labels, things)
        expected[f"coco_boxes/clipself/crop/stuff_macc{k}"] = literal.class_means(hit, labels, ~things)
        expected[f"coco_boxes/fineclip/crop/macc{k}"] = literal.class_means(hit, labels, everyone)

    rows = list(literal.instances(root / "coco", SIZE))
    labels = np.concatenate([row["labels"] for row in rows]).astype(int)
    embeddings = classes(
        apart, [[text.replace("<name>", name.replace("_", " ")) for text in prompts.IMAGENET] for name in names[:5]]
    )
    for dense in ("full", "value"):
        squashed = tokens(np.stack([row["squashed"] for row in rows]), dense)[1]
        for mode in ("cover", "overlap", "roi_align", "mask"):
            top = tops(pooled(rows, squashed, "squashed", mode, SIZE // 16, False), embeddings, labels)
            for k, hit in zip((1, 5), top, strict=True):
                expected[f"coco_boxes/fgclip/{mode}_{dense}/top{k}"] = hit.mean()
    crops = tokens(np.concatenate([np.stack(row["crops"]) for row in rows if row["crops"]]), "full")[0]
    for k, hit in zip((1, 5), tops(crops, embeddings, labels), strict=True):
        expected[f"coco_boxes/fgclip/crop/top{k}"] = hit.mean()
    assert found.metrics.keys() == expected.keys() <= set(suites.metric_names(chosen))
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert len(set(found.metrics.values())) > 20 and found.chance["coco_boxes/clipself/crop/stuff_macc5"] == 5 / 9
    assert "padded to 128" in found.partial["coco_boxes/clipself"]
    assert f"{images} images, the published set has 5000" in found.partial["coco_boxes/images"]
    assert "put into" in found.left_out["lvis_boxes"]
    table = found.tables["coco_boxes/fgclip/cover_full/confusions"]
    assert sum(row[1] for row in table[1:]) == len(labels) and table[1][0] == "person"


def test_masks_fall_on_patches_as_torch_resizes_them():
    rng = np.random.default_rng(0)
    for height, width in ((33, 50), (64, 64), (427, 640), (91, 9), (7, 120)):
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + height // 3 + 1, x : x + width // 4 + 1] = True
        np.testing.assert_array_equal(framing.patches(mask, 16), literal.mask_to_grid(mask, 16).reshape(-1))


def test_squashed_masks_are_on_every_patch_that_they_touch():
    rng = np.random.default_rng(1)
    for height, width in ((33, 50), (64, 64), (427, 640), (91, 9), (7, 120)):
        mask = np.zeros((height, width), bool)
        mask[rng.integers(0, height), rng.integers(0, width)] = True  # one pixel, which four may be looked at about
        np.testing.assert_array_equal(framing.touched(mask, (14, 14)), literal.mask_to_squashed(mask, 14).reshape(-1))
        assert framing.touched(mask, (14, 14)).any()
    corner = np.zeros((10, 30), bool)
    corner[9, 0] = True
    assert np.flatnonzero(framing.touched(corner, (2, 5))).tolist() == [5]  # row 1 of two, column 0 of five


def test_segmentations_are_drawn_by_the_middles_of_pixels_and_runs_by_columns():
    rng, shape = np.random.default_rng(2), (23, 31)
    for corners in (3, 4, 9):
        polygons = [rng.uniform(-3, 34, 2 * corners).round(2).tolist() for _ in range(2)]
        drawn = segmentations.mask(segmentations.read(polygons), shape)
        np.testing.assert_array_equal(drawn, literal.instance_mask(polygons, *shape))
    square = segmentations.mask(segmentations.read([[2, 3, 6, 3, 6, 8, 2, 8]]), shape)
    assert square.sum() == 20 and square[3:8, 2:6].all()
    mask = rng.random(shape) < 0.5
    mask[:, 5:20] = False  # a long run, whose packed difference takes several characters and is negative behind it
    for counts in (miniatures.runs(mask), miniatures.packed(miniatures.runs(mask))):
        kept = segmentations.read({"size": list(shape), "counts": counts})
        np.testing.assert_array_equal(segmentations.mask(kept, shape), mask)
        with pytest.raises(RecordError, match=r"\(23, 31\).*\(31, 23\)"):
            segmentations.mask(kept, shape[::-1])


def test_packed_runs_are_those_of_pycocotools():
    mask = np.zeros((9, 40), bool)
    mask[2:7, 3] = mask[:, 10:30] = mask[4, 35] = True
    kept = segmentations.read({"size": [9, 40], "counts": "m05h1_5I]JG"})  # as its version 2.0.11 packs that mask
    np.testing.assert_array_equal(segmentations.mask(kept, (9, 40)), mask)


@pytest.mark.parametrize(
    "segmentation", [None, [], [[1, 2, 3, 4]], [[1, 2, 3]], {"size": [2, 2], "counts": [1, 2]}, {"counts": []}, "x"]
)
def test_what_cannot_be_drawn_is_no_segmentation(segmentation):
    assert segmentations.read(segmentation) is None


def test_masks_of_instances_without_segmentations_are_left_out_with_a_line(config, tmp_path, encoder):
    miniatures.coco(tmp_path / "coco", 3)
    (tmp_path / "coco" / "annotations" / "panoptic_val2017.json").unlink()
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["segmentation"]
    path.write_text(json.dumps(content))
    config.evaluation.suite, config.evaluation.data = "boxes", str(tmp_path)
    config.evaluation.box_features = "mask_full,cover_full"
    found = running.run(config, encoder)
    assert set(found.metrics) == {"coco_boxes/fgclip/cover_full/top1", "coco_boxes/fgclip/cover_full/top5"}
    reason = f"1 of {len(content['annotations'])} instances have no `segmentation`"
    assert found.left_out["coco_boxes/fgclip/mask_full"].startswith(reason)
    config.evaluation.box_features = "mask_full"
    assert suites.tasks(config)["boxes"]["coco_boxes"].startswith(reason)


def test_prompts_are_as_many_as_published_and_name_the_class():
    assert len(set(prompts.VILD)) == 63 and len(set(prompts.IMAGENET)) == 80
    written = prompts.vild("orange/apple_tree")
    assert written[0] == "There is an orange or apple tree in the scene." and "<" not in "".join(written)
    assert "This is a photo of an orange or apple tree in the scene." in written and "itap of my orange" in written[6]
    assert prompts.imagenet("fire_hydrant")[0] == "a bad photo of a fire hydrant."


def test_confusions_name_who_is_taken_for_whom_and_ties():
    kind = type("Kind", (), {"names": ["cat", "dog", "sky"], "things": np.array([True, True, False])})
    embeddings = np.eye(3)
    regions = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0.6, 0.8]])
    found = boxes.score("clipself", regions, embeddings, np.array([0, 0, 0, 0, 2]), kind)
    assert found.metrics == {"thing_macc1": 0.25, "thing_macc5": 1.0, "stuff_macc1": 1.0, "stuff_macc5": 1.0}
    assert found.tables["confusions"][1:] == [["cat", 4, 0.25, "dog: 0.5000", "a tie: 0.2500"], ["sky", 1, 1.0]]


def test_tables_are_files_beside_the_results(tmp_path):
    found = Found({"a/b": 1.0}, tables={"a/b/confusions": [["class", "boxes"], ["cat", 4]]})
    report.write(str(tmp_path), 1, found)
    path = tmp_path / "tables" / "a.b.confusions.csv"
    assert list(csv.reader(path.read_text().splitlines())) == [["class", "boxes"], ["cat", "4"]]
    assert json.loads((tmp_path / "eval.json").read_text())["tables"] == dataclasses.asdict(found)["tables"]


@pytest.mark.parametrize(
    "key, value, words", [("box_features", "roi", "choose of cover_full"), ("padded_size", 100, "16")]
)
def test_what_cannot_be_looked_at_is_refused(config, tmp_path, key, value, words):
    config.evaluation.suite, config.evaluation.data, config.evaluation[key] = "boxes", str(tmp_path), value
    miniatures.coco(tmp_path / "coco", 1)
    with pytest.raises(ConfigError, match=words):
        suites.tasks(config)


def test_lvis_takes_its_images_from_both_folders_of_coco(config, tmp_path_factory, tmp_path, encoder):
    (tmp_path / "lvis").mkdir()
    source = tmp_path_factory.mktemp("source")
    miniatures.coco(source, 3)
    images, annotations, categories = literal.load(source, "instances")
    for number, folder in enumerate(("train2017", "val2017")):
        (tmp_path / "coco" / folder).mkdir(parents=True)
        name = images[number].pop("file_name")
        images[number]["coco_url"] = f"http://images.cocodataset.org/{folder}/{name}"
        (tmp_path / "coco" / folder / name).write_bytes((source / "val2017" / name).read_bytes())
    own = [row for row in annotations if row["image_id"] in (images[0]["id"], images[1]["id"])]
    content = {"images": images[:2], "annotations": own, "categories": categories}
    (tmp_path / "lvis" / "lvis_v1_val.json").write_text(json.dumps(content))
    config.evaluation.suite, config.evaluation.data = "boxes", str(tmp_path)
    config.evaluation.box_features = "cover_full"
    found = running.run(config, encoder)
    assert set(found.metrics) == {"lvis_boxes/fgclip/cover_full/top1", "lvis_boxes/fgclip/cover_full/top5"}
    assert found.notes["lvis_boxes/fgclip"].startswith(f"{len(own)} boxes")
    assert "neither instances_val2017.json" in found.left_out["coco_boxes"]


def test_frames_of_rectangles():
    """Cut-outs of a model of 32 x 64 pixels: as large as fits, black around; and the whole image, right and below."""
    picture = Image.new("RGB", (40, 40), "white")
    cut = framing.cut_out(picture, np.array([0, 10, 40, 10], float), (32, 64), False)
    assert cut.shape == (32, 64, 3) and (cut[8:24] == 255).all() and not cut[:8].any() and not cut[24:].any()
    whole = framing.padded(picture, (32, 64))
    assert (whole[:, :32] == 255).all() and not whole[:, 32:].any()
    assert framing.squashed(picture, (32, 64), Image.Resampling.BICUBIC).shape == (32, 64, 3)
