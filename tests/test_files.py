"""Files have the usual mode, killed writers leave nothing for long, and the cache is where the user put it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from flowmaps.data.sources import data_folder, writable
from flowmaps.files import cache_folder, numbered, replacing, sweep, write_text
from flowmaps.train.tensors import write_tensors
from train.toys import trainer


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_every_file_and_folder_of_a_run_follows_the_umask(tmp_path, umask):
    write_text(tmp_path / "run" / "private.txt", "")
    write_tensors(tmp_path / "run" / "w.safetensors", {"w": torch.zeros(2)})
    trainer(tmp_path / "run", max_steps=4, curves=True, tensorboard=True).fit()
    found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*")}
    assert len(found) > 10
    for path, mode in found.items():
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_a_writer_that_replaces_the_file_itself_cannot_choose_its_mode(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        os.close(os.open(tmp_path / "secret", os.O_CREAT | os.O_WRONLY, 0o600))
        os.replace(tmp_path / "secret", temporary)
    write_text(tmp_path / "b", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_sweeping_removes_what_was_half_written_and_nothing_else(tmp_path):
    (tmp_path / ".metrics.jsonl.123.tmp").touch()
    (tmp_path / ".step-00000004.99.tmp").mkdir()
    (tmp_path / ".step-00000004.99.tmp" / "model.safetensors").touch()
    for name in ("metrics.jsonl", ".notes.tmp", "a.1.tmp", ".hidden"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".notes.tmp", "a.1.tmp", "metrics.jsonl"]


def test_numbers_are_counted_past_names_that_are_taken(tmp_path):
    (tmp_path / "run-1").touch()
    (tmp_path / "run-2").mkdir()
    assert numbered(tmp_path / "run") == tmp_path / "run-3"
    assert numbered(tmp_path / "other", first=2) == tmp_path / "other-2"


def test_the_cache_is_where_the_user_put_it(tmp_path, monkeypatch):
    monkeypatch.delenv("FLOWMAPS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "flowmaps" and data_folder("mnist") == tmp_path / "flowmaps" / "mnist"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert writable(tmp_path / "text") == tmp_path / "flowmaps" / "text"
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == Path.home() / ".cache" / "flowmaps"
