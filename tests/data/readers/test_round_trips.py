"""What goes in comes out, of every format that has no such test in a file of its own.

Image bytes, captions, spans and boxes are drawn, written in the published form, read by the format's reader, stored and
read again. What the machinery behind the readers does is alike for all of them: `test_jsonl.py` goes through all of it.
"""

import argparse
import json
from pathlib import Path
import tempfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np

from harmopower.data import readers, records
from harmopower.data.readers import protocol
from harmopower.data.scenes import builder
from tests.data.readers import common, tar_files

# Everything but halves of surrogate pairs, which are no text; with a letter, so that no caption is empty.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda text: f"{text}a")
# Words of the Penn treebank, whose brackets and quotes are escaped, and of other scripts.
WORDS = st.sampled_from(["-LRB-", "-RRB-", "``", "''", "n't", "\\/", "[sic", "café", "猫", "🐈", "e\u0301", "Hunde"])
NAMES = ("dog", "wine glass", "c++", "café", "猫")
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_WHOLE = [0.0, 0.0, 1.0, 1.0]


@st.composite
def pictures(draw) -> tuple[bytes, tuple[int, int]]:
    """An encoded image, and its width and height."""
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return common.photo(draw(st.integers(0, 99)), size, draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))), size


@st.composite
def pixel_boxes(draw, size: tuple[int, int]) -> list[int]:
    """x0, y0, x1, y1 within the image."""
    x1, y1 = (draw(st.integers(1, side)) for side in size)
    return [draw(st.integers(0, x1 - 1)), draw(st.integers(0, y1 - 1)), x1, y1]


@st.composite
def spans(draw, text: str) -> tuple[int, int]:
    end = draw(st.integers(1, len(text)))
    return draw(st.integers(0, end - 1)), end


def shares(box, size: tuple[int, int]) -> list[float]:
    """x0, y0, x1, y1 in pixels as a record has it."""
    (x0, y0, x1, y1), (width, height) = box, size
    return [y0 / height, x0 / width, y1 / height, x1 / width]


def xywh(box) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def found(name: str, *options) -> list[tuple[str, dict]]:
    """(split, example) of all that the reader of a format finds, as it is read from disk again; nothing is left out."""
    kind = readers.reader_class(name)
    parser = argparse.ArgumentParser()
    kind.add_options(parser)
    reader = kind(parser.parse_args(list(map(str, options))))
    items = [item for unit in reader.units() for item in reader.read(unit)]
    assert all(isinstance(item, protocol.Found) for item in items), items
    return [(item.split, records.parse(records.serialise(item.example))) for item in items]


def check_regions(example: dict, expected: list[dict]) -> None:
    """Spans, texts and labels are equal, boxes to the last bit of a float32."""
    assert not records.check(example)
    assert len(example["regions"]) == len(expected)
    for region, wanted in zip(example["regions"], expected, strict=True):
        assert np.array_equal(region["box"], np.float32(wanted["box"]))
        plain = {"caption": -1, "start": -1, "end": -1, "text": "", "label": ""}
        assert {name: region[name] for name in plain} == plain | {k: v for k, v in wanted.items() if k != "box"}


def spanned(box, span: tuple[int, int], caption: int = 0, **more) -> dict:
    return {"box": box, "caption": caption, "start": span[0], "end": span[1], **more}


def write_json(path: Path, content, escaped: bool = False) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=escaped), encoding="utf-8")
    return path


@QUICK
@given(st.data(), st.booleans())
def test_coco(data, escaped):
    image, size = data.draw(pictures())
    texts = data.draw(st.lists(TEXTS | st.sampled_from([f"a {name} – there" for name in NAMES]), min_size=1))
    captions = [text.strip() for text in texts]
    number = data.draw(st.integers(0, 2**40))
    things = data.draw(st.lists(st.tuples(pixel_boxes(size), st.integers(0, len(NAMES) - 1)), max_size=4))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.jpg").write_bytes(image)
        images = [{"id": number, "file_name": "a.jpg", "width": size[0], "height": size[1]}]
        spoken = [{"image_id": number, "caption": text} for text in texts]
        drawn = [{"image_id": number, "bbox": xywh(box), "category_id": 7 + 3 * k, "iscrowd": 0} for box, k in things]
        categories = [{"id": 7 + 3 * k, "name": label} for k, label in enumerate(NAMES)]
        files = [
            write_json(folder / "captions.json", {"images": images, "annotations": spoken}, escaped),
            write_json(
                folder / "instances.json", {"images": images, "annotations": drawn, "categories": categories}, escaped
            ),
        ]
        ((_, example),) = found("coco", "--images", folder, "--input", *files)
    assert (example["id"], example["image"], example["captions"]) == (str(number), image, captions)
    expected = []
    for box, k in things:
        whole = {"box": shares(box, size), "label": NAMES[k]}
        named = [i for i, text in enumerate(texts) if text == f"a {NAMES[k]} – there"]
        expected += [whole, *(whole | spanned(whole["box"], (2, 2 + len(NAMES[k])), i) for i in named)]
    by_chance = [i for i, text in enumerate(texts) if not text.endswith("– there")]  # it may say a name, such as 猫
    example["regions"] = [part for part in example["regions"] if part["caption"] not in by_chance]
    check_regions(example, expected)


