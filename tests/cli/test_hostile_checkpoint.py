"""A checkpoint is a folder of regular files of known sizes and types; anything else is one line, at once."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from pathlib import Path

import pytest
import torch

from cli.test_mistakes import change, copy, sign  # noqa: F401  (a fixture)
from flowmaps.train import CheckpointError, resolve
from flowmaps.train.tensors import read_tensors, write_tensors


@pytest.fixture(autouse=True)
def at_once():
    start = time.process_time()
    yield
    assert time.process_time() - start < 10


def refused(tell, folder: Path, *words: str) -> None:
    for command in ("info", "sample"):
        code, out, err = tell(command, folder)
        assert code == 2 and out == "" and err.count("\n") == 1, err
        assert all(word in err for word in words), err


@pytest.mark.parametrize(
    "name",
    ["/dev/zero", "/dev/stdin", "../../../../../etc/passwd", "/etc/passwd", "sub/file", "..", ".", "a\\b", "C:x", ""],
)
def test_checksums_of_other_files(copy, tell, name):  # noqa: F811
    with open(copy / "SHA256SUMS", "a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    refused(tell, copy, "SHA256SUMS" if not name else "expected the plain name of a file in that folder")


@pytest.mark.parametrize("name", ["config.json", "state.json", "model.safetensors", "ema.safetensors", "SHA256SUMS"])
@pytest.mark.parametrize("kind", ["link", "device", "pipe", "folder", "dangling", "loop"])
def test_a_file_that_is_none(copy, tell, tmp_path, name, kind):  # noqa: F811
    path = copy / name
    path.rename(tmp_path / name)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        target = {"link": tmp_path / name, "device": "/dev/zero", "dangling": tmp_path / "nowhere", "loop": path}[kind]
        path.symlink_to(target)
    refused(tell, copy)


def test_a_link_within_the_folder_and_a_link_to_the_folder_are_honest(copy, tell, tmp_path):  # noqa: F811
    (copy / "config.json").rename(copy / "settings.json")
    (copy / "config.json").symlink_to("settings.json")
    (tmp_path / "latest").symlink_to(copy)
    assert tell("info", tmp_path / "latest")[0] == 0


def test_a_link_is_no_checkpoint_of_a_run(copy, tmp_path):  # noqa: F811
    run = tmp_path / "run" / "checkpoint"
    run.mkdir(parents=True)
    (run / copy.name).symlink_to(copy)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        resolve(tmp_path / "run")


def test_a_file_without_a_checksum_is_not_read(copy, tell):  # noqa: F811
    sums = copy / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(keepends=True) if "ema" not in line))
    refused(tell, copy, "ema.safetensors has no checksum")


@pytest.mark.parametrize("text", ["", "x", "0" * 64, f"{'0' * 64} one-space", "\0" * 10, "é" * 100, "a  b\n" * 20_000])
def test_strange_checksums(copy, tell, text):  # noqa: F811
    (copy / "SHA256SUMS").write_text(text)
    refused(tell, copy, "SHA256SUMS")


@pytest.mark.parametrize("name", ["config.json", "state.json"])
@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "[" * 100_000, '{"a":' * 100_000, "{", "", "\0", '{"a": 1'])
def test_strange_documents(copy, tell, name, text):  # noqa: F811
    (copy / name).write_text(text)
    sign(copy)
    refused(tell, copy, name)


@pytest.mark.parametrize("state", [None, [], "x", 3, {}, {"levels": []}, {"levels": 17, "classes": 10}])
def test_strange_states(copy, tell, state):  # noqa: F811
    change(copy, "state", value=state)
    refused(tell, copy, "state")


@pytest.mark.parametrize(
    ("name", "value"),
    [("step", "4"), ("step", 4.5), ("step", True), ("seconds", "x"), ("epoch", []), ("metrics", 3), ("versions", "x"),
     ("precision", 3), ("window", []), ("monitor", "x")],
)  # fmt: skip
def test_strange_values_of_a_state(copy, tell, name, value):  # noqa: F811
    state = json.loads((copy / "state.json").read_text())
    (copy / "state.json").write_text(json.dumps({**state, name: value}))
    sign(copy)
    refused(tell, copy, "state.json", name)


@pytest.mark.parametrize("setting", [{"width": 10**9}, {"depth": 10**9}, {"lower": [10**9]}, {"patch": 2**62},
                                     {"width": 4096}, {"depth": 400}])  # fmt: skip
def test_networks_that_the_weights_cannot_fill(copy, tell, setting):  # noqa: F811
    for name, value in setting.items():
        change(copy, "task", "init_args", name, value=value)
    refused(tell, copy)


def header(length: int, text: bytes) -> bytes:
    return struct.pack("<Q", length) + text


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", header(2**63, b"{}"), header(100, b"{}"), header(2, b"[]"), header(2, b"\xff\xff"),
     header(8, b'{"a":{}}'), header(200_000, b"[" * 200_000), header(2**25, b" " * 2**25),
     header(65, b'{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,4]}}  ') + b"1234",
     header(62, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999]}} ') + b"1234",
     header(31, b'{"__metadata__":{"aliases":[]}}'), header(33, b'{"__metadata__":{"aliases":"[3]"}}'[:33]),
     header(34, b'{"__metadata__":{"aliases":"[3]"}}'), header(39, b'{"__metadata__":{"aliases":"{\\"a\\":3}"}}'),
     header(100_034, b'{"__metadata__":{"aliases":"' + b"[" * 100_003 + b'"}}')],
    ids=range(16),
)  # fmt: skip
def test_strange_files_of_tensors(copy, tell, content):  # noqa: F811
    for name in ("model.safetensors", "ema.safetensors"):
        (copy / name).write_bytes(content)
    sign(copy)
    refused(tell, copy, "safetensors")


def test_more_tensors_than_the_model_has_are_not_read(tmp_path):
    write_tensors(tmp_path / "file", {"a": torch.zeros(1000)})
    assert list(read_tensors(tmp_path / "file", 4000)[0]) == ["a"]
    with pytest.raises(CheckpointError, match="does not fit this model: it holds 4,000 bytes of tensors"):
        read_tensors(tmp_path / "file", 3999)


def test_a_huge_file_is_not_read_for_its_checksum(copy, tell):  # noqa: F811
    os.truncate(copy / "model.safetensors", 2**40)  # takes no room on the disk
    refused(tell, copy, "FLOWMAPS_MAX_BYTES")


def test_resuming_what_was_exported_is_refused(copy, tell, tmp_path):  # noqa: F811
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    copy.rename(run / "checkpoint" / copy.name)
    folder = run / "checkpoint" / copy.name
    state = json.loads((folder / "state.json").read_text())
    del state["window"], state["ema_updates"]
    (folder / "state.json").write_text(json.dumps(state))
    sign(folder)
    code, _, err = tell("train", "digits", "--out", run, "--resume", "--task.width=8", "--task.lower=[16]",
                        "--trainer.max_steps=6", "--trainer.batch_size=16", "--trainer.accelerator=cpu")  # fmt: skip
    assert code == 2 and "state.json lacks window, ema_updates" in err
    assert hashlib.sha256((folder / "state.json").read_bytes()).hexdigest() in (folder / "SHA256SUMS").read_text()
