"""Checkpoints appear whole or not at all, are verified, and are kept by the rule."""

from __future__ import annotations

import ast
import json
import resource
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

import flowmaps.train
from flowmaps.train import CheckpointError, export, load_map, read_config, read_state, resolve
from flowmaps.train import checkpoint as checkpoints
from flowmaps.train.checkpoint import MODEL
from train.toys import LeastSquares, Signalling, assert_equal_bits, tensors_of, trainer


def write(parent, step, value=None, size=4):
    """A checkpoint of ``size`` numbers whose monitored value is ``value``."""
    state = {"step": step, "monitor": {"name": "valid/loss", "value": value}}
    return checkpoints.write(
        parent,
        step,
        {"model.safetensors": {"w": torch.full((size,), float(step))}},
        {"config.json": {}, "state.json": state},
    )


def names(parent):
    return sorted(path.name for path in parent.iterdir())


def contents(parent):
    return {path.relative_to(parent): path.read_bytes() for path in parent.rglob("*") if path.is_file()}


def test_folder_holds_what_it_says_and_sha256sum_agrees(tmp_path):
    folder = trainer(tmp_path, config={"task": "toy", "width": 8}).fit().checkpoint
    assert names(folder) == [
        "SHA256SUMS",
        "config.json",
        "ema.safetensors",
        "model.safetensors",
        "state.json",
        "training.safetensors",
    ]
    check = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert check.returncode == 0 and check.stdout.count("OK") == 5
    assert read_config(folder) == {"task": "toy", "width": 8}
    state = read_state(folder)
    assert (state["step"], state["seed"], state["epoch"], state["examples"]) == (40, 0, 10.0, 64)
    assert state["versions"]["torch"] == torch.__version__ and state["metrics"]["valid/loss"] > 0


def test_a_map_is_filled_with_averaged_or_raw_weights(tmp_path):
    report = trainer(tmp_path).fit()
    stored = tensors_of(report.checkpoint)
    for ema, file in ((True, "ema"), (False, "model")):
        fresh = LeastSquares(seed=5).flow_map
        load_map(report.checkpoint, fresh, ema=ema)
        assert torch.equal(fresh.encoder.weight, stored[f"{file}.safetensors:encoder.weight"])
    assert_equal_bits(
        dict(report.flow_map.state_dict()),
        {n: stored["ema.safetensors:" + n.replace("again", "encoder")] for n in report.flow_map.state_dict()},
    )


def test_last_two_and_best_are_kept(tmp_path):
    for step, value in enumerate([5.0, 1.0, 3.0, None, 4.0], start=1):
        write(tmp_path, step, value)
        checkpoints.prune(tmp_path)
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    assert checkpoints.best(tmp_path) == tmp_path / "step-00000002"
    assert resolve(tmp_path) == tmp_path / "step-00000005" and resolve(tmp_path, "best") == tmp_path / "step-00000002"


def test_run_keeps_its_best_although_it_was_not_due(tmp_path):
    """Validated every 5 updates and saved every 40: each improvement is saved nevertheless."""
    report = trainer(tmp_path, validate_every=5, save_every=40).fit()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    values = {row["step"]: row["valid/loss"] for row in rows if "valid/loss" in row}
    assert checkpoints.step_of(report.best) == min(values, key=lambda step: values[step])
    assert read_state(report.best)["monitor"] == {"name": "valid/loss", "value": min(values.values())}


FORBIDDEN = ("torch.load", "torch.save", "fabric.load", "fabric.save", "np.load", "numpy.load")
DAMAGES = {
    "truncated": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1]),
    "one bit": lambda f: flip(f / "training.safetensors"),
    "lost file": lambda f: (f / "ema.safetensors").unlink(),
    "lost sums": lambda f: (f / "SHA256SUMS").unlink(),
    "empty sums": lambda f: (f / "SHA256SUMS").write_text(""),
    "garbled sums": lambda f: (f / "SHA256SUMS").write_bytes(b"\xff\xfe?"),
    "state": lambda f: (f / "state.json").write_text("{"),
    "empty folder": lambda f: [path.unlink() for path in f.iterdir()],
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    unbroken = trainer(tmp_path / "unbroken").fit()
    trainer(tmp_path / "damaged", data=Signalling(25)).fit()
    parent = tmp_path / "damaged" / "checkpoint"
    DAMAGES[damage](parent / "step-00000025")
    with pytest.raises(CheckpointError, match="step-00000025.*use another checkpoint|no checkpoint at"):
        resolve(parent / "step-00000025")
    with pytest.warns(UserWarning, match="use another checkpoint: falling back to the one before step-00000025"):
        resumed = trainer(tmp_path / "damaged").fit(resume=True)
    assert_equal_bits(tensors_of(unbroken.checkpoint), tensors_of(resumed.checkpoint))
    assert "step-00000025.damaged" in names(parent), "what was damaged is set aside, not removed"


def test_only_damaged_checkpoints_are_an_error_and_stay_as_they_are(tmp_path):
    trainer(tmp_path, data=Signalling(5)).fit()
    flip(tmp_path / "checkpoint" / "step-00000005" / "model.safetensors")
    before = contents(tmp_path)
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="no whole.*model.* is damaged"):
        trainer(tmp_path).fit(resume=True)
    assert contents(tmp_path) == before


