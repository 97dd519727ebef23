"""What readers share: inputs, paths, units, boxes; and the example of the protocol, run as it is written."""

import argparse
import inspect
import io
from pathlib import Path
import textwrap

import numpy as np
from PIL import ExifTags, Image
import pytest

from harmopower.data import readers, records
from harmopower.data.readers import boxes, protocol
from tests.data.preparing import common
from tools import prepare


def example_of_the_docstring() -> type[protocol.Reader]:
    """The class in the head of `protocol`."""
    text = inspect.getdoc(protocol)
    code = text[text.index("    class Reader(") : text.index("plus its name in")]
    names = {"protocol": protocol, "Path": Path, "__name__": protocol.__name__}
    exec(textwrap.dedent(code), names)
    return names["Reader"]


def test_the_example_of_the_protocol_works(tmp_path, monkeypatch):
    kind = example_of_the_docstring()
    monkeypatch.setattr(readers, "FORMATS", (*readers.FORMATS, "named"))
    known = readers.reader_class
    monkeypatch.setattr(readers, "reader_class", lambda name: kind if name == "named" else known(name))
    (tmp_path / "photos").mkdir()
    for number, caption in enumerate(["A dog", "Ein Käfer", " "]):
        (tmp_path / "photos" / f"{caption}.jpg").write_bytes(common.picture(number, kind="JPEG"))
    arguments = ["named", "--input", f"test={tmp_path}/photos", "--output", f"{tmp_path}/out", "--lower"]
    assert prepare.main(arguments) == 0
    found = list(records.read(tmp_path / "out", "test"))
    assert [(example["id"], example["captions"]) for example in found] == [
        ("A dog.jpg", ["a dog"]),
        ("Ein Käfer.jpg", ["ein käfer"]),
    ]


def test_every_format_has_help_with_an_example_and_json_options(capsys):
    for name in readers.FORMATS:
        with pytest.raises(SystemExit):
            prepare.main([name, "--help"])
        printed = capsys.readouterr().out
        assert f"python -m tools.prepare {name}" in printed and "--output" in printed


def test_inputs_have_splits_patterns_and_ranges(tmp_path):
    for name in ("00.tar", "01.tar", "02.tar", "a=b.tar"):
        (tmp_path / name).touch()
    values = [f"test={tmp_path}/{{01..02}}.tar", f"{tmp_path}/*.tar", f"{tmp_path}/a=b.tar"]
    found = [(split, path.name) for split, path in protocol.parse_inputs(values)]
    everything = [("train", name) for name in ("00.tar", "01.tar", "02.tar", "a=b.tar")]
    assert found == [("test", "01.tar"), ("test", "02.tar"), *everything, ("train", "a=b.tar")]
    with pytest.raises(protocol.ReaderError, match=r"03\.tar does not exist"):
        protocol.parse_inputs([f"{tmp_path}/{{02..03}}.tar"])


@pytest.mark.parametrize("name", ["../a", "b/../../a", "/etc/passwd", "a\0b", ".."])
def test_paths_that_climb_out_are_refused(tmp_path, name):
    with pytest.raises(protocol.BadSample) as error:
        protocol.inside(tmp_path, name)
    assert error.value.reason == "path_outside"
    assert protocol.inside(tmp_path, "b/../a") == protocol.inside(tmp_path, str(tmp_path / "a")) == tmp_path / "a"


def test_units_cover_the_list_and_change_with_their_images(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "_UNIT_IMAGES", 3)
    annotation = tmp_path / "list"
    annotation.write_text("x")
    images = [tmp_path / f"{number}" for number in range(7)]
    for image in images[:6]:  # the last one is missing
        image.write_bytes(b"12345")
    before = list(protocol.units_of_images(annotation, "val", images))
    assert [(unit.place, unit.bytes, unit.split) for unit in before] == [
        ((0, 3), 15, "val"),
        ((3, 6), 15, "val"),
        ((6, 7), 0, "val"),
    ]
    images[4].write_bytes(b"54321")
    after = list(protocol.units_of_images(annotation, "val", images))
    assert [a.fingerprint == b.fingerprint for a, b in zip(before, after, strict=True)] == [True, False, True]
    monkeypatch.setattr(protocol, "_UNIT_BYTES", 10)
    assert [unit.place for unit in protocol.units_of_images(annotation, "", images)] == [(0, 2), (2, 4), (4, 6), (6, 7)]


@pytest.mark.parametrize(
    "kind, box",
    [
        ("yxyx", [0.25, 0.1, 0.75, 0.5]),
        ("xyxy", [0.1, 0.25, 0.5, 0.75]),
        ("xywh", [0.1, 0.25, 0.4, 0.5]),
        ("yxyx_pixels", [10, 20, 30, 100]),
        ("xyxy_pixels", [20, 10, 100, 30]),
        ("xywh_pixels", [20, 10, 80, 20]),
    ],
)
def test_box_formats_of_one_box(kind, box):
    np.testing.assert_allclose(boxes.normalise(box, kind, (200, 40)), [0.25, 0.1, 0.75, 0.5])


def test_pixels_are_of_the_upright_image(tmp_path):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    assert protocol.image_size(buffer.getvalue()) == (20, 40)
    photos = common.photographs(tmp_path, 1, boxes=[{"box": [5, 10, 10, 20]}])
    (tmp_path / "0.png").write_bytes(buffer.getvalue())
    assert common.run(photos, "--box-format", "xywh_pixels") == 0
    (example,) = records.read(tmp_path / "out", "train")
    np.testing.assert_allclose(example["regions"][0]["box"], [0.25, 0.25, 0.75, 0.75])


def test_options_of_formats_are_json_able():
    for name in readers.FORMATS:
        parser = argparse.ArgumentParser()
        readers.reader_class(name).add_options(parser)
        for action in parser._actions:
            assert action.type in (None, int, float, str), (name, action.dest)
