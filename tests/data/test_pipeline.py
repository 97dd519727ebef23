"""Pipeline: a batch is a function of (seed, step); bad records are rows of weight 0, counted and named."""

import ast
import contextlib
import io
import itertools
from pathlib import Path
import subprocess
import sys
import threading
import zlib

import grain
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from harmopower.data import contents, pipeline, records, sources
from harmopower.data.pipeline import BadDataError, Pipeline
from harmopower.data.rows import Options, make_rows, random_boxes
from harmopower.data.tokenize import Tokenizer

COUNT = 23
OPTIONS = dict(image_size=16, context_length=12, max_phrases=4, max_boxes=3, region_text_length=6)
CAPTIONS = ["a red circle above a blue square", "the blue square is below it"]


def _image(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _example(index: int, **changes) -> dict:
    """The red channel of the image is the number of the record, so that a batch shows which records it has."""
    regions = [
        {"box": [0.0, 0.0, 0.5, 0.5], "caption": 0, "start": 0, "end": 12, "text": "", "label": ""},
        {"box": [0.5, 0.5, 1.0, 1.0], "caption": 1, "start": 0, "end": 15, "text": "", "label": ""},
        {"box": [0.0, 0.5, 0.5, 1.0], "caption": -1, "start": -1, "end": -1, "text": "Sky", "label": ""},
        {"box": [0.2, 0.2, 0.7, 0.7], "caption": -1, "start": -1, "end": -1, "text": "", "label": ""},
    ]
    phrases = [{"caption": 0, "start": start, "end": end, "label": "NP"} for start, end in [(0, 32), (0, 12), (19, 32)]]
    return {
        "id": f"r{index}",
        "image": _image(index),
        "captions": CAPTIONS,
        "phrases": phrases,
        "regions": regions,
        "negatives": [],
    } | changes


class _List:
    """A source in memory."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS * 9, 320)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("data")
    records.write(path, {"train": map(_example, range(COUNT))}, name="own")
    tokenizer.save(path / "tokenizer.json")
    return path


@pytest.fixture(scope="module")
def source(directory):
    return records.read(directory, "train")


def _numbers(batch) -> list[int]:
    return batch["image"][:, 0, 0, 0].tolist()


def _equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def _make(source, tokenizer, **changes):
    return Pipeline(source, tokenizer, **(OPTIONS | dict(seed=5, batch_size=8, min_crop_area=0.4) | changes))


def test_shapes_and_types(source, tokenizer):
    batch = _make(source, tokenizer, region_text=True).batch(0)
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        "image": ((8, 16, 16, 3), "uint8"),
        "tokens": ((8, 12), "int32"),
        "phrases": ((8, 4, 12), "bool"),
        "boxes": ((8, 3, 4), "float32"),
        "box_valid": ((8, 3), "bool"),
        "box_phrase": ((8, 3), "int32"),
        "box_group": ((8, 3), "int32"),
        "box_tokens": ((8, 3, 6), "int32"),
        "cut": ((8,), "bool"),
        "weight": ((8,), "float32"),
    }
    assert (batch["weight"] == 1).all()
    assert "box_tokens" not in _make(source, tokenizer).batch(0)


def test_every_example_once_an_epoch_and_each_epoch_anew(source, tokenizer):
    maker = _make(source, tokenizer, min_crop_area=1.0)
    stream = list(itertools.chain.from_iterable(_numbers(maker.batch(step)) for step in range(9)))
    epochs = [stream[i * COUNT : (i + 1) * COUNT] for i in range(3)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != sorted(epochs[0])


def test_seed_decides(source, tokenizer):
    _equal(_make(source, tokenizer).batch(3), _make(source, tokenizer).batch(3))
    assert _numbers(_make(source, tokenizer).batch(3)) != _numbers(_make(source, tokenizer, seed=6).batch(3))


def test_an_example_is_cropped_anew_each_epoch(tokenizer):
    maker = _make(_List([_example(0)]), tokenizer, batch_size=8)
    assert len(np.unique(maker.batch(0)["boxes"][:, 0], axis=0)) > 4


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batch(source, tokenizer, hosts):
    for step in (0, 4):
        parts = [_make(source, tokenizer, process_index=i, process_count=hosts).batch(step) for i in range(hosts)]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        _equal(whole, _make(source, tokenizer).batch(step))


def test_threads_give_the_same_batches_from_any_start(source, tokenizer):
    maker = _make(source, tokenizer, threads=3)
    for start in (0, 5):
        batches = list(itertools.islice(maker.iterate(start), 6))
        assert len(batches) == 6
        for step, batch in enumerate(batches, start):
            _equal(batch, _make(source, tokenizer).batch(step))


def test_worker_processes_give_the_same_batches_and_name_bad_records(directory, tokenizer, tmp_path):
    examples = [_example(i) for i in range(9)] + [_example(9, image=b"broken")]
    records.write(tmp_path, {"train": examples}, name="own")
    source = records.read(tmp_path, "train")
    maker = _make(source, tokenizer, workers=2, threads=1, rows_per_element=3, max_bad_fraction=0.5)
    batches = maker.iterate(3)
    for step in range(3, 10):
        _equal(next(batches), _make(source, tokenizer, max_bad_fraction=0.5).batch(step))
    batches.close()
    assert maker.seen == 7 * 8 and maker.bad in (5, 6)


def _row_by_row(source, tokenizer, step, seed=5, batch_size=8):
    """The definition: position -> record, and everything drawn from (seed, position)."""
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    options = Options(**OPTIONS, min_crop_area=0.4)
    positions = range(step * batch_size, (step + 1) * batch_size)
    made = [
        make_rows([source[order[at]]], [np.random.default_rng((seed, at))], tokenizer, [options])[0] for at in positions
    ]
    return {name: np.concatenate([row[name] for row in made]) for name in made[0]}


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_slices_of_any_size_join_to_the_batch_made_row_by_row(source, tokenizer, rows):
    maker = _make(source, tokenizer, rows_per_element=rows, threads=2)
    _equal(maker.batch(4), _row_by_row(source, tokenizer, 4))
    with contextlib.closing(maker.iterate(2)) as batches:
        for step in range(2, 6):  # over the end of an epoch
            _equal(next(batches), _row_by_row(source, tokenizer, step))


def test_a_batch_is_made_by_all_threads(tokenizer):
    met, makers = threading.Barrier(2), {}

    class Watched(_List):
        def __getitem__(self, index):
            if threading.get_ident() not in makers.values():
                makers[index] = threading.get_ident()
                met.wait(timeout=60)
            makers[index] = threading.get_ident()
            return super().__getitem__(index)

    maker = _make(Watched([_example(i) for i in range(64)]), tokenizer, batch_size=64, threads=2, rows_per_element=8)
    with contextlib.closing(maker.iterate()) as batches:
        numbers = _numbers(next(batches))
        assert len({makers[number] for number in numbers}) == 2


def test_what_is_made_ahead_is_bounded_in_bytes(tokenizer):
    """Rows of 128 px are 48 KiB: 1 MiB holds 20 of them, where two batches a thread would be 32 rows and more."""
    read, done = [], threading.Event()

    class Counted(_List):
        def __getitem__(self, index):
            read.append(index)
            if len(read) > 60:
                done.set()
            return super().__getitem__(index)

    options = dict(image_size=128, rows_per_element=2, threads=2, ahead_mib=1)
    maker = _make(Counted([_example(i) for i in range(COUNT)]), tokenizer, **options)
    with contextlib.closing(maker.iterate()) as batches:
        next(batches)
        assert not done.wait(1)
        assert len(read) <= 8 + 20 + 2


def test_only_what_is_asked_for_is_read(tokenizer):
    class Recorded(_List):
        read = []

        def __getitem__(self, index):
            self.read.append(index)
            return super().__getitem__(index)

    source = Recorded([_example(i) for i in range(COUNT)])
    _make(source, tokenizer, process_index=1, process_count=4).batch(1000)
    assert len(source.read) == 2


# ---- What a row says ----


def _row(tokenizer, example, **changes):
    maker = _make(_List([example]), tokenizer, batch_size=1, min_crop_area=1.0, region_text=True, **changes)
    return {name: value[0] for name, value in maker.batch(0).items()}


def _signed_crc(text):
    return np.array([zlib.crc32(text.encode())], np.uint32).view(np.int32)[0]


def test_regions_phrases_and_texts_are_linked(tokenizer):
    row = _row(
        tokenizer,
        _example(
            0, captions=CAPTIONS[:1], regions=[region for region in _example(0)["regions"] if region["caption"] < 1]
        ),
    )
    assert row["box_valid"].tolist() == [True, True, True]
    np.testing.assert_allclose(row["boxes"][:, 0], [0.0, 0.0, 0.2], atol=1e-6)
    assert row["box_phrase"].tolist() == [1, -1, -1]
    tokens, _ = tokenizer.encode("a red circle", 12)
    assert row["tokens"][row["phrases"][1]].tolist() == tokens[1:4].tolist()
    assert row["box_group"].tolist() == [_signed_crc("a red circle"), _signed_crc("sky"), 0]
    assert row["box_tokens"][0].tolist() == tokens[:6].tolist()
    assert row["box_tokens"][1].tolist() == tokenizer.encode("Sky", 6)[0].tolist()
    assert row["box_tokens"][2].tolist() == [0] * 6


def test_a_text_is_the_span_else_the_own_text_else_the_label_in_a_prompt(tokenizer):
    """Regions as in COCO, which has nothing but labels, give pairs too."""
    box = {"box": [0.0, 0.0, 0.5, 0.5], "caption": -1, "start": -1, "end": -1, "text": "", "label": ""}
    regions = [
        box | {"caption": 0, "start": 2, "end": 12, "text": "ignored", "label": "ignored"},
        box | {"text": " below ", "label": "ignored"},
        box | {"label": "square"},
        box,
    ]
    regions = [region | {"box": [0.0, 0.0, 0.5, 0.5 + 0.1 * place]} for place, region in enumerate(regions)]
    example = _example(0, captions=CAPTIONS[:1], regions=regions)
    row = _row(tokenizer, example, max_boxes=4, alone_text=None, label_prompt="a {}")
    texts = ["red circle", "below", "a square"]
    assert row["box_tokens"][:3].tolist() == [tokenizer.encode(text, 6)[0].tolist() for text in texts]
    assert row["box_group"].tolist() == [int(_signed_crc(text)) for text in texts] + [0]
    assert row["box_alone"].tolist() == [False, True, True, False] and row["box_phrase"][0] >= 0


def test_one_of_the_texts_of_a_box_is_drawn(tokenizer):
    """A span, two own texts of the same box, and its label in two prompts; each box is one region."""
    box = {"box": [0.0, 0.0, 0.5, 0.5], "caption": -1, "start": -1, "end": -1, "text": "", "label": ""}
    regions = [
        box | {"caption": 0, "start": 2, "end": 12, "label": "sun"},
        box | {"caption": 1, "start": 0, "end": 5},  # of another caption than the row's
        box | {"text": "Sky"},
        box | {"text": "below"},
        box | {"box": [0.5, 0.5, 1.0, 1.0], "label": "square"},
        box | {"box": [0.5, 0.0, 1.0, 1.0]},
    ]
    example = _example(0, captions=CAPTIONS[:1], regions=[region for region in regions if region["caption"] < 1])
    make = lambda **changes: _make(
        _List([example]), tokenizer, batch_size=64, min_crop_area=1.0, max_boxes=4, region_text=True, **changes
    )
    maker = make(alone_text=None, region_text_choice="drawn", label_prompt="a {}|one {} there")
    batch = maker.batch(0)
    encoded = lambda text: tuple(tokenizer.encode(text, 6)[0].tolist())
    first, second = ({tuple(row) for row in batch["box_tokens"][:, place].tolist()} for place in (0, 1))
    assert first == set(map(encoded, ["red circle", "Sky", "below", "a sun", "one sun there"]))
    assert second == set(map(encoded, ["a square", "one square there"]))
    assert (batch["box_valid"].sum(1) == 3).all() and not batch["box_tokens"][:, 2].any()
    # Whichever prompt was drawn, one label is one group; the first prompt gives its name.
    groups = [_signed_crc(text) for text in ("red circle", "sky", "below", "a sun")]
    assert set(batch["box_group"][:, 0].tolist()) == set(groups)
    assert set(batch["box_group"][:, 1].tolist()) == {_signed_crc("a square")}
    spanned = (batch["box_group"][:, 0] == groups[0]) & (batch["box_tokens"][:, 0] == encoded("red circle")).all(1)
    np.testing.assert_array_equal(batch["box_phrase"][:, 0] >= 0, spanned)
    np.testing.assert_array_equal(batch["box_alone"][:, 0], ~spanned)
    assert 0 < spanned.sum() < 64 and batch["box_alone"][:, 1].all()
    _equal(make(alone_text=None, region_text_choice="drawn", label_prompt="a {}|one {} there").batch(0), batch)
    assert make().batch(0)["box_valid"].sum(1).tolist() == [3] * 64  # a box that a span names shows the span alone


def test_a_text_that_may_be_drawn_beside_a_span_is_encoded_alone(tokenizer):
    """`first` encodes nothing alone where every region has a span; `drawn` may draw the label."""
    span = {"box": [0.0, 0.0, 0.5, 0.5], "caption": 0, "start": 0, "end": 12, "text": "", "label": "sun"}
    source = _List([_example(0, captions=CAPTIONS[:1], regions=[span])])
    assert not _make(source, tokenizer, alone_text=None).alone_text
    assert _make(source, tokenizer, alone_text=None, region_text_choice="drawn").alone_text
    assert not _make(source, tokenizer, alone_text=False, region_text_choice="drawn").alone_text


def test_a_span_that_was_cut_is_encoded_alone(tokenizer):
    regions = [region for region in _example(0)["regions"] if region["caption"] == 0]
    row = _row(
        tokenizer,
        _example(0, captions=CAPTIONS[:1], regions=[regions[0] | {"start": 19, "end": 32}]),
        context_length=5,
        alone_text=True,
    )
    assert row["box_phrase"][0] == -1 and row["box_alone"].tolist() == [True, False, False]


def test_texts_are_encoded_alone_only_where_the_data_have_regions_without_a_span(tokenizer):
    spans = _List([_example(i, regions=_example(i)["regions"][:2]) for i in range(3)])
    mixed = _List(spans.examples[:2] + [_example(2)])
    assert "box_alone" not in _make(spans, tokenizer, alone_text=None).batch(0)
    assert "box_tokens" not in _make(spans, tokenizer, alone_text=None).batch(0)
    assert _make(mixed, tokenizer, alone_text=None).batch(0)["box_alone"].any()


def test_a_sample_says_what_the_records_have(tokenizer):
    nothing = {"box": [0.0, 0.0, 0.5, 0.5], "caption": -1, "start": -1, "end": -1, "text": "", "label": " "}
    found = contents.look(_List([_example(0, regions=[]), _example(1, regions=[nothing])]))
    assert found == (2, 2, True, False, False, False) and found.complete
    assert not contents.look(_List([_example(0, regions=[])])).regions
    found = contents.look(_List([_example(0)] * 5000))
    assert found == (contents.LOOKED_AT, 5000, True, True, True, True) and not found.complete
    span = {"box": [0.0, 0.0, 0.5, 0.5], "caption": 0, "start": 0, "end": 12, "text": "", "label": ""}
    assert contents.look(_List([_example(0, regions=[span])]))[2:] == (True, True, False, False)
    assert contents.look(_List([_example(0, regions=[span | {"label": "sun"}])]))[2:] == (True, True, False, True)


def test_a_cut_caption_says_so(tokenizer):
    example = _example(0, captions=[CAPTIONS[0] + " "], regions=[])
    length = np.count_nonzero(tokenizer.encode(CAPTIONS[0], 40)[0])
    assert _row(tokenizer, example, context_length=length - 1)["cut"]
    assert not _row(tokenizer, example, context_length=length)["cut"]


def test_the_ids_of_a_global_batch_are_those_of_its_rows(source, tokenizer):
    maker = _make(source, tokenizer, process_index=1, process_count=2)
    assert maker.ids(4) == [f"r{number}" for number in _numbers(_make(source, tokenizer).batch(4))]


def test_regions_of_another_caption_are_not_used(tokenizer):
    counts = set()
    maker = _make(_List([_example(0)]), tokenizer, batch_size=16, min_crop_area=1.0)
    batch = maker.batch(0)
    names = [tokenizer.encode(caption, 12)[0].tolist() for caption in CAPTIONS]
    for tokens, boxes, valid, linked in zip(batch["tokens"], batch["boxes"], batch["box_valid"], batch["box_phrase"]):
        caption = names.index(tokens.tolist())
        counts.add(caption)
        assert valid.sum() == 3
        assert boxes[0].tolist() == ([0.0, 0.0, 0.5, 0.5] if caption == 0 else [0.5, 0.5, 1.0, 1.0])
        assert linked.tolist() == [1, -1, -1]
    assert counts == {0, 1}


def test_too_many_boxes_are_drawn_without_replacement(tokenizer):
    boxes = [
        {"box": [i / 10, 0.0, i / 10 + 0.1, 1.0], "caption": -1, "start": -1, "end": -1, "text": "", "label": ""}
        for i in range(10)
    ]
    maker = _make(_List([_example(0, regions=boxes)]), tokenizer, batch_size=64, min_crop_area=1.0)
    tops = maker.batch(0)["boxes"][:, :, 0].round(3)
    assert all(len(set(row)) == 3 for row in tops.tolist())
    np.testing.assert_allclose(np.unique(tops), np.arange(10) / 10, atol=1e-3)  # each box is drawn sometimes


def test_only_some_region_texts_are_encoded(tokenizer):
    maker = _make(
        _List([_example(0)]), tokenizer, batch_size=32, region_text=True, max_region_texts=1, min_crop_area=1.0
    )
    batch = maker.batch(0)
    assert batch["box_tokens"].shape == (32, 1, 6)
    first = {int(group): tuple(row) for group, row in zip(batch["box_group"][:, 0], batch["box_tokens"][:, 0])}
    assert len(first) > 1  # another region each time
    assert first[_signed_crc("sky")] == tuple(tokenizer.encode("Sky", 6)[0])


def test_only_some_regions_have_crops_drawn_from_seed_and_step(tokenizer):
    """Those that come first; with `max_region_crops` as many as there are boxes, nothing is drawn."""
    make = lambda count, seed=5: _make(
        _List([_example(0)]), tokenizer, batch_size=32, max_region_crops=count, min_crop_area=1.0, seed=seed
    )
    first = [tuple(box) for box in make(1).batch(0)["boxes"][:, 0].tolist()]
    assert len(set(first)) > 2  # another region each time
    _equal(make(1).batch(0), make(1).batch(0))
    assert first != [tuple(box) for box in make(1).batch(1)["boxes"][:, 0].tolist()]
    assert first != [tuple(box) for box in make(1, seed=6).batch(0)["boxes"][:, 0].tolist()]
    _equal(make(3).batch(0), make(0).batch(0))


def test_random_and_mixed_regions(tokenizer):
    row = _row(tokenizer, _example(0), regions="random", grid=(4, 4))
    assert row["box_valid"].all() and (row["box_phrase"] == -1).all() and (row["box_group"] == 0).all()
    one_box = _example(0, regions=_example(0)["regions"][2:3])
    row = _row(tokenizer, one_box, regions="mixed", grid=(4, 4))
    assert row["box_valid"].all()
    assert row["boxes"][0].tolist() == [0.0, 0.5, 0.5, 1.0] and row["box_group"].tolist()[1:] == [0, 0]


def test_random_boxes_are_whole_patches():
    boxes = random_boxes(np.random.default_rng(0), 4000, (3, 5)) * [3, 5, 3, 5]
    np.testing.assert_allclose(boxes, boxes.round(), atol=1e-5)
    boxes = boxes.round().astype(int)
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    assert boxes.min() == 0 and boxes[:, 2].max() == 3 and boxes[:, 3].max() == 5
    assert set((boxes[:, 3] - boxes[:, 1]).tolist()) == {1, 2, 3, 4, 5}


def _wide(index: int, value: int = 255) -> dict:
    """A white image twice as wide as high."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16), (value,) * 3).save(buffer, "PNG")
    return _example(index, image=buffer.getvalue())


def test_letterboxed_rows_say_what_is_padding(tokenizer):
    row = _row(tokenizer, _wide(0), resize_mode="letterbox", padded=True, max_boxes=4)
    assert row["content"].tolist() == [8, 16] and row["content"].dtype == np.int32
    assert (row["image"][:8] == 255).all() and not row["image"][8:].any()
    boxes = {tuple(box) for box in row["boxes"][row["box_valid"]].tolist()}
    assert (0.0, 0.5, 0.25, 1.0) in boxes and len(boxes) > 2 and row["boxes"][:, 2].max() <= 0.5
    row = _row(tokenizer, _wide(0), resize_mode="letterbox", padded=True, regions="random", grid=(4, 4), max_boxes=40)
    assert row["box_valid"].all() and row["boxes"][:, 2].max() == 0.5 and row["boxes"][:, 3].max() == 1
    assert (row["boxes"] * 4 == (row["boxes"] * 4).round()).all()


def test_batches_of_a_mixture_say_what_is_padding_where_one_part_is_letterboxed(tokenizer):
    parts = [
        sources.Part(_List([_wide(index) for index in range(8)]), options={"resize_mode": mode})
        for mode in ("letterbox", "squash")
    ]
    batch = _make(parts, tokenizer, batch_size=16, min_crop_area=1.0, max_bad_fraction=1.0).batch(0)
    found = {tuple(content) for content in batch["content"].tolist()}
    assert found == {(8, 16), (16, 16)} and batch["content"].shape == (16, 2)
    for image, (rows, _) in zip(batch["image"], batch["content"], strict=True):
        assert (image[:rows] == 255).all() and not image[rows:].any()
    assert "content" not in _make(parts[1:], tokenizer).batch(0)
    data = ConfigDict(OPTIONS | {"sources": "a resize_mode=letterbox, b", "resize_mode": "squash"})
    assert pipeline.empty_batch(data, 3)["content"].shape == (3, 2)
    assert "content" not in pipeline.empty_batch(ConfigDict(OPTIONS | {"source": "a", "resize_mode": "squash"}), 3)


def test_rows_of_rectangles(tokenizer):
    row = _row(tokenizer, _wide(0), image_width=48, resize_mode="letterbox", padded=True, max_boxes=4)
    assert row["image"].shape == (16, 48, 3) and row["content"].tolist() == [16, 32]
    assert (row["image"][:, :32] == 255).all() and not row["image"][:, 32:].any()
    np.testing.assert_allclose(row["boxes"][row["box_valid"]].max(0)[3], 2 / 3, rtol=1e-6)
    row = _row(tokenizer, _wide(0), image_width=48, regions="random", grid=(4, 12), max_boxes=40)
    assert row["image"].shape == (16, 48, 3) and row["boxes"].max() == 1
    data = ConfigDict(OPTIONS | {"source": "a", "resize_mode": "squash", "image_width": 48})
    assert pipeline.empty_batch(data, 3)["image"].shape == (3, 16, 48, 3)


@pytest.mark.parametrize(
    "changes, words", [(dict(resize_mode="longest"), "longest"), (dict(resize_mode="letterbox"), "padded=True")]
)
def test_options_refuse_an_unknown_way_to_resize(changes, words):
    with pytest.raises(ValueError, match=words):
        Options(**OPTIONS, **changes)


# ---- Bad records ----

BAD = {
    "broken": ({"image": b"broken"}, "cannot be decoded"),
    "no caption": ({"captions": [], "phrases": [], "regions": []}, "no caption"),
    "outside": ({"regions": [_example(0)["regions"][2] | {"box": [0, 0, 2, 1]}]}, "2.0"),
    "span": ({"phrases": [{"caption": 0, "start": 0, "end": 99, "label": "NP"}]}, "99"),
}


def test_bad_records_are_rows_of_weight_zero_counted_and_named(tokenizer, monkeypatch):
    lines = []
    monkeypatch.setattr(pipeline.logging, "warning", lambda text, *values: lines.append(text % values))
    bad = [_example(i, **changes) | {"id": name} for i, (name, (changes, _)) in enumerate(BAD.items())]
    good = [_example(i + len(bad)) for i in range(12)]
    maker = _make(_List(bad + good), tokenizer, batch_size=16, max_bad_fraction=0.25, min_crop_area=1.0)
    batch = maker.batch(0)
    maker.batch(1)
    zero = batch["weight"] == 0
    assert zero.sum() == 4 and (maker.seen, maker.bad) == (32, 8)
    for name, value in batch.items():
        assert (value[zero] == (-1 if name == "box_phrase" else 0)).all(), name
    assert sorted(np.array(_numbers(batch))[~zero].tolist()) == list(range(4, 16))
    assert len(lines) == 4  # each one once, though they came twice
    for name, (_, words) in BAD.items():
        assert any(name in line and words in line for line in lines)


def test_too_many_bad_records_are_judged_by_what_all_hosts_have_seen(tokenizer):
    examples = [_example(i) for i in range(8)] + [_example(8, image=b"broken") | {"id": "the-bad-one"}]
    maker = _make(_List(examples), tokenizer, batch_size=3, max_bad_fraction=0.05)
    list(zip(range(3), maker.iterate()))
    assert (maker.seen, maker.bad) == (9, 1)
    maker.judge(8, 8)  # judged after one epoch, not before
    maker.judge(40, 2)
    with pytest.raises(BadDataError) as error:
        maker.judge(maker.seen, maker.bad)
    for part in ("1 of 9", "config.data.max_bad_fraction 0.05", "the-bad-one"):
        assert part in str(error.value)


def test_other_errors_are_not_swallowed(tokenizer):
    class Failing(_List):
        def __getitem__(self, index):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(_make(Failing([_example(0)]), tokenizer).iterate())


# ---- Set-up ----


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(process_count=3), "batch_size 8 does not divide over 3 hosts; set config.batch_size"),
        (dict(regions="none"), "config.data.regions is 'none'"),
        (dict(regions="random"), "grid"),
        (dict(min_crop_area=0.0), "config.data.min_crop_area is 0.0"),
        (dict(context_length=2), "config.data.context_length is 2"),
    ],
)
def test_impossible_options_are_refused(source, tokenizer, changes, words):
    with pytest.raises(ValueError, match=words):
        _make(source, tokenizer, **changes)


