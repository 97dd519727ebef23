"""Grounding on miniatures in the published layouts, against figures in plain NumPy."""

import json

import numpy as np
from PIL import Image
import pytest

from harmopower.errors import ConfigError
from harmopower.evaluation import grounding, running, suites
from harmopower.features.regions import region_weights
from tests.evaluation import literal_boxes as literal
from tests.evaluation import miniatures
from tests.evaluation.conftest import SIZE
from tests.evaluation.test_boxes import apart, tokens  # noqa: F401

GRID = SIZE // 16


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("grounding")
    miniatures.coco(root / "coco", 3)
    return root


@pytest.fixture
def chosen(config, root):
    config.evaluation.suite, config.evaluation.data = "grounding", str(root)
    config.evaluation.box_features = "roi_align_value,overlap_full,mask_value"
    return config


def squash(path):
    return np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.BICUBIC))


def literal_iou(a, b):
    across = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = across * down
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def around(boxes):
    return [*np.min(boxes, 0)[:2], *np.max(boxes, 0)[2:]]


def features(mode, boxes, size, own):
    width, height = size
    shares = np.array(boxes, float) / [width, height, width, height]
    return literal.unit(np.array([literal.weights(mode, box, None, GRID) @ own for box in shares]))


def test_phrases_are_grounded_as_defined(chosen, apart, tokens, root):  # noqa: F811
    written = miniatures.entities(root / "flickr30k_entities")
    found = running.run(chosen, apart)
    pixels = np.stack(
        [squash(root / "flickr30k_entities" / "flickr30k-images" / f"{name}.jpg") for name, *_ in written]
    )
    expected: dict[str, list] = {}
    for mode, dense in (("roi_align", "value"), ("overlap", "full")):
        maps = tokens(pixels, dense)[1]
        for (name, size, chains, phrases), own in zip(written, maps, strict=True):
            # 1-based and the last pixel belongs to the box.
            boxes = {chain: [(x0 - 1, y0 - 1, x1, y1) for x0, y0, x1, y1 in each] for chain, each in chains.items()}
            everything = [box for each in boxes.values() for box in each]
            candidates = {"any_box": everything, "merged_box": [around(each) for each in boxes.values()]}
            regions = {rule: features(mode, each, size, own) for rule, each in candidates.items()}
            for place, (words, chain) in enumerate(phrases):
                if chain not in boxes or (name == "1001" and place < 2):  # no box, or in an unrelated caption
                    continue
                query = apart.encode_texts([words])[0]
                patch = int(np.argmax(literal.unit(own) @ query))
                x, y = (patch % GRID + 0.5) / GRID * size[0], (patch // GRID + 0.5) / GRID * size[1]
                for rule, targets in (("any_box", boxes[chain]), ("merged_box", [around(boxes[chain])])):
                    hit = any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in targets)
                    expected.setdefault(f"pointing_{dense}/{rule}", []).append(hit)
                    order = np.argsort(-(regions[rule] @ query))
                    for k in (1, 5, 10):
                        hit = any(
                            literal_iou(candidates[rule][i], target) >= 0.5 for i in order[:k] for target in targets
                        )
                        expected.setdefault(f"{mode}_{dense}/{rule}_r{k}", []).append(hit)
    expected = {f"flickr30k_entities/{name}": np.mean(hits) for name, hits in expected.items()}
    own = {name: value for name, value in found.metrics.items() if name.startswith("flickr30k")}
    assert own == pytest.approx(expected, abs=1e-9) and set(own) <= set(suites.metric_names(chosen))
    assert 0 < found.chance["flickr30k_entities/overlap_full/any_box_r1"] < 1
    assert found.chance["flickr30k_entities/overlap_full/merged_box_r10"] == 1
    assert "6 images, the published set has 1000" in found.partial["flickr30k_entities/images"]


def test_eleven_descriptions_of_a_box(chosen, apart, tokens, root):  # noqa: F811
    written = miniatures.fg_ovd(root / "fg_ovd")
    found = running.run(chosen, apart)
    paths = [root / "coco" / "val2017" / f"{number:012d}.jpg" for number in range(3)]
    expected = {}
    for mode, dense in (("roi_align", "value"), ("overlap", "full")):
        maps = tokens(np.stack([squash(path) for path in paths]), dense)[1]
        for level, rows in (("hard", written["h_attributes"]), ("trivial", written["shuffle_negatives"])):
            hits = []
            for row in rows:
                number = int(row["img_path"][-6:-4])
                x, y, w, h = row["bbox"]
                region = features(mode, [(x, y, x + w, y + h)], Image.open(paths[number]).size, maps[number])[0]
                scores = apart.encode_texts(row["pos_expression"] + row["neg_expression"]) @ region
                hits.append((scores[0] > max(scores[1:]), scores[0] >= max(scores)))
            for name, value in zip(("top1", "top1_ties_right"), np.mean(hits, 0), strict=True):
                expected[f"fg_ovd/{level}/{mode}_{dense}/{name}"] = value
    assert {name: value for name, value in found.metrics.items() if name.startswith("fg_ovd")} == expected
    name = "fg_ovd/hard/overlap_full/top1"
    assert found.chance[name] == pytest.approx((4 / 7 + 1 / 8) / 5)  # six negatives, seven in the last row
    assert "5 boxes, published are 3545" in found.partial["fg_ovd/trivial"]


def test_the_small_measures_by_hand():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0.5, 1], [0.2, 0.2, 0.2, 0.9]])
    np.testing.assert_allclose(grounding.overlaps(boxes, boxes[:2]), [[1, 0.5], [0.5, 1], [0, 0]])
    assert grounding.before(np.array([0.5, 0.5, 0.4, np.nan]), np.array([False, True, False, False])) == 2
    assert grounding.chance(2, 4, 1) == 0.5 and grounding.chance(1, 3, 10) == 1
    assert grounding.inside((2, 2), np.array([[0, 0, 0.3, 0.3], [0.7, 0.2, 0.8, 0.9]])).tolist() == [
        True,
        False,
        True,
        True,
    ]
    assert grounding.inside((1, 3), np.array([[0, 0.4, 1, 0.6]])).tolist() == [False, True, False]
    cells = grounding.cells((2, 3))
    assert cells.shape == (6, 4) and [grounding.inside((2, 3), cell[None]).argmax() for cell in cells] == [*range(6)]
    np.testing.assert_allclose(region_weights(cells, (2, 3), "cover"), np.eye(6))
    assert not grounding.inside((2, 2), np.array([[0.3, 0.3, 0.4, 0.4]])).any()


def test_sets_that_are_not_there_say_how_to_get_them(chosen, tmp_path):
    chosen.evaluation.data = str(tmp_path)
    left_out = suites.tasks(chosen)["grounding"]
    assert "flickr30k-images/" in left_out["flickr30k_entities"] and "*_llava.jsonl" in left_out["fg_ovd"]
    (tmp_path / "fg_ovd").mkdir()
    (tmp_path / "fg_ovd" / "h_attributes_llava.jsonl").write_text(json.dumps({"img_path": "a", "bbox": [1, 2]}) + "\n")
    (tmp_path / "val2017").mkdir()
    assert "line 1" in suites.tasks(chosen)["grounding"]["fg_ovd"]
    miniatures.fg_ovd(tmp_path / "fg_ovd")
    chosen.evaluation.box_features = "crop"
    assert "none that is read from a box alone" in suites.tasks(chosen)["grounding"]["fg_ovd"]
    chosen.evaluation.box_features = "roi"
    with pytest.raises(ConfigError, match="choose of"):
        suites.tasks(chosen)
