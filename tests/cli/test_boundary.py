"""The one boundary: exceptions become lines, faults of this package leave their traceback in a file, and Ctrl-C is
answered at any moment."""

import signal
import subprocess
import sys
import time

import pytest

from flowmaps.cli import info
from flowmaps.cli.boundary import explain
from train.toys import environment


def test_a_fault_of_the_package_leaves_its_traceback_in_a_file(tell, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(info, "parse", lambda *_: {}["no such key"])
    code, out, err = tell("info", "some run")
    (file,) = tmp_path.iterdir()
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "KeyError: 'no such key'" in err and "please report it" in err and str(file) in err
    text = file.read_text()
    assert "info 'some run'" in text and "Traceback" in text and "test_boundary.py" in text


def test_a_fault_on_a_full_disk_is_still_a_line(tell, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    monkeypatch.setattr(info, "parse", lambda *_: {}["no such key"])
    code, _, err = tell("info", "some run")
    assert code == 1 and err.count("\n") == 1 and "please report it" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("n is 0,\n expected 1"), "n is 0, expected 1"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "a.txt: No such file or directory; choose a path"),
        (OverflowError("too large"), "too large"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (ModuleNotFoundError("No module named 'transformers'", name="transformers"), "flowmaps[text]"),
        (ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere"), ""),
        (KeyError("x"), ""),
        (TypeError("x"), ""),
        (RuntimeError("shapes differ"), ""),
    ],
)
def test_what_is_the_users_and_what_is_ours(error, said, monkeypatch):
    monkeypatch.setattr("flowmaps.cli.boundary.find_spec", lambda _: None)
    line = explain(error)
    assert line.startswith(said) or said in line if said else line == ""


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen([sys.executable, "-m", "flowmaps", "presets"], env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.4])
def test_ctrl_c_while_importing(seconds):
    """The clock starts when the command line is up, so that the signal comes while torch is imported."""
    code = """
import sys
from flowmaps.cli.main import main
print(flush=True)
sys.exit(main(["train", "digits", "--help"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=environment(), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "flowmaps: interrupted\n"
