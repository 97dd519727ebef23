"""The released PowerCLIP tars, whose names and offset nobody has written down: all ways in which they may be meant."""

import io
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from harmopower import config
from harmopower.data import records, sources, tokenize
from harmopower.data.readers import powerclip
from tests.data.readers import common, tar_files

CAPTIONS = ["a dog – überall – on a sofa 🐈", "Two  BOATS &amp; a harbour", "supercalifragilistic weather", "cat"]
# Per caption, tokens of phrases counted from the first token behind the start.
BOXES = [[(0, 0, 14, 14), (2, 3, 5, 4)], [(1, 1, 2, 2)], [], [(13, 13, 14, 14)]]


@pytest.fixture(scope="module")
def clip():
    return tokenize.Tokenizer.load("clip", "")


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch, clip):
    """Loading CLIP's merges takes a second."""
    monkeypatch.setattr(tokenize.Tokenizer, "load", lambda spec, directory: clip)


def _positions(clip):
    """For each caption: the whole of it, and a part."""
    found = []
    for caption in CAPTIONS:
        count = int(clip.encode(caption, 77)[0].argmax()) - 1
        found.append([list(range(count)), list(range(count // 2, count))])
    return found


def _patches(box):
    y0, x0, y1, x1 = box
    return [row * 14 + column for row in range(y0, y1) for column in range(x0, x1)]


def _array(values):
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, np.int32))
    return buffer.getvalue()


def _members(key, caption, phrases, boxes, *, start=1, names=("lengths", "indices"), swapped=False):
    lists = {
        names[0]: [len(phrase) for phrase in phrases],
        names[1]: [token + start for phrase in phrases for token in phrase],
    }
    regions = [_patches(box) for box in boxes]
    arrays = [list(map(len, regions)), [patch for region in regions for patch in region]]
    return [
        (f"{key}.jpg", common.photo(int(key), (224, 224) if key == "0" else (16, 16))),
        (f"{key}.txt", caption),
        (f"{key}.json", {"caption": caption}),
        (f"{key}.njson", dict(reversed(lists.items())) if swapped else lists),
        (f"{key}.samlens.npy", _array(arrays[swapped])),
        (f"{key}.samcat.npy", _array(arrays[not swapped])),
    ]


def _tar(path, clip, **how):
    samples = zip(CAPTIONS, _positions(clip), BOXES)
    rows = [_members(str(number), *sample, **how) for number, sample in enumerate(samples)]
    return tar_files.write(path, [row for part in rows for row in part])


def _run(tmp_path, *options):
    return common.run(tmp_path / "out", "powerclip", "--input", tmp_path / "tars", *options)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"start": 0},
        {"names": ("phrase_cat", "phrase_n"), "swapped": True},
        {"names": ("a", "b"), "start": 0},
        {"names": ("nplens", "npcat")},
    ],
)
def test_phrases_and_boxes_are_found_whatever_the_names_and_the_offset(tmp_path, clip, how):
    _tar(tmp_path / "tars" / "000.tar", clip, **how)
    assert _run(tmp_path) == 0
    found = common.examples(tmp_path / "out")
    assert [row["captions"] for row in found] == [[caption] for caption in CAPTIONS]
    assert found[0]["image"] == common.photo(0, (224, 224))
    for row, caption, wanted, boxes in zip(found, CAPTIONS, _positions(clip), BOXES):
        spans = [(phrase["start"], phrase["end"]) for phrase in row["phrases"]]
        masks = tokenize.span_mask(clip.encode(caption, 77)[1], spans)
        assert [(np.flatnonzero(mask) - 1).tolist() for mask in masks] == wanted
        expected = np.array(boxes, np.float32).reshape(-1, 4) / 14
        np.testing.assert_allclose(np.array([region["box"] for region in row["regions"]]).reshape(-1, 4), expected)
    assert (found[1]["phrases"][0]["start"], found[1]["phrases"][0]["end"]) == (0, len(CAPTIONS[1]))
    assert records.metadata(tmp_path / "out")["fixed_grid"] == [14, 14]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80), st.data())
def test_spans_hold_the_tokens_of_their_phrases_in_any_caption(clip, caption, data):
    ids, offsets = clip.encode(caption, 77)
    count = int(ids.argmax()) - 1
    if not count:
        return
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, count - 1))
    notes = []
    positions = list(range(first, last + 1))
    found = powerclip._phrases([positions], 1, powerclip._places(clip, caption), notes)
    spans = [(row["start"], row["end"]) for row in found]
    assert len(spans) + len(notes) == 1
    for start, end in spans:
        assert 0 <= start < end <= len(caption)
        tokens = np.flatnonzero(tokenize.span_mask(offsets, [(start, end)])[0]) - 1
        # Bytes of one character may be several tokens, and a token may stand for no character at all.
        beside = {*tokens.tolist()} ^ {*positions}
        shared = {tuple(offsets[token + 1]) for token in positions}
        assert all(
            any(max(a, s) < min(b, e) for s, e in shared) or a == b for a, b in (offsets[token + 1] for token in beside)
        )


