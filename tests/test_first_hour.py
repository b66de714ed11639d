"""A new user's path, walked: the script beside this file with short times."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_first_hour(tmp_path):
    """Needs a package registry, as every installation does."""
    options = ["--minutes", "0.2", "--demo-args=--seconds 5", "--log", tmp_path / "log.md"]
    cpu = "--pip-flags=--extra-index-url https://download.pytorch.org/whl/cpu"
    command = [sys.executable, ROOT / "tests" / "first_hour.py", *options, cpu]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log.md").read_text()
    for said in ("held-out bits per pixel", "start with:  flowmaps train my.yaml", "updates in", "'atoms': (4, ",
                 "http://127.0.0.1"):  # fmt: skip
        assert said in log
    assert "8 molecules around the scaffold" in log or "No browser here" in log
