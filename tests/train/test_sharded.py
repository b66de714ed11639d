"""Weights in shards on several processes learn, are saved and are resumed as on one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from data.test_stress import check_epochs, check_shards
from flowmaps.train import CheckpointError
from flowmaps.train.checkpoint import EMA_MODEL, MODEL, TRAINING, export, load_map, steps, verify
from flowmaps.train.logs import read_records
from flowmaps.train.strategy import Gathered
from flowmaps.train.tensors import read_tensors
from train.sharded import KINDS, STEPS, distilled, fit
from train.toys import LeastSquares, Pairs, assert_equal_bits, environment, trainer


def script(directory: Path, *arguments: str) -> Path:
    command = [sys.executable, str(Path(__file__).with_name("sharded.py")), str(directory), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (directory / "said.txt").write_text(done.stderr)
    return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return script(tmp_path_factory.mktemp("sharded"))


def last(run: Path) -> Path:
    return steps(run / "checkpoint")[-1]


def kept(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint but the sums for the log, whole, by file and name."""
    files = [folder / name for name in (MODEL, EMA_MODEL, TRAINING) if (folder / name).exists()]
    found = {f"{file.name}:{name}": tensor for file in files for name, tensor in read_tensors(file)[0].items()}
    return {name: tensor for name, tensor in found.items() if not name.endswith(":window")}


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    one_kept, other_kept = kept(last(one)), kept(last(other))
    assert one_kept.keys() == other_kept.keys() and len(one_kept) > 30
    for name, tensor in one_kept.items():
        torch.testing.assert_close(other_kept[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


def assert_same_records(one: Path, other: Path, tolerance: float) -> None:
    rows = [read_records(run / "metrics.jsonl") for run in (one, other)]
    assert len(rows[0]) == len(rows[1]) >= STEPS and rows[0][-1]["train/loss"] != rows[0][0]["train/loss"]
    for row, found in zip(*rows, strict=True):
        measured = {name: value for name, value in row.items() if name.startswith(("train/", "valid/"))}
        assert {name: found[name] for name in measured} == pytest.approx(measured, rel=tolerance)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_curves_are_those_of_one_process(runs, kind, strategy):
    """A step of plain descent at rate 1 is the gradient; teachers are averages, on the shards."""
    assert_close(runs / "one" / "gradient" / kind, runs / strategy / "gradient" / kind, 1e-6)
    one, other = (runs / name / "curve" / kind for name in ("one", strategy))
    assert_close(one, other, 1e-5)
    assert_same_records(one, other, 1e-4)


def test_weights_that_are_made_in_shards_are_those_that_are_made_whole(runs):
    one, later = runs / "fsdp2" / "curve" / "PSD-KL", runs / "fsdp2" / "deferred"
    assert_equal_bits(kept(last(one)), kept(last(later)))


def test_muon_turns_whole_matrices(runs):
    assert_same_records(runs / "one" / "muon", runs / "fsdp2" / "muon", 1e-4)
    assert_close(runs / "one" / "muon", runs / "fsdp2" / "muon", 1e-4)


@pytest.mark.slow
def test_other_weights_are_those_of_one_process(tmp_path):
    done = script(tmp_path, "more")
    for run, tolerance in (("recomputed", 1e-4), ("scalar", 1e-4), ("bf16", 0.1), ("float64", 1e-9)):
        assert_same_records(done / "one" / run, done / "fsdp2" / run, tolerance)
        assert_close(done / "one" / run, done / "fsdp2" / run, tolerance)


@pytest.mark.slow
def test_compiled_updates_of_shards_are_the_plain_ones_of_one_process(tmp_path):
    done = script(tmp_path, "compiled")
    assert "the compiler needs all weights at once" in (done / "said.txt").read_text()
    for kind in ("PSD-KL", "LSD"):
        one, other = done / "one", done / "fsdp2"
        assert_close(one / f"{kind}-gradient", other / f"{kind}-gradient", 1e-6)
        assert_close(one / kind, other / kind, 1e-4)
        assert_same_records(one / kind, other / kind, 1e-4)


def test_held_out_data_are_computed_without_the_compiler():
    """Their batches differ in size, for which forward mode cannot be compiled."""
    objective, calls = LeastSquares(dropout=0.0, norm=nn.LayerNorm), []
    root = Gathered(objective, lambda batch, draw: calls.append(1) or objective(batch, draw))
    batch = Pairs(4).batch(torch.arange(4))
    draw = objective.draw(batch, torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = root(batch, draw)["loss"]
    assert not calls
    assert torch.equal(root(batch, draw)["loss"], plain) and calls == [1]


def test_blocks_are_sharded_one_by_one_and_the_root_alone_is_said_aloud(runs):
    said = (runs / "said.txt").read_text()
    assert "fsdp2 shards the root only" in said and "its networks have no blocks" in said
    folder = last(runs / "fsdp2" / "curve" / "PSD-KL")
    files = sorted(folder.glob("shard-*.safetensors"))
    assert len(files) == 2 and not any("network" in name for name in load_file(folder / MODEL))
    name = f"{MODEL}/network.blocks.1.up.weight"
    shapes = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            shapes.append(opened.get_slice(name).get_shape())
    assert shapes == [[40, 16], [40, 16]]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_checkpoint_of_two_processes_is_resumed_on_any_number_with_equal_bits(runs, world):
    saved, _ = read_tensors(runs / "fsdp2" / "curve" / "LSD" / "checkpoint" / f"step-{STEPS:08d}" / EMA_MODEL)
    assert_equal_bits(load_file(runs / f"on_{world}" / f"map-{STEPS}.safetensors"), saved)
    first, second = (load_file(runs / f"on_{n}" / f"map-{STEPS + 2}.safetensors") for n in (2, world))
    same = 1e-6 if world < 3 else 0.1  # three parts of a batch have other noise
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=same, atol=same)
        if tensor.numel() > 1:
            assert not torch.equal(tensor, saved[name])


def test_a_sharded_checkpoint_is_resumed_without_shards_and_the_other_way_round(runs, tmp_path):
    shutil.copytree(runs / "fsdp2" / "curve" / "LSD", tmp_path / "run")
    fit(tmp_path / "run", distilled("LSD"), True, max_steps=STEPS + 2, accumulation=2)
    assert not list(last(tmp_path / "run").glob("shard-*"))
    assert_close(runs / "on_2", tmp_path / "run", 1e-5)


def test_shards_become_one_file(runs, tmp_path):
    folder = last(runs / "fsdp2" / "curve" / "PSD-KL")
    verify(folder)
    flow_map = distilled("LSD").flow_map
    load_map(folder, flow_map)
    place = export(tmp_path / "exported", flow_map, {}, {"step": STEPS}, {})
    assert_equal_bits(load_file(place / MODEL), read_tensors(folder / EMA_MODEL)[0])


def test_a_shard_that_is_missing_or_damaged_is_named(runs, tmp_path):
    folder = shutil.copytree(last(runs / "fsdp2" / "curve" / "PSD-KL"), tmp_path / "step-00000004")
    shard = min(folder.glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match="shard-00001.* is damaged"):
        verify(folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match="shard-00001"):
        verify(folder)
    with pytest.raises(CheckpointError, match=r"a part of model.safetensors/.* is missing"):
        read_tensors(folder / MODEL)


def test_a_killed_process_ends_the_other_in_one_line_and_the_run_goes_on(runs):
    assert json.loads((runs / "codes.json").read_text()) == [0, -9]
    line = (runs / "killed.txt").read_text()
    assert "another process of this training has died" in line and "--resume" in line and "\n" not in line
    assert_equal_bits(kept(last(runs / "unbroken")), kept(last(runs / "killed")))
    assert last(runs / "killed").name == "step-00000008"


def test_no_token_is_lost_or_repeated_by_processes_that_are_killed(runs):
    """A thousand shards are slow: ``tests/data/test_stress.py``."""
    check_shards(runs / "stress" / "shards", 10)
    check_epochs(runs / "stress", 10, 1)


def test_surgery_is_refused_with_shards(runs):
    for rank in (0, 1):
        assert (
            "surgery needs whole gradients"
            in json.loads((runs / "fsdp2" / f"told_by_{rank}.json").read_text())["surgery"]
        )


def test_a_number_of_devices_that_was_not_started_is_refused():
    with pytest.raises(ValueError, match="strategy 'fsdp2' do not fit this machine"):
        trainer(None, accelerator="cpu", devices="three", strategy="fsdp2").fit()