def test_leftovers_of_killed_writes_are_removed(tmp_path):
    parent = tmp_path / "checkpoint"
    leftover = parent / ".step-00000007.123.tmp"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    trainer(tmp_path, max_steps=2).fit(resume=True)
    assert names(parent) == ["step-00000002"]


@pytest.mark.parametrize(
    "path, match", [("nowhere", "no checkpoint at .*nowhere; give a folder step-"), ("", "no checkpoint at")]
)
def test_missing_checkpoint_is_named(tmp_path, path, match):
    with pytest.raises(CheckpointError, match=match):
        resolve(tmp_path / path)


def test_checkpoint_of_another_model_is_refused_by_a_run(tmp_path):
    trainer(tmp_path, data=Signalling(5)).fit()
    with pytest.raises(CheckpointError, match=r"model.safetensors does not fit this model: encoder.weight is \(8, 4\)"):
        trainer(tmp_path, LeastSquares(d=3)).fit(resume=True)


@pytest.mark.parametrize("directory", ["file", "file/below", "/proc/flowmaps"])
def test_unwritable_folder_is_one_line(tmp_path, directory):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(CheckpointError, match="cannot write .*; choose a folder that can be written") as caught:
        trainer(tmp_path / directory).fit()
    assert "\n" not in str(caught.value) and (tmp_path / "file").read_text() == "kept"


@pytest.fixture
def small_files():
    """A real limit of 100 kB on the size of files that this process writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_file_that_outgrows_the_limit_leaves_earlier_checkpoints(tmp_path, small_files):
    """The write of the second checkpoint fails in the middle."""
    write(tmp_path, 1)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="step-00000002: .* too large; earlier .*; free some") as caught:
        write(tmp_path, 2, size=50_000)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before and names(tmp_path) == ["step-00000001"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, where the machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small file system needs more rights")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk_leaves_earlier_checkpoints(small_disk):
    write(small_disk, 1)
    before = contents(small_disk)
    with pytest.raises(CheckpointError, match="No space left on device; earlier checkpoints are untouched; free some"):
        write(small_disk, 2, size=500_000)
    assert contents(small_disk) == before and names(small_disk) == ["step-00000001"]
    assert write(small_disk, 2).name == "step-00000002", "and with space freed it goes on"


def test_run_on_a_disk_that_fills_up_can_be_continued_elsewhere(small_disk, tmp_path):
    """The disk is full after the first checkpoint: the run ends with one line, and resumes to the unbroken end."""
    unbroken = trainer(tmp_path / "unbroken").fit()

    class Filling(Signalling):
        def batch(self, index):
            self.at -= 1
            if self.at == 0:
                with open(small_disk / "filler", "wb", buffering=0) as file, suppress(OSError):
                    while file.write(bytes(1024)):
                        pass
            return super(Signalling, self).batch(index)

    with pytest.raises(CheckpointError, match="cannot write .*No space left on device.* and resume$"):
        trainer(small_disk / "run", data=Filling(15)).fit()
    assert names(small_disk / "run" / "checkpoint") == ["step-00000010"]
    (small_disk / "filler").unlink()
    resumed = trainer(small_disk / "run").fit(resume=True)
    assert_equal_bits(tensors_of(unbroken.checkpoint), tensors_of(resumed.checkpoint))


def test_nothing_is_ever_unpickled():
    """No module of training mentions pickle or the functions of torch that use it."""
    for path in Path(flowmaps.train.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        nodes = (ast.Attribute, ast.Import, ast.ImportFrom)
        words = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, nodes)}
        assert not {word for word in words if "pickle" in word or word.endswith(FORBIDDEN)}, path


def test_what_a_kill_kept_from_being_removed_goes_at_the_next_start(tmp_path):
    """Killed between saving and clearing up, while removing a checkpoint, and while writing one or a record."""
    saved = trainer(tmp_path).fit().checkpoint
    before = contents(tmp_path)
    write(saved.parent, 10)
    for name in ("checkpoint/.step-00000020.old.17.tmp", "checkpoint/.step-00000050.17.tmp"):
        shutil.copytree(saved, tmp_path / name)
    (tmp_path / ".metrics.jsonl.17.tmp").write_text("{")
    trainer(tmp_path).fit(resume=True)
    assert contents(tmp_path) == before


def test_weights_in_half_precision_take_half_the_space_and_load_as_they_were_rounded(tmp_path):
    torch.manual_seed(0)
    module, other = nn.Linear(64, 64), nn.Linear(64, 64)
    whole = export(tmp_path / "whole", module, {}, {}, {})
    half = export(tmp_path / "half", module, {}, {}, {}, half=True)
    assert (half / MODEL).stat().st_size < 0.6 * (whole / MODEL).stat().st_size
    load_map(half, other)
    assert other.weight.dtype == torch.float32 and torch.equal(other.weight, module.weight.half().float())
    with torch.no_grad():
        module.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match="weight is too large for half precision"):
        export(tmp_path / "large", module, {}, {}, {}, half=True)


def test_weights_that_are_shared_stay_so_in_half_precision(tmp_path):
    def tied() -> nn.Sequential:
        layer = nn.Linear(8, 8)
        return nn.Sequential(layer, nn.Tanh(), layer)

    module, other = tied(), tied()
    load_map(export(tmp_path / "half", module, {}, {}, {}, half=True), other)
    assert torch.equal(other[2].weight, module[0].weight.half().float()) and other[0].weight is other[2].weight