def test_from_config(directory, source, tokenizer):
    data = ConfigDict(
        OPTIONS
        | dict(
            source=str(directory),
            split="train",
            tokenizer="",
            clean_text=True,
            regions="boxes",
            min_crop_area=0.4,
            workers=0,
            threads=1,
            max_bad_fraction=0.01,
        )
    )
    made = pipeline.from_config(data, seed=5, batch_size=8, region_text=True)
    _equal(made.batch(2), _make(source, tokenizer, region_text=True).batch(2))


def test_window_shuffle_from_config(directory, source, tokenizer):
    data = ConfigDict(
        OPTIONS | dict(source=str(directory), split="train", tokenizer="", clean_text=True, shuffle="window")
    )
    data.update(dict(shuffle_block=4, shuffle_blocks=2, open_files=1))
    maker = pipeline.from_config(data, seed=5, batch_size=COUNT)
    epochs = [_numbers(maker.batch(step)) for step in range(2)]
    assert epochs[0] != epochs[1] != sorted(epochs[1])
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(COUNT))
    with pytest.raises(ValueError, match="config.data.shuffle is 'windows'"):
        _make(source, tokenizer, shuffle="windows")


def test_sources_are_mixed_by_weight_each_with_its_own_options(directory, source, tokenizer, tmp_path):
    records.write(tmp_path, {"val": [_example(100 + i) for i in range(10)]}, name="other")
    data = ConfigDict(OPTIONS | dict(source="", split="train", tokenizer="", clean_text=True, min_crop_area=1.0))
    data.sources = f"{directory} weight=3, {tmp_path} split=val regions=random"
    maker = pipeline.from_config(data, seed=5, batch_size=8, grid=(4, 4))
    alone = _make(source, tokenizer, min_crop_area=1.0, batch_size=6)
    for step in range(6):
        batch = maker.batch(step)
        numbers = np.array(_numbers(batch))
        assert numbers[numbers < 100].tolist() == _numbers(alone.batch(step))  # as it comes alone
        assert (numbers >= 100).sum() == 2
        assert (batch["box_phrase"][numbers >= 100] == -1).all() and (batch["box_phrase"][numbers < 100] >= 0).any()
    with contextlib.closing(maker.iterate(3)) as batches:
        _equal(next(batches), maker.batch(3))