@QUICK
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=99), st.lists(TEXTS, min_size=1), st.booleans()), max_size=5))
def test_karpathy(rows):
    with tempfile.TemporaryDirectory() as name:
        folder, entries = Path(name), []
        (folder / "val2014").mkdir()
        for number, (image, texts, is_coco) in enumerate(rows):
            more = {"filepath": "val2014", "cocoid": number} if is_coco else {}
            (folder / more.get("filepath", "") / f"{number} é.jpg").write_bytes(image)
            sentences = [{"raw": text, "tokens": text.split()} for text in texts]
            entries.append({"filename": f"{number} é.jpg", "split": "restval", "sentences": sentences, **more})
        path = write_json(folder / "dataset.json", {"images": entries, "dataset": "coco"})
        read = found("karpathy", "--input", path, "--images", folder)
    assert [(split, example["id"], example["image"], example["captions"]) for split, example in read] == [
        ("train", f"{number} é.jpg", image, [text.strip() for text in texts])
        for number, (image, texts, _) in enumerate(rows)
    ]


@st.composite
def sentences(draw) -> list[tuple[list[str], str]]:
    """Parts of a caption: their words and the chain that they name, if any."""
    words = st.lists(WORDS | TEXTS.map(lambda text: "".join(text.split()).strip("[]/")), min_size=1, max_size=3)
    words = words.filter(lambda found: all(word and "]" not in word for word in found))
    return draw(st.lists(st.tuples(words, st.sampled_from(["", "0", "11", "12"])), min_size=1, max_size=5))


@QUICK
@given(st.data(), st.sampled_from([" ", "  ", "\t", "\u2028", "\x85"]))
def test_flickr30k_entities(data, space):
    image, size = data.draw(pictures())
    captions = data.draw(st.lists(sentences(), min_size=1, max_size=3))
    boxes = data.draw(st.lists(st.tuples(pixel_boxes(size), st.sampled_from(["11", "12", "13"])), max_size=4))
    lines, texts, expected = [], [], []
    for number, parts in enumerate(captions):
        text, pieces = "", []
        for words, chain in parts:
            start = len(text) + bool(text)
            text = " ".join(filter(None, [text, *words]))
            pieces.append(f"[/EN#{chain}/people {space.join(words)}]" if chain else space.join(words))
            expected += [
                spanned(shares(box, size), (start, len(text)), number, label="people")
                for box, named in boxes
                if named == chain
            ]
        lines.append(space.join(pieces))
        texts.append(text)
    xml = "".join(
        f"<object><name>{chain}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for (x0, y0, x1, y1), chain in boxes
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("Sentences", "Annotations", "images"):
            (folder / part).mkdir()
        (folder / "test.txt").write_text("36979\n")
        (folder / "Sentences" / "36979.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
        (folder / "Annotations" / "36979.xml").write_text(f"<annotation>{xml}</annotation>")
        (folder / "images" / "36979.jpg").write_bytes(image)
        ((split, example),) = found("flickr30k_entities", "--input", folder, "--images", folder / "images")
    assert (split, example["image"], example["captions"]) == ("test", image, texts)
    check_regions(example, expected)


@QUICK
@given(st.data(), st.booleans())
def test_mdetr(data, escaped):
    image, size = data.draw(pictures())
    caption = data.draw(TEXTS | st.lists(WORDS, min_size=1).map(" ".join))
    named = data.draw(st.lists(st.tuples(pixel_boxes(size), st.lists(spans(caption), max_size=3)), max_size=4))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.jpg").write_bytes(image)
        images = [{"id": 5, "file_name": "a.jpg", "caption": caption}]
        boxes = [
            {"image_id": 5, "bbox": xywh(box), "tokens_positive": list(map(list, ranges))} for box, ranges in named
        ]
        path = write_json(folder / "final.json", {"images": images, "annotations": boxes}, escaped)
        ((_, example),) = found("mdetr", "--input", path, "--images", folder)
    assert (example["image"], example["captions"]) == (image, [caption])
    nowhere = {"caption": -1, "start": -1, "end": -1}
    check_regions(
        example,
        [
            part
            for box, ranges in named
            for part in [spanned(shares(box, size), span) for span in ranges] or [{"box": shares(box, size)} | nowhere]
        ],
    )


@QUICK
@given(st.data(), st.integers(1, 60))
def test_visual_genome(data, length):
    image, size = data.draw(pictures())
    described = data.draw(st.lists(st.tuples(pixel_boxes(size), TEXTS), min_size=1, max_size=5))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "VG_100K").mkdir()
        (folder / "VG_100K" / "7.jpg").write_bytes(image)
        sides = ("x", "y", "width", "height")
        parts = [dict(zip(sides, xywh(box), strict=True)) | {"phrase": text} for box, text in described]
        path = write_json(folder / "regions.json", [{"id": 7, "regions": parts}])
        facts = write_json(folder / "facts.json", [{"image_id": 7, "url": "https://example.org/VG_100K/7.jpg"}])
        options = ("--input", path, "--image-data", facts, "--images", folder, "--caption-length", length)
        ((_, example),) = found("visual_genome", *options)
    assert example["image"] == image
    (caption,) = example["captions"]
    boxes = sorted(((shares(box, size), text.strip()) for box, text in described), key=lambda part: str(part))
    regions = sorted(((part["box"].tolist(), part["text"]) for part in example["regions"]), key=lambda part: str(part))
    assert sorted(text for _, text in regions) == sorted(text for _, text in boxes)
    assert sorted(box for box, _ in regions) == sorted(np.float32(box).tolist() for box, _ in boxes)
    for part in example["regions"]:
        if part["caption"] == 0:
            assert caption[part["start"] : part["end"]] == part["text"]
        else:
            assert part["caption"] == -1 and len(caption) + len(". " + part["text"]) > length


@QUICK
@given(st.data(), st.booleans())
def test_imagefolder(data, in_tars):
    plain = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), max_size=9)
    names = data.draw(st.lists(plain.map(lambda text: f"a{text}z"), min_size=1, max_size=4, unique=True))
    images = data.draw(st.lists(st.tuples(st.binary(min_size=1, max_size=99), st.sampled_from(names)), min_size=1))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if in_tars:
            (root / "classnames.txt").write_text("\n".join(names), encoding="utf-8")
            rows = [
                member
                for i, (image, label) in enumerate(images)
                for member in ((f"s{i:07d}.webp", image), (f"s{i:07d}.cls", str(names.index(label))))
            ]
            tar_files.write(root / "train" / "0.tar", rows)
            (root / "train" / "nshards.txt").write_text("1")
        else:
            for name in names:
                (root / name).mkdir()
            for i, (image, label) in enumerate(images):
                (root / label / f"{i:02d}.png").write_bytes(image)
            images = sorted(images, key=lambda part: part[1])  # stable: within a class they are in order
        read = [example for _, example in found("imagefolder", "--input", root)]
    assert [(example["image"], example["captions"]) for example in read] == [
        (image, [label]) for image, label in images
    ]
    for example, (_, label) in zip(read, images, strict=True):
        (region,) = example["regions"]
        assert region["box"].tolist() == _WHOLE and example["captions"][0][region["start"] : region["end"]] == label


