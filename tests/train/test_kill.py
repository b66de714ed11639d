"""A run killed twenty times at random moments ends with the weights and records of an unbroken one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from train.test_resume import records
from train.toys import assert_equal_bits, environment, tensors_of

KILLS = 20


def test_killed_twenty_times_equals_unbroken(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("killing.py")), str(tmp_path), str(KILLS), "0"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] == KILLS
    assert len(set(told["newest_after_each"])) > KILLS // 4, "the kills hit a run that was getting on"
    kept = {run: {folder.name: folder for folder in (tmp_path / run / "checkpoint").iterdir()}
            for run in ("unbroken", "killed")}
    assert kept["unbroken"].keys() == kept["killed"].keys(), "the same last two and best, and no leftovers"
    for name, folder in kept["unbroken"].items():
        assert_equal_bits(tensors_of(folder), tensors_of(kept["killed"][name]))
    assert records(tmp_path / "unbroken") == records(tmp_path / "killed")
