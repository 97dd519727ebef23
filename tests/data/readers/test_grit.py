"""GRIT's tars: spans and boxes as they were, wherever the crawler has put the picture."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from harmopower.data.readers import crawls, grit
from tests.data.readers import common, tar_files
from tests.data.readers.test_webdataset import _picture

CAPTION = "a wire hanger – naïve 🐈 – with a paper cover"
CHUNK = [0, 13, 0.1, 0.2, 0.5, 0.75, 0.8]
EXPRESSION = [0, len(CAPTION), 0.1, 0.2, 0.5, 0.75, 0.8]
OTHER = [31, 44, 0.0, 0.25, 1.0, 0.5, 0.3]


def _sample(key, chunks, expressions, *, image=None, caption=CAPTION, **facts):
    found = {"caption": caption, "width": 20, "height": 16, "noun_chunks": chunks, "ref_exps": expressions, **facts}
    picture = common.photo(int(key)) if image is None else image
    return [(f"{key}.jpg", picture), (f"{key}.txt", caption), (f"{key}.json", found)]


def _run(tmp_path, *rows, options=()):
    tar_files.write(tmp_path / "grit" / "00000.tar", [row for part in rows for row in part])
    return common.run(tmp_path / "out", "grit", "--input", tmp_path / "grit", *options)


def _regions(row):
    return [
        (region["start"], region["end"], *(round(float(value), 5) for value in region["box"]))
        for region in row["regions"]
    ]


def test_chunks_and_expressions_become_regions_and_what_is_said_twice_counts_once(tmp_path):
    assert _run(tmp_path, _sample("7", [CHUNK, OTHER], [EXPRESSION, OTHER]), _sample("3", [], None)) == 0
    first, second = common.examples(tmp_path / "out")
    assert first["captions"] == [CAPTION] and first["image"] == common.photo(7)
    box = (0.2, 0.1, 0.75, 0.5)
    assert _regions(first) == [(0, 13, *box), (31, 44, 0.25, 0.0, 0.5, 1.0), (0, len(CAPTION), *box)]
    assert {region["caption"] for region in first["regions"]} == {0} and second["regions"] == []
    assert CAPTION[31:44] == "a paper cover"


def test_scores_below_the_threshold_are_dropped_and_counted(tmp_path):
    rows = _sample("1", [CHUNK, OTHER], json.dumps([EXPRESSION, OTHER]))
    assert _run(tmp_path, rows, options=("--min-score", "0.5")) == 0
    (row,) = common.examples(tmp_path / "out")
    assert len(row["regions"]) == 2
    made = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert made["notes"] == {"low_score": 2} and made["named"] == []  # it was asked for


def test_what_cannot_be_used_is_counted_by_reason(tmp_path):
    rows = [
        _sample("0", [CHUNK], []),
        _sample("1", [CHUNK[:6]], []),
        _sample("2", [[0.5, *CHUNK[1:]]], []),
        _sample("3", [[0, 99, *CHUNK[2:]]], []),
        _sample("4", [[0, 13, 0.5, 0.2, 0.5, 0.75, 0.8]], []),
        _sample("5", [[0, 13, float("nan"), 0.2, 0.5, 0.75, 0.8]], []),
        _sample("6", [CHUNK], [], caption=" "),
        _sample("7", "none", []),
        [("8.jpg", common.photo()), ("8.txt", "x"), ("8.json", {"caption": "x", "noun_chunks": []})],
    ]
    assert _run(tmp_path, *rows) == 0
    assert [row["id"] for row in common.examples(tmp_path / "out")] == ["0"]
    assert common.reasons(tmp_path / "out") == {
        "bad_box": 2,
        "bad_field": 1,
        "bad_span": 1,
        "empty_box": 1,
        "empty_caption": 1,
        "missing_key": 1,
        "nan_box": 1,
    }


@pytest.mark.parametrize("options, top, bottom", [((), 0.25 + 0.1, 0.25 + 0.375), (("--border", "cut"), 0.2, 0.75)])
def test_boxes_follow_a_picture_into_its_border_and_out_of_it(tmp_path, options, top, bottom):
    image, facts = _picture(1, (80, 40), "border")
    assert _run(tmp_path, _sample("1", [CHUNK], [], image=image, **facts), options=options) == 0
    (row,) = common.examples(tmp_path / "out")
    assert _regions(row) == [(0, 13, round(top, 5), 0.1, round(bottom, 5), 0.5)]


def test_boxes_that_a_crop_has_cut_away_are_dropped(tmp_path):
    image, facts = _picture(1, (80, 40), "center_crop")
    left, middle = [0, 13, 0.0, 0.0, 0.25, 1.0, 1.0], [0, 13, 0.25, 0.0, 0.5, 1.0, 1.0]
    assert _run(tmp_path, _sample("1", [left, middle], [], image=image, **facts)) == 0
    (row,) = common.examples(tmp_path / "out")
    assert _regions(row) == [(0, 13, 0.0, 0.0, 1.0, 0.5)]
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["notes"] == {"box_cropped": 1}


SHARE = st.floats(0, 1)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(SHARE, SHARE, SHARE, SHARE), st.integers(1, 500), st.integers(1, 500))
def test_boxes_in_a_bordered_square_name_the_same_part_of_the_picture(box, width, height):
    x0, x1 = sorted(box[:2])
    y0, y1 = sorted(box[2:])
    facts = {"width": 256, "height": 256, "original_width": width, "original_height": height}
    lies = crawls.place(facts, crawls.BORDER) or (0.0, 0.0, 1.0, 1.0)
    if lies[2] == lies[0] or lies[3] == lies[1]:
        return  # a picture that is thinner than a pixel
    region = grit._region((0, 1), [x0, y0, x1, y1], lies)
    sides = (lies[2] - lies[0], lies[3] - lies[1])
    back = [(value - lies[axis % 2]) / sides[axis % 2] for axis, value in enumerate(region["box"])]
    np.testing.assert_allclose(back, [y0, x0, y1, x1], atol=1e-9)
