"""A new user's path: the script beside this file, walked with short times, and the log of it in the documentation."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import first_hour

ROOT = Path(__file__).parents[1]
LOG = ROOT / "docs" / "first-hour.md"


@pytest.mark.skipif(not LOG.exists(), reason="python tests/first_hour.py --log docs/first-hour.md writes it")
def test_the_log_has_every_command_of_the_script():
    log = LOG.read_text(encoding="utf-8")
    install = [] if "--bin" in log.partition("```text")[0] else first_hour.installation()
    for step in [*install, *first_hour.own_data(minutes=2)]:
        shown = step.command.replace(str(ROOT), "CHECKOUT")
        assert f"$ {shown}" in log, f"{LOG.name} is of another script: {first_hour.__doc__}"
    assert f"$ {first_hour.DEMO}\n" in log and "8 molecules around the scaffold C1CO1\n" in log


def test_a_log_tells_no_place_of_its_machine(tmp_path, monkeypatch):
    """What a command prints is cut at the front; the temporary folder and the checkout have names in the log."""
    log = first_hour.Log(tmp_path, {"PATH": "/usr/bin:/bin"})
    log.run(first_hour.Step("Three lines", f"pwd; echo {ROOT}/README.md; echo last >&2", shown=2, cwd="."))
    block = "\n".join(log.lines)
    assert re.match(r"Three lines \(\d+ s, \d+ s of the processor\):\n\n```text\n\$ pwd; ", block)
    assert block.rstrip().endswith("... (1 lines)\nCHECKOUT/README.md\nlast\n```")
    assert str(tmp_path) not in block and str(ROOT) not in block
    with pytest.raises(SystemExit, match="exit code 3"):
        log.run(first_hour.Step("A command that fails", "exit 3", cwd="."))


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
