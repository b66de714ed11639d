"""The table of docs/reliability.md: python tests/fuzz/table.py FOLDER [reader ...] [--count N]"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cli.conftest import TINY
from flowmaps.cli.main import main
from fuzz.harness import counts, run
from fuzz.readers import COUNTS, USUAL, readers

if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("folder", type=Path)
    p.add_argument("only", nargs="*")
    p.add_argument("--count", type=int)
    p.add_argument("--first", type=int, default=0)
    given = p.parse_args()
    if not (given.folder / "run").exists():
        assert main(["train", "digits", "--out", str(given.folder / "run"), *TINY]) == 0
    place = given.folder / f"fuzz-{time.time_ns()}"
    print("| input | inputs | refused | same | reported | read | faults | seconds |\n|---|---|---|---|---|---|---|---|")
    for name, reader in readers(given.folder / "run").items():
        if given.only and name not in given.only:
            continue
        begun = time.monotonic()
        seeds = range(given.first, given.first + (given.count or COUNTS.get(name, USUAL)))
        found = run(name, reader, seeds, place / name.replace(" ", "-"))
        c = counts(found.values())
        cells = [len(found), *(c[kind] for kind in ("refused", "same", "reported", "accepted", "fault"))]
        print(f"| {name} | {' | '.join(map(str, cells))} | {time.monotonic() - begun:.0f} |", flush=True)
        for seed, outcome in found.items():
            if outcome.fault:
                print(f"   {name}/{seed}: {outcome.kind}: {outcome.story}", flush=True)
