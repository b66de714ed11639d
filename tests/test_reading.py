"""Reading what others wrote: bounded, regular, inside, in any of the encodings that a mark announces."""

import gzip
import json
import lzma
import os
import tracemalloc

import pytest

from flowmaps.reading import (
    VARIABLE,
    blocks,
    characters,
    check_size,
    inside,
    most_bytes,
    packing,
    read_bytes,
    read_json,
    read_text,
)


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", ["a.txt", "a", "a.gz", "A.GZ", "a.csv.xz", "a.XZ"])
def test_any_case_of_a_suffix_is_unpacked(written, name):
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[packing(name)]
    content = os.urandom(700_000)
    assert read_bytes(written(name, pack(content))) == content


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
def test_a_file_that_unpacks_to_too_much_is_refused_before_memory_is_taken(written, pack, monkeypatch):
    bomb = written(f"bomb.{'gz' if pack is gzip.compress else 'xz'}", pack(b"\n" * 75_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"bomb.* needs at least 6.* more than the limit.*{VARIABLE}"):
        read_bytes(bomb)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    monkeypatch.setenv(VARIABLE, "1G")
    assert sum(map(len, blocks(bomb))) == 75_000_000


def test_plain_files_are_refused_by_their_size_alone(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10**13)
    with pytest.raises(ValueError, match="10,000,000,000,000 bytes, more than the limit of 1,073,741,824"):
        read_bytes(tmp_path / "sparse")
    with pytest.raises(ValueError, match="it is no text"):
        read_text(tmp_path / "sparse")


@pytest.mark.parametrize(("text", "value"), [("0", 7), ("5", 7), ("8", 8), ("2K", 2048), (" 4 GiB ", 4 * 2**30)])
def test_the_limit_can_be_raised_and_not_lowered(monkeypatch, text, value):
    monkeypatch.setenv(VARIABLE, text)
    assert most_bytes(7) == value


@pytest.mark.parametrize("text", ["much", "-1", "1.5G", "4P", "9" * 40])
def test_a_limit_that_is_none_is_named(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match="expected a number of bytes"):
        check_size("it", 1)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="expected a regular file"):
            read_bytes(path)
    for path in (tmp_path / "none", "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(ValueError, match="does not exist|cannot be read"):
            read_bytes(path)


NAMES = ["", ".", "..", "../a", "/etc/passwd", "b/a", "a\0", "C:a", 3, None, ["a"], "out", "no"]


@pytest.mark.parametrize("name", NAMES)
def test_names_from_files_stay_inside(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (tmp_path / "a", folder / "a"):
        place.write_text("{}")
    (folder / "out").symlink_to(tmp_path / "a")
    (folder / "in").symlink_to("a")
    assert inside(folder, "a") == folder / "a" and inside(folder, "in") == folder / "in"
    with pytest.raises(ValueError, match="plain name|out of its folder|does not exist"):
        inside(folder, name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_say_the_encoding_and_line_ends_are_one(written, encoding):
    text = "naïve — 漢字 𝄞\n" * 40_000
    for ends in ("\n", "\r\n", "\r"):
        assert read_text(written("a.txt", text.replace("\n", ends).encode(encoding))) == text


def test_big_endian_and_joined_files(written):
    assert read_text(written("a", b"\xfe\xff\x00n\x00o")) == "no"
    assert read_text(written("a", b"\xef\xbb\xbfone\n\xef\xbb\xbftwo")) == "one\ntwo"
    assert read_text(written("a", b"")) == ""


@pytest.mark.parametrize("content", ["plain".encode("utf-16-le"), b"PK\x03\x04\x14\x00\x00", b"a" * 300_000 + b"\0"])
def test_what_is_no_text_is_refused(written, content):
    with pytest.raises(ValueError, match="zero byte near byte (1|5|300000):"):
        list(characters(written("a", content)))


def test_damaged_json_is_one_line(written):
    assert read_json(written("a", b"\xef\xbb\xbf" + json.dumps({"a": [1]}).encode())) == {"a": [1]}
    for content in (b"", b"{", b"[" * 200_000, b"1" * 5000, b"\xff", b'{"a": 1}{'):
        with pytest.raises(ValueError, match="write it again|not UTF-8") as error:
            read_json(written("a", content))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="more than the limit of 10;"):
        read_json(written("a", b"[1, 2, 3, 4]"), 10)
