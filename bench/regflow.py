r"""RegFlow against maximum likelihood on alanine dipeptide, over budgets, with a teacher that is trained once.

    flowmaps simulate alanine-dipeptide --nanoseconds 3 --every 50 --out simulations/alanine-dipeptide
    python bench/regflow.py simulations/alanine-dipeptide                      # writes results/regflow.json and .md
    python bench/regflow.py simulations/alanine-dipeptide --turned --add       # all 66 coordinates, as in print
    python bench/regflow.py simulations/alanine-dipeptide --flows NSF --seconds 120 --seeds 0 --add

The teacher is a velocity map, its pairs are source points and where 16 steps of Euler's method carry them. Both are
made once for all students of one kind of coordinates and kept in a folder. Their processor time is not in the budget of
a student, and is told beside it: counted in, RegFlow had so many seconds more than maximum likelihood. The flows, their
training and the measures are those of bench/alanine.py; a row "teacher" is of the data side of the pairs themselves.

- **energy W1**, in kT, and **torsion W2**, in radians: of 10,000 samples and as many frames, reweighted, and plain.
- **median**: how far the medians of the energies are apart, plain, in kT.
- **distance**: mean squared distance of f(x_0) to x_1 over held-out pairs, a coordinate; 1 is the variance of the data.

    python bench/regflow.py simulations/alanine-dipeptide --price --add       # what an error of a regression costs
"""

from __future__ import annotations

import datetime
import json
import platform
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

import alanine
from alanine import FLOWS, RESULTS, SAMPLES, cell, fit, flow, path
from flowmaps.data.conformations import evenly
from flowmaps.data.pairs import Pairs, make_pairs, pushed, read_pairs
from flowmaps.fields import one_field
from flowmaps.files import write_json, write_text
from flowmaps.maps import VelocityMap
from flowmaps.networks import PointNetwork
from flowmaps.objectives import LogDeterminant, RegFlow, SelfDistillation
from flowmaps.reading import read_json
from flowmaps.samplers import Euler
from flowmaps.samplers.base import decoder_of
from flowmaps.tasks.boltzmann import Boltzmann
from records import commit, remarks

STEPS, HELD_OUT, JITTER = 16, 2**12, 0.02
COLUMNS = {"energy_w1": "energy W1", "torsion_w2": "torsion W2", "ess": "ESS", "energy_w1_plain": "energy W1, plain",
           "energy_median_plain": "median, plain", "torsion_w2_plain": "torsion W2, plain", "nll": "NLL",
           "distance": "distance", "updates": "updates"}  # fmt: skip
Row = dict[str, Any]


def teach(task: Boltzmann, folder: Path, seconds: float, n: int) -> tuple[Pairs, dict[str, float]]:
    """Pairs of a teacher that had ``seconds``, and the processor time of both; those of the folder, if there are."""
    told = read_json(folder / "told.json") if (folder / "told.json").exists() else None
    if told is None:
        start = time.process_time()
        network = PointNetwork(task.coordinates.dim, width=384, depth=4, frequencies=32, band=0.5)
        objective = SelfDistillation(VelocityMap(path(task), network), share=1.0)
        teacher, updates = fit(objective, task.train_data, seconds, 0, 1e-3)
        taught = time.process_time()

        def push(x_0: torch.Tensor) -> torch.Tensor:
            return decoder_of(teacher)(Euler(STEPS).from_noise()(teacher, x_0), torch.Generator(), teacher.chunk)

        make_pairs(folder, pushed(path(task), push), n, {"by": "bench"})
        made = time.process_time() - taught
        told = {"teacher_s": taught - start, "pairs_s": made, "teacher_updates": updates, "n": n}
        write_json(folder / "told.json", told)
    return read_pairs(folder), told


def regression(pairs: Pairs, task: Boltzmann, name: str, seconds: float, seed: int) -> tuple[Any, int]:
    """RegFlow on pairs that are there."""
    objective = RegFlow(flow(task, name), LogDeterminant(), jitter=JITTER)
    return fit(objective, pairs, seconds, seed, alanine.RATES[name])


@torch.no_grad()
def of_teacher(task: Boltzmann, pairs: Pairs) -> Row:
    """Plain measures of the data side of the pairs."""
    x = task.coordinates.frames(pairs.x_1[:SAMPLES])
    u = task.splits.potential.energies(x)
    found = task.judge(u, torch.zeros_like(u), task.torsions(x))
    return {name: value for name, value in found.items() if name.endswith("_plain")}


def run(task: Boltzmann, held_out: Pairs, name: str, method: str, seconds: float, seed: int) -> Row:
    """One training with its measures."""
    found, _, f = alanine.run(task, name, method, seconds, seed)
    with torch.no_grad():
        apart = (f.push(held_out.x_0) - held_out.x_1).square().mean()
    return {**found, "distance": float(apart), "seconds": seconds, "dim": task.coordinates.dim}


