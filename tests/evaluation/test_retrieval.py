"""Retrieval with several captions an image, against a literal form, in little memory, from both layouts."""

import jax
import numpy as np
import pytest

from harmopower.data import records
from harmopower.evaluation import ranking, retrieval, running, shards, similarity
from tests.evaluation import miniatures
from tests.evaluation.test_zero_shot import features


def unit(*shape, seed=0):
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def literal(images, texts, owners):
    """Sorts all candidates of each query and looks whether a right one is among the first k."""
    found = {}
    for k in (1, 5, 10):
        hits = [any(owners[text] == i for text in np.argsort(-texts @ image)[:k]) for i, image in enumerate(images)]
        found[f"image_to_text_r{k}"] = np.mean(hits)
        hits = [owners[i] in np.argsort(-images @ text)[:k] for i, text in enumerate(texts)]
        found[f"text_to_image_r{k}"] = np.mean(hits)
    return found


@pytest.mark.parametrize("block", [1, 3000, 1 << 26])
def test_every_caption_counts_as_in_the_literal_form(monkeypatch, block):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", block)
    owners = np.random.default_rng(1).permutation(np.repeat(np.arange(40), 1 + np.arange(40) % 5))
    images = unit(40, 8)
    texts = images[owners] + 0.8 * unit(len(owners), 8, seed=2)
    found = retrieval.recall(images, texts, owners)
    assert found == pytest.approx(literal(images, texts, owners))
    assert 0.1 < found["image_to_text_r1"] < 0.95 and found["image_to_text_r1"] != found["text_to_image_r1"]


def test_a_tie_between_own_captions_is_none_and_with_others_a_miss():
    images, owners = np.eye(2, dtype=np.float32), [0, 0, 1, 1]
    texts = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    assert set(retrieval.recall(images, texts, owners).values()) == {1.0}
    texts[2] = [1, 0]  # of image 1, but like image 0
    found = retrieval.recall(images, texts, owners)
    assert found["image_to_text_r1"] == 0.5 and found["text_to_image_r1"] == 0.75
    assert retrieval.recall(np.full((2, 1), np.nan), np.ones((4, 1)), owners)["image_to_text_r1"] == 0.0


def test_chance_with_five_captions():
    rng = np.random.default_rng(0)
    hits = [(rng.permutation(100)[:10] < 5).any() for _ in range(4000)]
    found = retrieval.chance(20, 100)
    assert found["image_to_text_r10"] == pytest.approx(np.mean(hits), abs=0.03)
    assert found["image_to_text_r1"] == pytest.approx(0.05) and found["text_to_image_r5"] == 5 / 20


@pytest.mark.parametrize("images, texts", [(5_000, 25_000), (20_000, 100_000)])
def test_a_large_set_needs_less_than_a_gibibyte(images, texts):
    """The whole similarities would be 0.5 and 8 GB."""
    for queries, candidates in ((images, texts), (texts, images)):
        shape = similarity.blocks(queries, candidates)
        arrays = [
            ((*shape, 512), "float32"),
            (shape, "int32"),
            ((candidates, 512), "float32"),
            ((candidates,), "int32"),
        ]
        compiled = similarity.blocked_ranks.lower(*(jax.ShapeDtypeStruct(*each) for each in arrays)).compile()
        sizes = compiled.memory_analysis()
        needed = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
        assert needed < 1 << 30, needed
        assert np.prod(shape) >= queries and shape[2] * candidates * 4 <= ranking.BLOCK_BYTES


def test_both_layouts_of_a_set_give_the_same(config, encoder, tmp_path):
    captions = miniatures.retrieval(tmp_path / "wds_flickr30k")
    examples = [
        {"id": str(i), "image": miniatures.picture(100 + i, kind="JPEG"), "captions": own}
        for i, own in enumerate(captions)
    ]
    records.write(tmp_path / "coco_val2017", {"train": examples[:1], "validation": examples}, name="coco")
    config.evaluation.suite, config.evaluation.data = "retrieval", str(tmp_path)
    found = running.run(config, encoder)
    for metric in retrieval.chance(1):
        assert found.metrics[f"flickr30k/{metric}"] == found.metrics[f"coco_val2017/{metric}"]
    assert found.notes["flickr30k/images"] == "14 images, 71 captions"
    assert "14 images, the published set has 1000" in found.partial["flickr30k/images"]
    assert "0 of 6 are complete" in found.left_out["average/retrieval_6"]
    assert "clip-benchmark/wds_mscoco_captions" in found.left_out["mscoco_captions"]
    texts = encoder.encode_texts([caption for own in captions for caption in own])
    owners = np.repeat(np.arange(14), [len(own) for own in captions])

    images = features(encoder, shards.Shards(tmp_path / "wds_flickr30k", "txt"))
    expected = literal(images, texts, owners)
    assert {key: found.metrics[f"flickr30k/{key}"] for key in expected} == pytest.approx(expected)


def test_a_sample_without_a_caption_is_named(config, encoder, tmp_path, caplog):
    samples = [{"png": miniatures.picture(i), "txt": text} for i, text in enumerate((b"a cat", b" \n", b"\xff"))]
    miniatures.write_shards(tmp_path / "flickr8k", samples, kind="retrieval")
    config.evaluation.suite, config.evaluation.data = "retrieval", str(tmp_path)
    found = running.run(config, encoder)
    assert "2 of 3" in found.left_out["flickr8k/records"]
    assert "has no caption" in caplog.text and "not UTF-8" in caplog.text
