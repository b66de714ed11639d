r"""Alanine dipeptide by flows: maximum likelihood and RegFlow at equal processor time, on dynamics of our own.

    flowmaps simulate alanine-dipeptide --nanoseconds 3 --every 50 --out simulations/alanine-dipeptide
    python bench/alanine.py simulations/alanine-dipeptide          # writes results/alanine.json, .md and .png
    python bench/alanine.py simulations/alanine-dipeptide --seconds 60 --methods "maximum likelihood" --add

All methods train the same flow on the same frames: Cartesian coordinates in the frame of N, CA and C, whitened (60), or
all 66 with random turns (--turned). A budget is processor time of updates and of all that comes before: the plan of
optimal transport, or the teacher of a reflow (a velocity map with half of the time) and its 16 steps of Euler's method.

- **energy W1**, in kT, and **torsion W2**, in radians (φ and ψ, wrapped, 1,000 points): of 10,000 samples and as many
  frames. Reweighted by exp(-u) / q, the largest .2 % of the weights dropped; plain without weights. Energies are cut at
  10^6 kT. The row of dynamics is that of held-out frames against all of them.
- **ESS**: effective sample size of all weights, as a share.
- **ΔF**: free energy of ψ from -120° to 50° against all else, in kT, reweighted, with the error of a bootstrap; log 3
  or -log 3 where one sample has all the weight.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmaps.data.base import Dataset
from flowmaps.data.pairs import Draw, make_pairs, optimal, pushed
from flowmaps.files import write_json, write_text
from flowmaps.maps import NSF, Bijection, RealNVP, VelocityMap
from flowmaps.metrics.boltzmann import normalised
from flowmaps.networks import PointNetwork
from flowmaps.objectives import LogDeterminant, MaximumLikelihood, Objective, RegFlow, SelfDistillation
from flowmaps.paths import GeodesicPath
from flowmaps.pictures import boltzmann_panels
from flowmaps.samplers import Euler, Jumps
from flowmaps.samplers.base import decoder_of
from flowmaps.spaces import Euclidean
from flowmaps.tasks.boltzmann import Boltzmann
from flowmaps.train import AdamW, Cosine, Trainer
from records import commit, over_seeds, require_whole

RESULTS = Path(__file__).parent / "results"
FARTHEST = 1e30  # nats, of a frame that the inverse of a flow carries beyond float32
PAIRS, REFLOWED, SAMPLES, STEPS, POINTS = 2**14, 2**13, 10_000, 16, 1000
FLOWS: dict[str, Callable[..., Bijection]] = {
    "RealNVP": partial(RealNVP, layers=10, width=128, depth=1),
    "NSF": partial(NSF, layers=6, width=96, depth=1),
}
RATES = {"RealNVP": 2e-3, "NSF": 2e-3}
Panels = dict[str, tuple[Tensor, Tensor | None, Tensor]]
Method = Callable[[Boltzmann, str, float, int], tuple[Bijection, int]]


def fit(objective: Objective, data: Dataset, seconds: float, seed: int, rate: float) -> tuple[Any, int]:
    """The averaged map after ``seconds`` of processor time, and its number of updates."""
    report = Trainer(objective, data, max_steps=10**6, max_cpu_seconds=max(seconds, 0.5), batch_size=256, seed=seed,
                     optimizer=AdamW(lr=rate, weight_decay=0.0), schedule=Cosine(warmup=30), ema=0.99,
                     log_every=10**6, progress=False, accelerator="cpu").fit()  # fmt: skip
    require_whole(report)
    return report.flow_map.eval(), report.step


def path(task: Boltzmann) -> GeodesicPath[Tensor]:
    return GeodesicPath(Euclidean(task.coordinates.dim))


def flow(task: Boltzmann, name: str) -> Bijection:
    return FLOWS[name](path(task), (task.coordinates.dim,))


def likelihood(task: Boltzmann, name: str, seconds: float, seed: int) -> tuple[Bijection, int]:
    return fit(MaximumLikelihood(flow(task, name)), task.train_data, seconds, seed, RATES[name])


def regression(task: Boltzmann, name: str, draw: Draw, n: int, seconds: float, seed: int) -> tuple[Bijection, int]:
    """RegFlow on pairs that are made first; their time counts."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        pairs = make_pairs(folder, draw, n, {"by": "bench"}, seed)
    left = seconds - (time.process_time() - start)
    return fit(RegFlow(flow(task, name), LogDeterminant(), jitter=0.02), pairs, left, seed, RATES[name])


def transported(task: Boltzmann, name: str, seconds: float, seed: int) -> tuple[Bijection, int]:
    start = time.process_time()
    x_1 = task.train_data.batch(torch.randperm(2**18, generator=torch.Generator().manual_seed(seed))[:PAIRS]).x_1
    left = seconds - (time.process_time() - start)
    return regression(task, name, optimal(path(task), x_1), PAIRS, left, seed)


def reflow(task: Boltzmann, name: str, seconds: float, seed: int) -> tuple[Bijection, int]:
    network = PointNetwork(task.coordinates.dim, width=256, depth=3, frequencies=32, band=0.5)
    objective = SelfDistillation(VelocityMap(path(task), network), share=1.0)
    teacher, _ = fit(objective, task.train_data, seconds / 2, seed, 2e-3)

    def push(x_0: Tensor) -> Tensor:
        generator = torch.Generator()
        return decoder_of(teacher)(Euler(STEPS).from_noise()(teacher, x_0), generator, teacher.chunk)

    return regression(task, name, pushed(path(task), push), REFLOWED, seconds / 2, seed)


METHODS: dict[str, Method] = {
    "maximum likelihood": likelihood,
    "RegFlow, optimal transport": transported,
    "RegFlow, reflow": reflow,
}