@torch.no_grad()
def price(source: str) -> str:
    """What normal errors of a variance cost: how far the median energy of held-out frames rises, in kT."""
    lines = ["| variance of the error, a coordinate | 60 coordinates, whitened | 66, one unit |", "|---|---|---|"]
    tasks = [Boltzmann(source, framed=framed) for framed in (True, False)]
    for variance in (1e-5, 1e-4, 1e-3, 1e-2, 4e-2):
        rises = []
        for task in tasks:
            y = one_field(task.splits.test.batch(evenly(torch.arange(len(task.splits.test)), 1000)).x_1)
            error = variance**0.5 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
            u, v = (task.splits.potential.energies(task.coordinates.frames(x)).median() for x in (y, y + error))
            rises.append(f"{float(v - u):.3g}")
        lines.append(f"| {variance:g} | " + " | ".join(rises) + " |")
    return "\n".join(lines)


def table(rows: list[Row], taught: dict[str, Any]) -> str:
    lines = ["| coordinates | flow | seconds | method | " + " | ".join(COLUMNS.values()) + " |",
             "|---" * (len(COLUMNS) + 4) + "|"]  # fmt: skip
    for dim, _, seconds, method in sorted(set(map(rank, rows))):
        same = [row for row in rows if rank(row) == (dim, _, seconds, method)]
        flow = same[0]["flow"]
        cells = [cell([row[column] for row in same]) for column in COLUMNS]
        lines.append(f"| {dim} | {flow} | {seconds:g} | {method} (n = {len(same)}) | " + " | ".join(cells) + " |")
    for dim, told in taught.items():
        cells = [cell([told[column]]) if column in told else "" for column in COLUMNS]
        lines.append(f"| {dim} | | {told['teacher_s'] + told['pairs_s']:.0f} | teacher | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rank(row: Row) -> tuple[int, int, float, str]:
    return row["dim"], list(FLOWS).index(row["flow"]), row["seconds"], row["method"]


def report(kept: dict[str, Any]) -> None:
    """Write what there is."""
    setting = {"batch": 256, "samples": SAMPLES, "steps": STEPS, "hardware": f"one core of an {platform.machine()} CPU",
               "precision": "float32 flows, float64 energies", "torch": torch.__version__, "commit": commit(),
               "date": str(datetime.date.today())}  # fmt: skip
    write_json(RESULTS / "regflow.json", {**kept, "setting": setting})
    said = "What normal errors of a variance add to the median energy of held-out frames, in kT (``--price``):"
    told = json.dumps(setting | {"taught": kept["taught"]})
    priced = [said, kept["price"]] if "price" in kept else []
    parts = ["# RegFlow against maximum likelihood over budgets", str(__doc__).strip(),
             table(kept["runs"], kept["taught"]), *priced, told]  # fmt: skip
    page = RESULTS / "regflow.md"
    write_text(page, "\n\n".join(parts) + "\n" + remarks(page))


def main() -> None:
    parser = alanine.arguments(__doc__, ["RealNVP"])
    parser.add_argument("--folder", default="simulations/pairs", help="of the pairs")
    parser.add_argument("--teacher", type=float, default=300.0, help="processor time of the teacher")
    parser.add_argument("--pairs", type=int, default=2**17, help="how many")
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0, 120.0], help="processor time of a student")
    parser.add_argument("--methods", nargs="+", default=["maximum likelihood", "RegFlow"])
    parser.add_argument("--price", action="store_true", help="what errors cost, and no training")
    options = parser.parse_args()
    task = alanine.judged(options)
    kept: dict[str, Any] = read_json(RESULTS / "regflow.json") if options.add else {}
    kept = kept or {"runs": [], "taught": {}, "dynamics": task.of_data(SAMPLES)}
    if options.price:
        return report(kept | {"price": price(options.source)})
    dim = str(task.coordinates.dim)
    pairs, told = teach(task, Path(options.folder) / dim, options.teacher, options.pairs)
    kept["taught"][dim] = told | of_teacher(task, pairs)
    print(kept["taught"], flush=True)
    training, held_out = pairs.parted(HELD_OUT)
    alanine.METHODS["RegFlow"] = partial(regression, training)
    done = {(*rank(row), row["seed"]) for row in kept["runs"]}
    for seed, name, seconds, method in product(options.seeds, options.flows, options.seconds, options.methods):
        if (int(dim), list(FLOWS).index(name), seconds, method, seed) not in done:
            kept["runs"].append(run(task, held_out, name, method, seconds, seed))
            print(kept["runs"][-1], flush=True)
            report(kept)


if __name__ == "__main__":
    main()
