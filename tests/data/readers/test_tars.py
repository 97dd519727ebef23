"""Tars: whatever order, gaps and damage, what is whole comes out as it went in and the rest is counted."""

import io
import tarfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from harmopower.data.readers import protocol, tars
from tests.data.readers import tar_files

SAMPLES = [
    [("000007.jpg", b"7" * 700), ("000007.txt", b"seven"), ("000007.json", b"{}")],
    [("000003.jpg", b"3" * 300), ("000003.txt", "drei – 猫".encode()), ("000003.json", b"{}")],
    [("000012.jpg", b"c" * 512), ("000012.txt", b""), ("000012.json", b"{}")],
]
ROWS = [row for rows in SAMPLES for row in rows]


def _read(path):
    return [
        (item.key, item.members) if isinstance(item, tars.Sample) else (item.reason, item.id)
        for item in tars.samples(path)
    ]


def _expected(samples):
    return [(rows[0][0].split(".")[0], {name.split(".", 1)[1]: data for name, data in rows}) for rows in samples]


def test_samples_come_in_the_order_of_the_tar_whatever_their_keys(tmp_path):
    path = tar_files.write(tmp_path / "00004.tar", ROWS)
    assert _read(path) == _expected(SAMPLES)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="./"), min_size=1, max_size=40),
            st.lists(st.binary(max_size=1500), min_size=1, max_size=3),
        ),
        max_size=5,
        unique_by=lambda pair: pair[0],
    )
)
def test_any_names_and_bytes_come_out_as_they_went_in(tmp_path, found):
    endings = ("jpg", "samlens.npy", "json")
    samples = [[(f"{key}.{ending}", data) for ending, data in zip(endings, parts)] for key, parts in found]
    path = tar_files.write(tmp_path / "any.tar", [row for rows in samples for row in rows])
    assert _read(path) == _expected(samples)


def test_a_tar_that_is_cut_anywhere_gives_what_was_whole_and_one_reason(tmp_path):
    whole = tar_files.write(tmp_path / "whole.tar", ROWS).read_bytes()
    path = tmp_path / "cut.tar"
    with tarfile.open(tmp_path / "whole.tar") as tar:
        last = [member.offset_data + member.size for member in tar.getmembers()][2::3]
    for size in range(1, len(whole), 97):
        path.write_bytes(whole[:size])
        found = _read(path)
        complete = sum(end <= size for end in last)
        if size >= last[-1] + 1024:  # with the mark of the end
            assert found == _expected(SAMPLES)
            continue
        assert found[-1] == ("tar_cut", "cut.tar")
        # Only of the first sample nobody can tell whether it was whole before the next one begins.
        begun = complete - (complete == 1 and size < last[0] + 1024)
        assert found[:-1] == _expected(SAMPLES[:begun]), size


def test_a_damaged_header_ends_a_tar_as_a_cut_does(tmp_path):
    path = tar_files.write(tmp_path / "bad.tar", ROWS)
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[4].offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 512] = b"\xff" * 512
    path.write_bytes(data)
    assert _read(path) == [*_expected(SAMPLES[:1]), ("tar_cut", "bad.tar")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 12_000), st.binary(min_size=1, max_size=160)), min_size=1, max_size=4))
def test_no_damage_stops_the_reading(tmp_path, changes):
    path = tar_files.write(tmp_path / "bad.tar", ROWS)
    data = bytearray(path.read_bytes())
    for place, found in changes:
        data[place : place + len(found)] = found
    path.write_bytes(data)
    reasons = [item.reason for item in tars.samples(path) if isinstance(item, tars.LeftOut)]
    assert reasons.count("tar_cut") <= 1 and {*reasons} <= {"tar_cut", "unreadable", "path_outside"}


def test_headers_that_lie_about_sizes_are_damage(tmp_path):
    path = tar_files.write(tmp_path / "bad.tar", ROWS)
    with tarfile.open(path) as tar:
        member = tar.getmembers()[4]
    for size in (2**40, -(2**30), 2**62):
        data = bytearray(path.read_bytes())
        lying = tarfile.TarInfo(member.name)
        lying.size = size
        data[member.offset : member.offset + 512] = lying.tobuf(tarfile.GNU_FORMAT)[:512]
        (tmp_path / "lying.tar").write_bytes(data)
        assert _read(tmp_path / "lying.tar") == [*_expected(SAMPLES[:1]), ("tar_cut", "lying.tar")]


def test_a_disk_that_fails_is_no_damage(tmp_path):
    with pytest.raises(protocol.ReaderError, match="cannot be read"):
        list(tars.samples(tmp_path / "gone.tar"))


@pytest.mark.parametrize("content", [b"", b"no tar", b"\x1f\x8b" + b"x" * 2000])
def test_what_is_no_tar_is_one_reason(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    assert _read(tmp_path / "x.tar") == [("tar_cut", "x.tar")]


def test_names_that_climb_out_links_and_repeated_members(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("./a.jpg", "./a.txt", "../b.jpg", "../b.txt", "/etc/c.jpg", "d/../../e.txt", "f.jpg", "f.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("g.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        folder = tarfile.TarInfo("h")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("README"))
    assert [row[:2] if isinstance(row[1], str) else row[0] for row in _read(path)] == [
        "a",
        ("path_outside", "../b"),
        ("path_outside", "/etc/c"),
        ("path_outside", "../e"),
        "f",
        ("unreadable", "g"),
        ("unreadable", "README"),
        "f",
    ]
