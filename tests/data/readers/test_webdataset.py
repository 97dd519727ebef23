"""img2dataset's tars: captions by weight, borders, crawl statistics and the usual damage, on miniatures."""

import argparse
import io
import json
import tarfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

from harmopower.data.readers import crawls, protocol, webdataset
from tests.data.readers import common, tar_files


def _sample(key, *, image=None, caption="a dog", **facts):
    return [
        (f"{key}.jpg", common.photo(int(key)) if image is None else image),
        (f"{key}.txt", caption),
        (f"{key}.json", {"key": key, "caption": caption, "status": "success", **facts}),
    ]


def _run(tmp_path, *options):
    return common.run(tmp_path / "out", "webdataset", "--input", tmp_path / "crawl", *options)


def _summary(tmp_path):
    return json.loads((tmp_path / "out" / "prepared.json").read_text())["summary"]


def test_samples_become_records_whatever_their_order_gaps_and_formats(tmp_path, capsys):
    images = {
        "000000007": common.photo(7),
        "000000002": common.photo(2, kind="WEBP"),
        "000110001": common.photo(1, kind="PNG"),
    }
    captions = {"000000007": "ein Hund – überall 猫 🐈", "000000002": "x" * 500, "000110001": " two boats\n"}
    rows = {key: _sample(key, image=images[key], caption=captions[key]) for key in images}
    tar_files.write(tmp_path / "crawl" / "00000.tar", rows["000000007"] + rows["000000002"])
    tar_files.write(tmp_path / "crawl" / "00011.tar", rows["000110001"] + _sample("000110004", caption=""))
    (tmp_path / "crawl" / "00000.parquet").write_bytes(b"not needed")
    assert _run(tmp_path) == 0
    found = common.examples(tmp_path / "out")
    assert [row["id"] for row in found] == list(images)
    assert [row["image"] for row in found] == list(images.values())
    assert [row["captions"] for row in found] == [[text.strip()] for text in captions.values()]
    assert common.reasons(tmp_path / "out") == {"empty_caption": 1} and _summary(tmp_path) == []


def test_what_cannot_be_used_is_counted_by_reason(tmp_path):
    good, other = _sample("000000001"), _sample("000000001", image=common.photo(5))
    rows = [
        *good,
        *other,
        *_sample("000000002", image=b""),
        *_sample("000000003", image=b"<html>gone</html>"),
        *_sample("000000004", image=common.photo(4)[:200]),
        *_sample("000000005", caption=b"caf\xe9".decode("latin-1"))[:1],
        ("000000005.txt", b"caf\xe9"),
        ("000000006.txt", "no image"),
        ("000000007.jpg", common.photo(7)),
        *_sample("000000008")[:2],
        ("000000008.json", b"{"),
        ("../000000009.jpg", common.photo(9)),
    ]
    path = tar_files.write(tmp_path / "crawl" / "00000.tar", [*rows, *_sample("000000010")])
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:end])
    assert _run(tmp_path) == 0
    (row,) = common.examples(tmp_path / "out")
    assert row["image"] == good[0][1]
    assert common.reasons(tmp_path / "out") == {
        "duplicate_id": 1,
        "image_broken": 2,
        "image_empty": 1,
        "missing_key": 2,
        "not_utf8": 1,
        "path_outside": 1,
        "tar_cut": 1,
        "unreadable": 1,
    }


def test_a_key_that_no_sample_has_names_those_that_there_are(tmp_path, capsys):
    rows = [row for number in range(3) for row in _sample(f"{number:09d}", alt="x")]
    tar_files.write(tmp_path / "crawl" / "00000.tar", rows)
    assert _run(tmp_path, "--caption", "json.title,cap") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in ("json.title, cap", "--caption", "json.alt", "txt"))


def test_keys_that_begin_anew_in_every_tar(tmp_path):
    for number in range(2):
        tar_files.write(tmp_path / "crawl" / f"{number}.tar", _sample("000000", image=common.photo(number)))
    assert _run(tmp_path, "--ids", "tar/key") == 0
    assert [row["id"] for row in common.examples(tmp_path / "out")] == ["0/000000", "1/000000"]


def test_captions_are_drawn_by_weight_among_those_that_are_there(tmp_path):
    rows = [row for n in range(12) for row in _sample(f"{n:09d}", image=common.photo(0), caption="t", alt=f"alt {n}")]
    rows += _sample("000000012", caption="", alt="only alt", deep={"er": "é"})
    rows += _sample("000000013", caption="only txt")
    tar_files.write(tmp_path / "crawl" / "0.tar", rows)
    first = _captions(tmp_path, "a", "--caption", "txt:0.5,json.alt:0.5")
    assert first[12:] == ["only alt", "only txt"]
    assert 2 <= first[:12].count("t") <= 10 and {*first[:12]} <= {"t", *(f"alt {n}" for n in range(12))}
    assert _captions(tmp_path, "b", "--caption", "txt:0.5,json.alt:0.5") == first
    assert _captions(tmp_path, "c", "--caption", "txt:0.5,json.alt:0.5", "--seed", "1") != first
    assert _captions(tmp_path, "d", "--caption", "json.deep.er") == ["é"]


def _captions(tmp_path, output, *options):
    assert common.run(tmp_path / output, "webdataset", "--input", tmp_path / "crawl", *options) == 0
    return [row["captions"][0] for row in common.examples(tmp_path / output)]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=700), TEXTS), max_size=4))
