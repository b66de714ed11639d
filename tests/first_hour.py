"""The first hour of a new user, as a script: from a fresh clone in an empty environment to molecules on the web page.

    python tests/first_hour.py --log docs/first-hour.md

No step needs a look at the source: each command was named by the README or by the output of an earlier one. The log
holds the commands, what they printed, and how long they took.
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

ROOT = Path(__file__).parents[1]
LOAD = """import flowmaps
model = flowmaps.load("runs/my")
samples = model.sample(4, steps=4, seed=0)
print({name: tuple(x.shape) for name, x in samples.items()}, model.task.decoded(samples))"""
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
    print(shown, "molecules around the scaffold C1CO1")
    browser.close()"""


class Log:
    """Runs commands in one folder, and keeps what was said; stops at the first that fails."""

    def __init__(self, place: Path, environment: dict[str, str]):
        self.place, self.environment, self.lines = place, environment, list[str]()

    def run(self, command: str, why: str, shown: int = 40, cwd: str = "flowmaps") -> str:
        """One command; its output. The log has the last lines of it."""
        start, before = time.monotonic(), os.times()
        done = subprocess.run(["bash", "-c", f"{command} 2>&1"], cwd=self.place / cwd, env=self.environment,
                              capture_output=True, text=True)  # fmt: skip
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        self.told(why, command, done.stdout, shown, f"{time.monotonic() - start:.0f} s, {cpu:.0f} s of the processor")
        if done.returncode:
            sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout[-3000:]}")
        return done.stdout

    def told(self, why: str, command: str, said: str, shown: int, took: str) -> None:
        lines = [line.rstrip() for line in said.replace(str(self.place), "~").splitlines() if line.strip()]
        left = [f"... ({len(lines) - shown} lines)"] if len(lines) > shown else []
        self.lines += [f"{why} ({took}):", "", "```text", f"$ {command}", *left, *lines[-shown:], "```", ""]
        print(f"{took}: {command}", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--minutes", type=float, default=2.0, help="of training on molecules of one's own")
    p.add_argument("--demo-args", default="", help="of the demo, such as '--seconds 20'")
    p.add_argument("--pip-flags", default="", help="of make, such as an index of PyTorch without CUDA")
    p.add_argument("--log", type=Path, help="the Markdown file to write")
    o = p.parse_args()
    kept = ("PATH", "LANG", "SSL_CERT", "PIP_", "HTTP", "http", "NO_", "no_")
    environment = {name: value for name, value in os.environ.items() if name.startswith(kept) and "PYTHON" not in name}
    with TemporaryDirectory() as folder:
        place = Path(folder)
        log = Log(place, {**environment, "HOME": folder, "MPLBACKEND": "Agg"})
        walk(log, o)
    if o.log:
        o.log.write_text(heading(o) + "\n".join(log.lines), encoding="utf-8")


def walk(log: Log, o: argparse.Namespace) -> None:
    """All steps."""
    make = " ".join(filter(None, [
        "make demo", f"PIP_FLAGS={shlex.quote(o.pip_flags)}" if o.pip_flags else "",
        f"DEMO_ARGS={shlex.quote(o.demo_args)}" if o.demo_args else "",
    ]))  # fmt: skip
    log.run(f"git clone -q {shlex.quote(str(ROOT))} flowmaps", "Clone", cwd=".")
    log.run(make, "Install, and the demo", 26)
    log.environment["PATH"] = f"{log.place}/flowmaps/.venv/bin:{log.environment['PATH']}"
    log.run("flowmaps --help", "What there is")
    log.run("flowmaps sample qm9 --n 400 --steps 4 --out some.smi", "Who has no molecules takes those of a model")
    log.run("(echo smiles; cut -f1 some.smi) > my.csv && wc -l my.csv", "A file of SMILES of one's own")
    log.run(f"flowmaps new smiles my.csv --minutes {o.minutes:g}", "Settings for it")
    log.run("flowmaps train my.yaml", "Train, as its last lines say", 16)
    log.run("flowmaps sample runs/my --n 16 --steps 1,4", "Sample, as they say, too")
    log.run(f"python -c {shlex.quote(LOAD)}", "Load in Python")
    page(log)


def page(log: Log) -> None:
    """The web page, asked for eight molecules with a scaffold by a browser, or only looked at where there is none."""
    command = "flowmaps demo runs/my --no-browser --port 0"
    start = time.monotonic()
    with subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=log.place / "flowmaps", env=log.environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:  # fmt: skip
        try:
            said = ""
            while server.stdout is not None and (line := server.stdout.readline()):
                said += line
                if found := re.search(r"http://\S+", line):
                    break
            else:
                sys.exit(f"{command}: no page\n{said}")
            log.told("The web page", command, said, 10, f"{time.monotonic() - start:.0f} s")
            chromium = which("chromium") or which("chromium-browser") or which("google-chrome")
            if chromium is None:
                log.run(f"curl -s {found[0]} | head -c 200", "No browser here: the page answers")
                return
            (log.place / "ask.py").write_text(ASK)
            log.run(f"python {log.place}/ask.py {found[0]} {chromium}", "Eight molecules with a scaffold, by a browser")
        finally:
            server.terminate()


def heading(o: argparse.Namespace) -> str:
    """What the log is of."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    command = f"python tests/first_hour.py --minutes {o.minutes:g}"
    command += f" --demo-args={shlex.quote(o.demo_args)}" if o.demo_args else ""
    return (
        f"# The first hour\n\nFrom a fresh clone in an empty environment to molecules on the web page, by\n\n"
        f"```console\n{command} --log docs/first-hour.md\n```\n\n{datetime.date.today()}, commit {commit}, Python "
        f"{platform.python_version()}, a shared {platform.machine()} CPU: times on the wall say what else the machine "
        "did. Long outputs are cut at the front.\n\n"
    )


if __name__ == "__main__":
    main()
