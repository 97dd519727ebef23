"""Tables of paths and captions: the same rows as Parquet, CSV and TSV, and what people get wrong."""

import csv

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pyarrow as pa
import pyarrow.parquet
import pytest

from harmopower.data.readers import table
from tests.data.readers import common

SEPARATORS = {"csv": ",", "tsv": "\t"}


def _write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=SEPARATORS[path.suffix[1:]])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv"])
def test_rows_become_records(tmp_path, ending):
    rows = [
        {"filepath": f"{i}.jpg", "title": title, "alt": alt, "key": f"k{i}", "part": part}
        for i, (title, alt, part) in enumerate(
            [('a dog, "Rex",\non a sofa', "Über", "train"), ("two\tboats", "", "val"), ("猫", "cat", "train")]
        )
    ]
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(common.photo(i))
    _write(tmp_path / f"t.{ending}", rows)
    columns = ("--image-column", "filepath", "--caption-column", "title", "alt", "--id-column", "key")
    path = tmp_path / f"t.{ending}"
    assert common.run(tmp_path / "out", "table", "--input", path, *columns, "--split-column", "part") == 0
    first, third = common.examples(tmp_path / "out")
    assert first["captions"] == ['a dog, "Rex",\non a sofa', "Über"] and first["image"] == common.photo(0)
    assert (third["id"], third["captions"]) == ("k2", ["猫", "cat"])
    assert [row["captions"] for row in common.examples(tmp_path / "out", "val")] == [["two\tboats"]]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")), max_size=9), st.data())
def test_any_range_of_any_rows_comes_out_as_it_went_in(tmp_path, captions, data):
    rows = [{"image": str(i), "caption": text} for i, text in enumerate(captions)] or [{"image": "", "caption": ""}]
    first = data.draw(st.integers(0, len(rows)))
    last = data.draw(st.integers(first, len(rows)))
    for ending in ("parquet", "csv", "tsv"):
        _write(tmp_path / f"t.{ending}", rows)
        assert list(table._rows(tmp_path / f"t.{ending}", ["image", "caption"], first, last)) == rows[first:last]


def test_bad_rows_are_counted_by_reason(tmp_path):
    (tmp_path / "a.jpg").write_bytes(common.photo())
    (tmp_path / "t.csv").write_bytes(
        b"image,caption\na.jpg,good\ngone.jpg,x\n../a.jpg,x\na.jpg,\na.jpg,caf\xe9\n/etc/passwd,x\na.jpg\n"
    )
    assert common.run(tmp_path / "out", "table", "--input", tmp_path / "t.csv") == 0
    assert len(common.examples(tmp_path / "out")) == 1
    assert common.reasons(tmp_path / "out") == {
        "image_missing": 1,
        "path_outside": 2,
        "empty_caption": 2,
        "not_utf8": 1,
    }


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("t.csv", "url,caption\n", ["'image'", "url, caption", "--image-column"]),
        ("t.txt", "image,caption\n", [".parquet"]),
        ("t.parquet", "image,caption\n", ["Parquet"]),
    ],
)
def test_another_table_is_refused_in_one_line(tmp_path, capsys, name, text, words):
    (tmp_path / name).write_text(text)
    assert common.run(tmp_path / "out", "table", "--input", tmp_path / name) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error
