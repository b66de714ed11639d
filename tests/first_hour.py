"""The first hour of a new user, as a script: from a fresh clone in an empty environment to molecules on the web page.

    python tests/first_hour.py --log docs/first-hour.md

No step needs a look at the source: each command was named by the README or by the output of an earlier one. The log
holds the commands, what they printed, and how long they took. `--bin .venv/bin` takes an environment that is there
already, and begins after the demo.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LOAD = """import flowmaps
from rdkit import Chem
model = flowmaps.load("runs/my")
samples = model.sample(4, steps=4, seed=0)
print({name: tuple(x.shape) for name, x in samples.items()})
print([Chem.MolToSmiles(molecule) for molecule in model.task.decoded(samples)])"""
ASK = """import sys
from playwright.sync_api import sync_playwright
with sync_playwright() as p:
    browser = p.chromium.launch(executable_path=sys.argv[2], args=["--headless", "--no-sandbox", "--disable-gpu"])
    page = browser.new_page()
    page.set_default_timeout(240_000)
    page.goto(sys.argv[1])
    page.get_by_text("8 molecules in 4 steps").wait_for()
    page.get_by_label("Scaffold").first.fill("C1CO1")
    page.get_by_role("button", name="Draw").first.click()
    page.get_by_text("around the scaffold").wait_for()
    shown = page.locator(".fm-answer:visible").locator(".fm-cards").first.locator("svg").count()
    print(page.locator(".fm-lead:visible").first.inner_text())
    print(shown, "molecules around the scaffold C1CO1")
    browser.close()
"""
DEMO = "flowmaps demo runs/my --no-browser --port 0"


class Step(NamedTuple):
    """One command: why, what, how many of its last lines the log shows, and the folder it runs in."""

    why: str
    command: str
    shown: int = 40
    cwd: str = "flowmaps"


def installation(pip_flags: str = "", demo_args: str = "") -> list[Step]:
    """From nothing to the demo."""
    make = " ".join(filter(None, [
        "make demo", f"PIP_FLAGS={shlex.quote(pip_flags)}" if pip_flags else "",
        f"DEMO_ARGS={shlex.quote(demo_args)}" if demo_args else "",
    ]))  # fmt: skip
    return [
        Step("Clone", f"git clone -q {shlex.quote(str(ROOT))} flowmaps", cwd="."),
        Step("Install, and the demo", make, 26),
    ]


def own_data(minutes: float) -> list[Step]:
    """From the first words of the command to a model of one's own in Python."""
    return [
        Step("What there is", "flowmaps --help"),
        Step("Who has no molecules takes those of a model", "flowmaps sample qm9 --n 400 --steps 4 --out some.smi"),
        Step("A file of SMILES of one's own", "(echo smiles; cut -f1 some.smi) > my.csv && wc -l my.csv"),
        Step("Settings for it", f"flowmaps new smiles my.csv --minutes {minutes:g}"),
        Step("Train, as its last lines say", "flowmaps train my.yaml", 16),
        Step("Sample, as they say, too", "flowmaps sample runs/my --n 16 --steps 1,4"),
        Step("Load in Python", f"python -c {shlex.quote(LOAD)}"),
    ]


class Log:
    """Runs commands in one folder, and keeps what was said; stops at the first that fails."""

    def __init__(self, place: Path, environment: dict[str, str]):
        self.place, self.environment, self.lines = place, environment, list[str]()

    def run(self, step: Step) -> None:
        """One command. The log has the last lines of what it printed."""
        start, before = time.monotonic(), os.times()
        done = subprocess.run(["bash", "-c", f"{{ {step.command}\n}} 2>&1"], cwd=self.place / step.cwd,
                              env=self.environment, capture_output=True, text=True)  # fmt: skip
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        self.told(step, done.stdout, f"{time.monotonic() - start:.0f} s, {max(cpu, 0.0):.0f} s of the processor")
        if done.returncode:
            sys.exit(f"{step.command}: exit code {done.returncode}\n{done.stdout[-3000:]}")

    def told(self, step: Step, said: str, took: str) -> None:
        lines = [line.rstrip() for line in said.splitlines() if line.strip()]
        left = [f"... ({len(lines) - step.shown} lines)"] if len(lines) > step.shown else []
        text = "\n".join([f"$ {step.command}", *left, *lines[-step.shown :]])
        for folder, name in ((self.place, "~"), (ROOT, "CHECKOUT")):
            text = text.replace(str(folder), name)
        self.lines += [f"{step.why} ({took}):", "", "```text", text, "```", ""]
        print(f"{took}: {step.command}", flush=True)


