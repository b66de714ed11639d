"""Shards are the same by any number of processes, are read from URLs, and are checked when they are first read."""

import gzip
import importlib.util
import os
import signal
import threading

import fsspec
import numpy as np
import pytest

from flowmaps.data.text_corpora import corpus, from_path
from flowmaps.data.text_shards import Shards, prepare, prepared
from flowmaps.data.text_tokens import SEPARATOR, Bytes, tokeniser
from flowmaps.reading import read_json

PIECES = [f" piece {i} of a text that is long enough for several shards" for i in range(13)]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("flowmaps.data.text_shards.PIECES", 2)


@pytest.fixture
def url(tmp_path, small, monkeypatch):
    """A folder of prepared shards on the file system of fsspec that lives in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare(lambda: PIECES, Bytes(), tmp_path / "made", "text")
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/made/", "/shards/", recursive=True)
    yield "memory://shards"
    memory.rm("/", recursive=True)


def test_shards_do_not_depend_on_the_number_of_processes(tmp_path, small):
    pytest.importorskip("tokenizers")
    alphabet = tokeniser("bpe", PIECES, 300)
    made = [prepare(lambda: PIECES, alphabet, tmp_path / str(n), "text", processes=n) for n in (1, 3)]
    assert len(made[0].hashes) == 7 and made[0].hashes == made[1].hashes
    assert read_json(tmp_path / "1" / "index.json") == read_json(tmp_path / "3" / "index.json")


def test_what_goes_wrong_in_a_process_comes_out_of_it(tmp_path, small):
    pytest.importorskip("tokenizers")
    lacking = tokeniser("wordpiece", ["abc"], 30)
    lacking._tokeniser.model.unk_token = "[none]"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="cannot write"):
        prepare(lambda: ["xyz"] * 9, lacking, tmp_path, "text", processes=2)


def test_two_that_prepare_the_same_wait_for_each_other(tmp_path, small):
    reads, results = [], []

    def source():
        reads.append(1)
        yield from PIECES

    def work():
        results.append(prepare(source, Bytes(), tmp_path, "text").hashes)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1 and len(results) == 3 and results[0] == results[1] == results[2]


def test_a_text_that_is_prepared_needs_no_lock(tmp_path, small, monkeypatch):
    """It may lie where nobody can write."""
    made = prepare(lambda: PIECES, Bytes(), tmp_path, "text")
    monkeypatch.delattr("flowmaps.data.text_shards.alone")
    assert prepare(lambda: PIECES, Bytes(), tmp_path, "text").hashes == made.hashes


def test_shards_come_from_a_url_when_they_are_read(url, tmp_path):
    assert prepared(url) and not prepared("memory://nowhere") and prepared(tmp_path / "made")
    shards, local = Shards(url), Shards(tmp_path / "made")
    assert not list(shards.folder.glob("*.bin")) and len(shards) == len(local)
    assert np.array_equal(shards.read(100, 200), local.read(100, 200))
    fetched = sorted(path.name for path in shards.folder.glob("*.bin"))
    assert 1 <= len(fetched) <= 2
    assert np.array_equal(shards.read(0, len(shards)), local.read(0, len(local)))
    (shards.folder / fetched[0]).write_bytes(b"cut short")
    assert np.array_equal(Shards(url).read(0, len(shards)), local.read(0, len(local)))  # fetched again


def test_a_shard_of_a_url_that_was_changed_is_refused(url):
    memory = fsspec.filesystem("memory")
    content = bytearray(memory.cat("/shards/00001.bin"))
    content[0] ^= 1
    memory.pipe("/shards/00001.bin", bytes(content))
    with pytest.raises(ValueError, match=r"00001.bin is damaged"):
        (shards := Shards(url)).read(0, len(shards))


def test_many_shards_are_compared_with_their_hashes_when_they_are_read(tmp_path, small, monkeypatch):
    prepare(lambda: PIECES, Bytes(), tmp_path, "text")
    whole = (tmp_path / "00003.bin").read_bytes()
    (tmp_path / "00003.bin").write_bytes(whole[:-1] + b"\1")
    monkeypatch.setattr("flowmaps.data.text_shards.CHECKED", 100)
    shards = Shards(tmp_path)
    assert Bytes().decode(shards.read(0, 40)) == "".join(PIECES)[:40]
    with pytest.raises(ValueError, match=r"00003.bin is damaged"):
        shards.read(0, len(shards))
    (tmp_path / "00003.bin").write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"00003.bin is damaged or cut short"):
        Shards(tmp_path)


def test_texts_are_read_from_urls(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"second"))
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    for place in (f"file://{tmp_path}", f"file://{tmp_path}/*"):
        text = from_path(place)
        assert "".join(text.pieces()) == "first" + SEPARATOR + "second"
    one = corpus(None, f"file://{tmp_path}/b.txt.gz")
    assert "".join(one.pieces()) == "second" and one.name == "b"
    before = one.source
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"another"))
    assert corpus(None, f"file://{tmp_path}/b.txt.gz").source != before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///nowhere/x.txt", "file:///nowhere/x.txt .*does not exist"),
        ("unheard://x/y.txt", "unheard://x/y.txt cannot be read .Protocol not known"),
        ("s3://bucket/x.txt", "s3://bucket/x.txt needs another library: .*s3fs"),
        ("memory://empty/*.txt", "names no .txt"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_in_one_line(url, message):
    if url.startswith("s3:") and importlib.util.find_spec("s3fs"):
        pytest.skip("the library is installed")
    with pytest.raises(ValueError, match=message) as error:
        list(from_path(url).pieces())
    assert "\n" not in str(error.value)


def test_workers_end_with_a_parent_that_is_killed():
    """They would hold its lock, and the next preparation would wait for ever."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        from flowmaps.data.text_shards import _employ

        if os.fork() == 0:
            _employ(Bytes(), os.getppid())
            os.write(write, b"x")
            threading.Event().wait(60)
            os._exit(0)
        threading.Event().wait(60)
        os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b""  # the worker's end of the pipe is closed, long before it would wake
    os.close(read)