@pytest.mark.parametrize(
    "text, words",
    [
        ("weight=3", "without a folder"),
        ("a,,b", "without a folder"),
        ("a wait=3", "'wait=3'; keys are weight, split"),
        ("a weight=x", "'weight=x', which is no number"),
        ("a weight=0", "weight 0; it must be above 0"),
    ],
)
def test_sources_that_cannot_be_read_are_refused(text, words):
    with pytest.raises(sources.SourcesError, match=words):
        sources.parse(text)


def test_no_module_of_data_imports_jax_or_tensorflow():
    for path in Path(pipeline.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"jax", "flax", "tensorflow"}, path


def test_data_works_where_jax_is_not(directory):
    """Grain imports jax where it finds it; the modules of this package must not need it."""
    script = (
        "import sys; sys.modules['jax'] = None\n"
        "from harmopower.data import pipeline, records, tokenize\n"
        f"source = records.read({str(directory)!r}, 'train')\n"
        f"tokenizer = tokenize.Tokenizer.load('', {str(directory)!r})\n"
        f"next(pipeline.Pipeline(source, tokenizer, seed=0, batch_size=4, **{OPTIONS!r}).iterate())\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_groups_stay_together_and_are_shuffled(tokenizer):
    source = _List([_example(index) for index in range(24)])
    maker = _make(source, tokenizer, group_size=4)
    epoch = [number for step in range(3) for number in _numbers(maker.batch(step))]
    groups = [tuple(epoch[start : start + 4]) for start in range(0, 24, 4)]
    assert all(group == tuple(range(group[0], group[0] + 4)) and group[0] % 4 == 0 for group in groups)
    assert sorted(epoch) == list(range(24)) and groups != sorted(groups)
    with pytest.raises(ValueError, match="group_size 5 must divide the 24 examples"):
        _make(source, tokenizer, group_size=5)


def test_the_filter_of_the_resize_reaches_the_rows(tokenizer):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    source = _List([_example(index, image=buffer.getvalue()) for index in range(4)])
    options = dict(batch_size=4, min_crop_area=1)
    made = {name: _make(source, tokenizer, **options, resize_filter=name).batch(0) for name in ("bicubic", "box")}
    resized = Image.fromarray(noise).resize((16, 16), Image.Resampling.BOX)
    assert np.array_equal(made["box"]["image"][0], np.asarray(resized))
    assert not np.array_equal(made["bicubic"]["image"], made["box"]["image"])
    assert np.array_equal(made["bicubic"]["tokens"], made["box"]["tokens"])