def test_phrases_that_touch_neither_end_are_decided_by_words(tmp_path, clip):
    caption = "a supercalifragilistic dog sits here today"
    count = int(clip.encode(caption, 77)[0].argmax()) - 1
    for start in (0, 1):
        word = list(range(1, count - 4))  # all tokens of the long word, which one to the side would tear apart
        rows = _members("1", caption, [word], [(0, 0, 1, 1)], start=start)
        tar_files.write(tmp_path / "tars" / "000.tar", rows)
        assert common.run(tmp_path / f"{start}", "powerclip", "--input", tmp_path / "tars") == 0
        (row,) = common.examples(tmp_path / f"{start}")
        (phrase,) = row["phrases"]
        assert caption[phrase["start"] : phrase["end"]] == "supercalifragilistic"


def test_a_tar_that_does_not_tell_follows_the_first_one(tmp_path, clip, capsys):
    rows = _members("7", "a b c d e", [[2]], [(0, 0, 1, 1)], start=0)
    tar_files.write(tmp_path / "tars" / "001.tar", rows)
    assert _run(tmp_path) == 2 and "nothing in its first" in capsys.readouterr().err
    _tar(tmp_path / "tars" / "000.tar", clip, start=0)
    assert common.run(tmp_path / "b", "powerclip", "--input", tmp_path / "tars") == 0
    phrase = common.examples(tmp_path / "b")[-1]["phrases"][0]
    assert "a b c d e"[phrase["start"] : phrase["end"]] == "c"


@pytest.mark.parametrize(
    "how, words",
    [
        ({"start": 40}, ["000.tar", "cannot be understood", "CLIP's tokenizer", "90%"]),
        ({"njson": {"a": [3, 3], "b": [1, 2]}}, ["njson", "lists are a, b"]),
        ({"njson": {"tokens": "none"}}, ["njson", "none"]),
        ({"samcat": [1, 2, 3, 4, 5]}, ["samlens.npy and samcat.npy", "cannot be understood"]),
    ],
)
def test_what_fits_neither_is_refused_in_one_line(tmp_path, clip, capsys, how, words):
    rows = [_members(str(n), *sample) for n, sample in enumerate(zip(CAPTIONS, _positions(clip), BOXES))]
    if "start" in how:
        _tar(tmp_path / "tars" / "000.tar", clip, **how)
    else:
        changed = {ending: _array(v) if ending == "samcat" else json.dumps(v).encode() for ending, v in how.items()}
        members = [(name, changed.get(name.split(".")[1], data)) for part in rows for name, data in part]
        tar_files.write(tmp_path / "tars" / "000.tar", members)
    assert _run(tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error
    assert not (tmp_path / "out" / "dataset_info.json").exists()


def test_single_bad_samples_are_counted(tmp_path, clip):
    rows = [row for n in range(20) for row in _members(str(n), "a dog on a sofa", [[0, 1], [0, 1, 2, 3, 4]], BOXES[0])]
    bad = {
        "0.njson": {"lengths": [3], "indices": [1]},
        "1.samcat.npy": b"no array",
        "2.samlens.npy": _array([[1.5]]),
        "3.txt": "",
        "4.samcat.npy": _array([*range(196), 500, 501, 502]),
        "5.njson": {"lengths": [2, 3], "indices": [1, 3, 70, 71, 72]},
    }
    tar_files.write(
        tmp_path / "tars" / "0.tar", [(name, bad.get(name, data)) for name, data in rows if name != "6.njson"]
    )
    assert _run(tmp_path) == 0
    assert common.reasons(tmp_path / "out") == {"bad_field": 2, "empty_caption": 1, "missing_key": 1, "unreadable": 1}
    notes = json.loads((tmp_path / "out" / "prepared.json").read_text())["notes"]
    assert notes == {"bad_box": 1, "phrase_outside": 1, "phrase_with_gaps": 1}


def test_tars_without_regions_are_named_by_their_keys(tmp_path, capsys):
    tar_files.write(tmp_path / "tars" / "0.tar", [("0.jpg", common.photo()), ("0.txt", "a dog"), ("0.alt", "x")])
    assert _run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "no .njson" in error and "alt, jpg, txt" in error


def test_crops_are_refused_for_regions_on_a_grid(tmp_path, clip):
    _tar(tmp_path / "tars" / "000.tar", clip)
    assert _run(tmp_path) == 0
    data = config.get_config().data
    data.update(source=str(tmp_path / "out"), min_crop_area=0.5)
    with pytest.raises(sources.SourcesError, match=r"min_crop_area is 0.5.*14 x 14"):
        sources.open_all(data)
    data.update(sources=f"{tmp_path / 'out'} min_crop_area=0.75", min_crop_area=1.0)
    with pytest.raises(sources.SourcesError, match=r"min_crop_area is 0.75"):
        sources.open_all(data)
    data.update(sources="", regions="boxes")
    assert len(sources.open_all(data)) == 1
    data.update(min_crop_area=0.5, regions="random")
    assert len(sources.open_all(data)) == 1