def main() -> None:
    o = options()
    kept = ("PATH", "LANG", "SSL_CERT", "PIP_", "HTTP", "http", "NO_", "no_", "OMP_", "MKL_")
    environment = {name: value for name, value in os.environ.items() if name.startswith(kept) and "PYTHON" not in name}
    with TemporaryDirectory() as folder:
        place = Path(folder)
        log = Log(place, {**environment, "HOME": folder, "MPLBACKEND": "Agg"})
        if o.bin is None:
            for step in installation(o.pip_flags, o.demo_args):
                log.run(step)
        else:
            (place / "flowmaps").mkdir()
        programs = o.bin.absolute() if o.bin else place / "flowmaps" / ".venv" / "bin"
        log.environment["PATH"] = f"{programs}:{log.environment['PATH']}"
        for step in own_data(o.minutes):
            log.run(step)
        page(log)
    if o.log:
        o.log.write_text(heading(o) + "\n".join(log.lines), encoding="utf-8")


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--minutes", type=float, default=2.0, help="of training on molecules of one's own")
    p.add_argument("--demo-args", default="", help="of the demo, such as '--seconds 20'")
    p.add_argument("--pip-flags", default="", help="of make, such as an index of PyTorch without CUDA")
    p.add_argument("--bin", type=Path, help="programs of an environment to use as it is, without clone and demo")
    p.add_argument("--log", type=Path, help="the Markdown file to write")
    return p.parse_args()


def page(log: Log) -> None:
    """The web page, asked for eight molecules with a scaffold by a browser, or only looked at where there is none."""
    start = time.monotonic()
    with subprocess.Popen(["bash", "-c", f"exec {DEMO}"], cwd=log.place / "flowmaps", env=log.environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:  # fmt: skip
        try:
            said = ""
            while server.stdout is not None and (line := server.stdout.readline()):
                said += line
                if found := re.search(r"http://\S+", line):
                    break
            else:
                sys.exit(f"{DEMO}: no page\n{said}")
            log.told(Step("The web page", DEMO, 10), said, f"{time.monotonic() - start:.0f} s")
            chromium = which("chromium") or which("chromium-browser") or which("google-chrome")
            if chromium is None:
                log.run(Step("No browser here: the page answers", f"curl -s {found[0]} | head -c 200"))
                return
            (log.place / "ask.py").write_text(ASK)
            why = "Eight molecules with a scaffold: a browser opens the page, types the scaffold, and presses Draw"
            log.run(Step(why, f"python {log.place}/ask.py {found[0]} {chromium}"))
            log.lines += ["What the browser does, `ask.py`:", "", "```text", *ASK.splitlines(), "```", ""]
        finally:
            server.terminate()


def heading(o: argparse.Namespace) -> str:
    """What the log is of."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    given = {"--minutes": f"{o.minutes:g}", "--demo-args": o.demo_args, "--pip-flags": o.pip_flags}
    words = ["python", "tests/first_hour.py", *(f"{name}={value}" for name, value in given.items() if value)]
    path = "From a fresh clone in an empty environment" if o.bin is None else "In an environment that was there before,"
    begun = "" if o.bin is None else " --bin .venv/bin"
    return (
        f"# The first hour\n\n{path} to molecules on the web page, by\n\n```console\n{shlex.join(words)}{begun} "
        f"--log docs/first-hour.md\n```\n\n{datetime.date.today()}, commit {commit}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores of {platform.machine()}. Long outputs are cut at the "
        "front; times are those of the clock, then of the processor.\n\n"
    )


if __name__ == "__main__":
    main()