@QUICK
@given(st.data())
def test_grit(data):
    image, _ = data.draw(pictures())
    caption = data.draw(TEXTS)
    side = st.floats(0, 1).map(lambda value: round(value, 6))
    entries = []
    for _ in range(data.draw(st.integers(0, 4))):
        (x0, x1), (y0, y1) = (sorted(data.draw(st.lists(side, min_size=2, max_size=2))) for _ in range(2))
        if x1 - x0 > 1e-4 and y1 - y0 > 1e-4:
            entries.append([*data.draw(spans(caption)), x0, y0, x1, y1, 0.9])
    facts = {"caption": caption, "noun_chunks": entries[::2], "ref_exps": entries[1::2], "url": "x"}
    with tempfile.TemporaryDirectory() as folder:
        rows = [("000000001.jpg", image), ("000000001.txt", caption), ("000000001.json", facts)]
        path = tar_files.write(Path(folder) / "00000.tar", rows)
        ((_, example),) = found("grit", "--input", path)
    assert (example["image"], example["captions"]) == (image, [caption])
    unique = {str(entry): entry for entry in entries[::2] + entries[1::2]}.values()
    check_regions(example, [spanned([y0, x0, y1, x1], (start, end)) for start, end, x0, y0, x1, y1, _ in unique])


@QUICK
@given(st.integers(0, 99), st.integers(16, 40))
def test_scenes(seed, side):
    """They are made here: what is drawn comes out as it is, and spans are whole words."""
    options = ("--train", "4", "--test", "0", "--test-unseen", "0", "--seed", seed, "--image-size", side)
    for number, (split, example) in enumerate(found("scenes", *options)):
        made = builder.make_example(split, number, seed=seed, image_size=side)
        assert not records.check(example) and example["regions"]
        for name in ("id", "image", "captions", "phrases", "negatives"):
            assert example[name] == made[name]
        check_regions(example, made["regions"])
        for part in [*example["phrases"], *example["regions"]]:
            before, span, after = _parted(example["captions"][part["caption"]], part["start"], part["end"])
            assert span == span.strip() and not (before[-1:].isalnum() or after[:1].isalnum())


def _parted(text: str, start: int, end: int) -> tuple[str, str, str]:
    return text[:start], text[start:end], text[end:]