@torch.no_grad()
def run(task: Boltzmann, name: str, method: str, seconds: float, seed: int) -> tuple[dict[str, Any], Panels, Bijection]:
    """One training with its measures, what is drawn of it, and the flow."""
    torch.manual_seed(seed)
    with torch.enable_grad():
        f, updates = METHODS[method](task, name, seconds, seed)
    samples = task.sample(f, SAMPLES, Jumps(1), torch.Generator().manual_seed(seed))
    u, angles = task.splits.potential.energies(samples["x"]), task.torsions(samples["x"])
    log_w = -u - samples["log_q"]
    held_out = task.splits.test.batch(torch.arange(2000)).x_1
    nll = -float(f.log_prob(held_out).double().nan_to_num(nan=-FARTHEST).clamp(min=-FARTHEST).mean())
    degrees, even = angles.rad2deg(), torch.full_like(u, 1 / len(u))
    drawn = {method: (degrees, u, even), f"{method}, reweighted": (degrees, u, normalised(log_w))}
    found = {"flow": name, "method": method, "seed": seed, "updates": updates, "nll": nll}
    return found | task.judge(u, log_w, angles), drawn, f


COLUMNS = {"energy_w1": "energy W1", "torsion_w2": "torsion W2", "ess": "ESS", "alpha": "ΔF", "alpha_error": "error",
           "energy_w1_plain": "energy W1, plain", "energy_median_plain": "median of u, plain",
           "torsion_w2_plain": "torsion W2, plain", "nll": "NLL", "updates": "updates"}  # fmt: skip
PRINTED = """| NSF, maximum likelihood (in print) | 13.797 | 1.243 |
| NSF, RegFlow (in print) | .501 | .951 |
| RealNVP, maximum likelihood (in print) | > 1,000 | |
| RealNVP, RegFlow (in print) | 2.104 | |"""


def table(runs: list[dict[str, Any]], exact: dict[str, float]) -> str:
    head = ["| flow, method | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in FLOWS:
        for method in METHODS:
            rows = [row for row in runs if (row["flow"], row["method"]) == (name, method)]
            if rows:
                cells = [over_seeds([row[column] for row in rows]) for column in COLUMNS]
                head.append(f"| {name}, {method} | " + " | ".join(cells) + " |")
    head.append("| dynamics | " + " | ".join(over_seeds([exact[c]]) if c in exact else "" for c in COLUMNS) + " |")
    return "\n".join([*head, *(row + " |" * (len(COLUMNS) - 2) for row in PRINTED.splitlines())])


def report(runs: list[dict[str, Any]], exact: dict[str, float], setting: dict[str, Any]) -> None:
    setting |= {"pairs": [PAIRS, REFLOWED], "batch": 256, "samples": SAMPLES,
                "seeds": sorted({row["seed"] for row in runs}),
                "hardware": f"one core of an {platform.machine()} CPU", "precision": "float32 flows, float64 energies",
                "torch": torch.__version__, "commit": commit(), "date": str(datetime.date.today())}  # fmt: skip
    write_json(RESULTS / "alanine.json", {"setting": setting, "dynamics": exact, "runs": runs})
    said = (
        f"Mean ± deviation over seeds, {setting['seconds']:g} s of processor time a run, after a simulation of "
        f"{setting['nanoseconds']:g} ns. In print: all 66 coordinates, 10.4 M pairs, another simulation."
    )
    parts = ["# Alanine dipeptide: flows and their weights", str(__doc__).strip(), said, table(runs, exact),
             "![angles and energies of one seed](alanine.png)", json.dumps(setting)]  # fmt: skip
    text = "\n\n".join(parts)
    write_text(RESULTS / "alanine.md", text + "\n")


def arguments(description: str | None, flows: list[str]) -> argparse.ArgumentParser:
    """What every comparison on simulated frames is asked for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder of flowmaps simulate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--flows", nargs="+", default=flows, choices=list(FLOWS))
    parser.add_argument("--turned", action="store_true", help="all 66 coordinates")
    parser.add_argument("--add", action="store_true", help="keep the runs that are in the results")
    return parser


def judged(options: argparse.Namespace) -> Boltzmann:
    """The task of the frames, whose distances of angles are of few points; one thread computes."""
    torch.set_num_threads(1)
    task = Boltzmann(options.source, framed=not options.turned)
    task.judge.points = POINTS
    return task


def main() -> None:
    parser = arguments(__doc__, list(FLOWS))
    parser.add_argument("--seconds", type=float, default=12.0, help="processor time of a run")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    task = judged(options)
    exact = task.of_data(SAMPLES)
    frames = task.real(SAMPLES)
    even = torch.full((SAMPLES,), 1 / SAMPLES).double()
    panels: Panels = {"dynamics": (task.torsions(frames["x"]).rad2deg(), -frames["log_q"], even)}
    setting = {"seconds": options.seconds, "frames": len(task.splits.all_frames), "nanoseconds": 3.0, "kelvin": 300.0,
               "coordinates": task.coordinates.dim}  # fmt: skip
    runs: list[dict[str, Any]] = json.loads((RESULTS / "alanine.json").read_text())["runs"] if options.add else []
    for seed in options.seeds:
        for name in options.flows:
            for method in options.methods:
                found, drawn, _ = run(task, name, method, options.seconds, seed)
                runs.append(found)
                print(found, flush=True)
                report(runs, exact, setting)
                if seed == options.seeds[0] and name == options.flows[0]:
                    panels |= drawn
                    boltzmann_panels(RESULTS / "alanine.png", panels, ["φ", "ψ"])


if __name__ == "__main__":
    main()
