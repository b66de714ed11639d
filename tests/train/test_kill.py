"""A run killed many times at random moments ends with the weights, records and files of an unbroken one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from train.test_resume import records
from train.toys import assert_equal_bits, environment, tensors_of


def files(directory: Path) -> set[Path]:
    return {path.relative_to(directory) for path in directory.rglob("*")}


def kill(directory: Path, kills: int, processes: str) -> dict[str, dict[str, Path]]:
    """Kill a run so many times; the last checkpoints of that run and of an unbroken one."""
    script = str(Path(__file__).with_name("killing.py"))
    command = [sys.executable, script, str(directory), str(kills), "0", processes]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=40 * kills)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"{ {**told, 'newest_after_each': told['newest_after_each'][-1]} }")
    assert told["killed"] == kills and told["half_written"] > kills // 5
    assert len(set(told["newest_after_each"])) > kills // 4, "the kills hit a run that was getting on"
    assert all(told["by_processes"][number] > kills // 4 for number in processes.split(","))
    assert files(directory / "unbroken") == files(directory / "killed"), "the same last two and best, and no leftovers"
    return {
        run: {folder.name: folder for folder in (directory / run / "checkpoint").iterdir()}
        for run in ("unbroken", "killed")
    }


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_equals_unbroken(tmp_path, kills):
    kept = kill(tmp_path, kills, "1")
    for name, folder in kept["unbroken"].items():
        assert_equal_bits(tensors_of(folder), tensors_of(kept["killed"][name]))
    assert records(tmp_path / "unbroken") == records(tmp_path / "killed")


@pytest.mark.slow
def test_killed_and_resumed_on_one_and_two_processes_by_turns_equals_unbroken(tmp_path):
    """Bit for bit in weights, averages and optimiser, and but for the order of sums in the records."""
    kept = kill(tmp_path, 100, "1,2")
    for name, folder in kept["unbroken"].items():
        one, other = (
            {name: tensor for name, tensor in tensors_of(path).items() if not name.endswith(":window")}
            for path in (folder, kept["killed"][name])
        )
        assert_equal_bits(one, other)
    for one, other in zip(*(records(tmp_path / run)[0] for run in ("unbroken", "killed")), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