def test_any_bytes_and_captions_come_out_as_they_went_in(tmp_path, found):
    rows = [row for n, (image, text) in enumerate(found) for row in _sample(str(n), image=image, caption=text)]
    path = tar_files.write(tmp_path / "crawl" / "0.tar", rows)
    for source in ("txt", "json.caption"):
        options = argparse.Namespace(input=[str(path)], caption=source, ids="key", border="keep", seed=0, quality=92)
        reader = webdataset.Reader(options)
        (unit,) = reader.units()
        items = [item for item in reader.read(unit) if isinstance(item, protocol.Found)]
        expected = [(str(n), image, [text.strip()]) for n, (image, text) in enumerate(found) if text.strip()]
        got = [(item.example["id"], item.example["image"], item.example["captions"]) for item in items]
        assert got == expected


def test_the_weights_of_captions_are_kept():
    weights = {"txt": 7.0, "json.alt": 3.0}
    drawn = [webdataset.draw(weights, 0, f"{number:09d}") for number in range(4000)]
    assert abs(drawn.count("txt") / 4000 - 0.7) < 0.03


@pytest.mark.parametrize("text", ["txt:0", "txt:a", "txt,,json.alt", "txt:-1", "txt:nan"])
def test_captions_that_make_no_sense_are_refused(tmp_path, capsys, text):
    tar_files.write(tmp_path / "crawl" / "0.tar", _sample("000000000"))
    assert _run(tmp_path, "--caption", text) == 2
    assert "like txt" in capsys.readouterr().err


def test_a_folder_without_tars_names_what_it_has(tmp_path, capsys):
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl" / "a.zip").write_bytes(b"")
    assert _run(tmp_path) == 2 and "a.zip" in capsys.readouterr().err


def test_failures_of_a_crawl_are_tabulated(tmp_path):
    for number, reasons in enumerate(
        [{"success": 2, "HTTP Error 404: Not Found": 3}, {"success": 1, "timed out": 4}, None]
    ):
        tar_files.write(tmp_path / "crawl" / f"0000{number}.tar", _sample(f"0000{number}0000"))
        if reasons:
            stats = {
                "count": 5,
                "successes": reasons["success"],
                "failed_to_download": 3,
                "failed_to_resize": number,
                "status_dict": reasons,
            }
            (tmp_path / "crawl" / f"0000{number}_stats.json").write_text(json.dumps(stats))
    assert _run(tmp_path) == 0
    assert _summary(tmp_path) == [
        "crawl: 10 asked, 3 fetched (30.0%), 6 not downloaded, 1 not decoded or resized",
        "        4  timed out",
        "        3  HTTP Error 404: Not Found",
        "1 tars have no _stats.json, unfinished: 00002.tar",
    ]


def _picture(seed, size, mode, side=32):
    """A picture as img2dataset would store it, and its JSON."""
    picture = Image.open(io.BytesIO(common.photo(seed, size, "PNG")))
    scale = side / (max if mode == "border" else min)(size)
    picture = picture.resize([round(length * scale) for length in size])
    width, height = picture.size
    file = Image.new("RGB", (side, side), "white")
    file.paste(picture, ((side - width) // 2, (side - height) // 2))
    buffer = io.BytesIO()
    file.save(buffer, "JPEG", quality=95)
    facts = {"width": side, "height": side, "original_width": size[0], "original_height": size[1]}
    return buffer.getvalue(), facts


SIZES = [(80, 40), (40, 80), (64, 64), (33, 17), (10, 30)]


def _crawl(tmp_path, mode):
    pictures = [_picture(number, size, mode) for number, size in enumerate(SIZES)]
    rows = [row for n, (image, facts) in enumerate(pictures) for row in _sample(f"{n:09d}", image=image, **facts)]
    tar_files.write(tmp_path / "crawl" / "00000.tar", rows)
    return [image for image, _ in pictures]


def test_borders_are_found_warned_of_and_kept(tmp_path, capsys):
    images = _crawl(tmp_path, "border")
    assert _run(tmp_path) == 0
    assert [row["image"] for row in common.examples(tmp_path / "out")] == images
    (line,) = _summary(tmp_path)
    assert "resize_mode=border" in line and "--border cut removes" in line and line in capsys.readouterr().err


def test_borders_are_cut_and_nothing_else(tmp_path):
    images = _crawl(tmp_path, "border")
    assert _run(tmp_path, "--border", "cut") == 0
    found = [row["image"] for row in common.examples(tmp_path / "out")]
    sizes = [Image.open(io.BytesIO(image)).size for image in found]
    assert sizes == [(32, 16), (16, 32), (32, 32), (32, 16), (11, 32)] and found[2] == images[2]
    for image, old in zip(found, images):
        pixels, before = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int) for data in (image, old))
        top, left = ((before.shape[axis] - pixels.shape[axis]) // 2 for axis in (0, 1))
        inside = before[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        assert np.abs(pixels - inside).mean() < 12
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["notes"] == {"border_cut": 4}


def test_a_centre_crop_is_no_border(tmp_path):
    images = _crawl(tmp_path, "center_crop")
    assert _run(tmp_path, "--border", "cut") == 0
    assert [row["image"] for row in common.examples(tmp_path / "out")] == images and _summary(tmp_path) == []


@pytest.mark.parametrize("mode", ["border", "center_crop"])
def test_boxes_of_a_picture_move_to_where_it_lies(mode):
    facts = {"width": 100, "height": 100, "original_width": 400, "original_height": 200}
    lies = crawls.place(facts, mode)
    expected = {"border": [0.25, 0.0, 0.75, 0.5], "center_crop": [0.0, -0.5, 1.0, 0.5]}[mode]
    assert crawls.moved((0.0, 0.0, 1.0, 0.5), lies) == expected
    assert crawls.place({**facts, "original_width": 200}, mode) is None
    assert crawls.place({**facts, "original_width": None}, mode) is None
    assert crawls.place(facts, "") is None
