"""Processor time from the shell's prompt to an answer: the help, and the first sample of each model that comes along.

    python bench/startup.py --out bench/results/startup

Every command runs in a process of its own, several times; the numbers are processor seconds (user and system) of that
process and its children, which other load on the machine hardly touches.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from flowmaps import __version__
from flowmaps.files import write_json, write_text

MODELS = Path(__file__).parents[1] / "models"
BUDGETS = {"--help": 0.3, "sample": 5.0}  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="processes a command")
    parser.add_argument("--out", type=Path, help="also write this file's .md and .json")
    options = parser.parse_args()
    names = sorted(folder.name for folder in MODELS.iterdir() if (folder / "config.json").is_file())
    commands = [["--help"], ["presets"], *(["sample", name, "--n", "1"] for name in names)]
    rows = {" ".join(command): [seconds(command) for _ in range(options.repeat)] for command in commands}
    text = table(rows)
    print(text, end="")
    if options.out:
        write_text(options.out.with_suffix(".md"), text)
        write_json(options.out.with_suffix(".json"), {"setting": setting(), "cpu_seconds": rows})
    slow = [name for name, found in rows.items() if statistics.median(found) > BUDGETS.get(name.split()[0], 0.3)]
    sys.exit(f"over budget: {', '.join(slow)}" if slow else 0)


def seconds(command: list[str]) -> float:
    """Processor seconds of one process that answers ``flowmaps COMMAND``, in an empty folder."""
    before = os.times()
    with TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "flowmaps", *command], check=True, capture_output=True, cwd=folder)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def setting() -> str:
    """Where the numbers come from."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=MODELS)
    where = f"Python {platform.python_version()}, one core of an {platform.machine()} CPU"
    return f"{date.today()}, flowmaps {__version__} at {commit.stdout.strip() or 'no commit'}, {where}"


def table(rows: dict[str, list[float]]) -> str:
    """The medians, and the range of the repetitions."""
    lines = [f"{setting()}; processor seconds of a process, median of {len(next(iter(rows.values())))} and range.", "",
             "| `flowmaps ...` | seconds | range |", "|---|---|---|"]  # fmt: skip
    lines += [f"| `{name}` | {statistics.median(s):.2f} | {min(s):.2f} to {max(s):.2f} |" for name, s in rows.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
