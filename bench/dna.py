r"""Promoters by categorical flow maps and by Fisher flow maps at equal processor time, by number of steps.

    python bench/dna.py                                       # writes results/dna.json and .md
    python bench/dna.py --methods categorical --seeds 0 --seconds 30

Every run trains the network of the preset from the same seed with the same optimiser and schedule over the same
processor time: four of ten samples on the diagonal, four of ten of the others jumping from noise to data, and targets
from paths of three jumps of a running average. Samples come from the running average of the weights, of all classes as
in the data, decoded by arg-max. Metrics are those of `flowmaps evaluate`; the row `data` is as many training sequences.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flowmaps.files import write_json, write_text
from flowmaps.maps import EndpointMap, FlowMap, VelocityMap
from flowmaps.networks import Convolutions
from flowmaps.objectives import Average, Lagrangian, SelfDistillation, Semigroup, SemigroupKL
from flowmaps.samplers import Jumps
from flowmaps.spaces import FisherSphere, OneHot
from flowmaps.tasks.dna import DNA
from flowmaps.times import FullJump
from flowmaps.train import Cosine, Muon, Trainer
from records import commit, remarks, require_whole

METHODS: dict[str, tuple[Any, Any, Callable[[], Any]]] = {
    "categorical flow map, PSD-KL": (OneHot, EndpointMap, lambda: SemigroupKL(fraction=[0.5, 0.75])),
    "Fisher flow map, endpoint, PSD": (FisherSphere, EndpointMap, lambda: Semigroup(fraction=[0.5, 0.75])),
    "Fisher flow map, velocity, PSD": (FisherSphere, VelocityMap, lambda: Semigroup(fraction=[0.5, 0.75])),
    "Fisher flow map, velocity, LSD": (FisherSphere, VelocityMap, Lagrangian),
}
STEPS = (1, 2, 4, 8, 100)
SHOWN = ("frechet", "kmer_3", "kmer_6", "gc_profile", "motif_peak", "accuracy", "longest_match")


def network(d: int, **options: Any) -> Convolutions:
    return Convolutions(d, **{"width": 96, "rounds": 1, "patch": 4, **options})


def train(name: str, seed: int, seconds: float, precision: str) -> tuple[DNA, FlowMap, int]:
    """The averaged map after ``seconds`` of processor time, and its number of updates."""
    geometry, kind, consistency = METHODS[name]
    task = DNA(conditional=True, given=False, network=network, geometry=geometry, flow_map=kind)
    task.state()
    torch.manual_seed(seed)
    flow_map = task.build_map()
    objective = SelfDistillation(flow_map, consistency(), pairs=FullJump(probability=0.4), share=0.4,
                                 teacher=lambda each: Average(each, 0.98))  # fmt: skip
    report = Trainer(objective, task.train_data, max_steps=10**6, max_cpu_seconds=seconds, batch_size=32, seed=seed,
                     optimizer=Muon(lr=1e-2), schedule=Cosine(warmup=30), ema=0.98, log_every=10**6, progress=False,
                     accelerator="cpu", precision=precision).fit()  # fmt: skip
    require_whole(report)
    return task, report.flow_map.eval(), report.step


def table(rows: list[dict[str, Any]], data: dict[str, float]) -> str:
    lines = ["| method | steps | " + " | ".join(SHOWN) + " | updates |", "|---" * (len(SHOWN) + 3) + "|"]
    for name in METHODS:
        for steps in STEPS:
            some = [row for row in rows if row["method"] == name and row["steps"] == steps]
            if some:
                cells = [_cell([row[metric] for row in some], some[0].get(f"{metric}_error")) for metric in SHOWN]
                updates = round(statistics.mean(row["updates"] for row in some))
                lines.append(f"| {name} | {steps} | " + " | ".join(cells) + f" | {updates:,} |")
    cells = [_cell([data[metric]], data.get(f"{metric}_error")) for metric in SHOWN]
    return "\n".join([*lines, "| data | | " + " | ".join(cells) + " | |"]) + "\n\n" + ratios(rows)


def ratios(rows: list[dict[str, Any]]) -> str:
    """The Fréchet distance of one step over that of a hundred, by method."""
    lines = []
    for name in METHODS:
        at = {steps: {r["seed"]: r["frechet"] for r in rows if r["method"] == name and r["steps"] == steps}
              for steps in (1, 100)}  # fmt: skip
        if each := [at[1][seed] / many for seed, many in at[100].items() if seed in at[1]]:
            lines.append(f"- {name}: {_cell(each, None)}")
    return "One step over a hundred, Fréchet distance:\n\n" + "\n".join(lines)


def recorded(path: Path, about: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Runs that were made before in the same setting, and what the data score."""
    found = json.loads(path.read_text()) if path.exists() else {}
    same = all(found.get(name) == about[name] for name in ("seconds", "n", "precision"))
    return (found["runs"], found["data"]) if same else ([], {})


def _cell(values: list[float], error: float | None) -> str:
    """Mean and deviation over seeds, or one value and its own error."""
    spread = statistics.stdev(values) if len(values) > 1 else error
    return f"{statistics.mean(values):.3g}" + ("" if spread is None else f" ± {spread:.2g}")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--methods", default="", help="parts of names, separated by |")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--seconds", type=float, default=20.0, help="processor time of a training")
    p.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    p.add_argument("--precision", default="bf16-mixed", choices=["32-true", "bf16-mixed"])
    p.add_argument("--n", type=int, default=512, help="samples a row")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dna")
    options = p.parse_args()
    torch.set_num_threads(1)
    about = {"seconds": options.seconds, "n": options.n, "hardware": f"one core of an {platform.machine()} CPU",
             "commit": commit(), "precision": options.precision, "torch": torch.__version__,
             "date": datetime.date.today().isoformat()}  # fmt: skip
    rows, data = recorded(options.out.with_suffix(".json"), about)
    done = {(row["method"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for name in [name for name in METHODS if any(part in name for part in options.methods.split("|"))]:
            if (name, seed) in done:
                continue
            task, flow_map, updates = train(name, seed, options.seconds, options.precision)
            data = data or task.of_data(options.n)
            for steps in options.steps:
                with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16-mixed"):
                    x = task.sample(flow_map, options.n, Jumps(steps), torch.Generator().manual_seed(seed))
                rows.append({"method": name, "seed": seed, "steps": steps, "updates": updates, **task.quality(x)})
                print({key: rows[-1][key] for key in ("method", "seed", "steps", *SHOWN)}, flush=True)
            write_json(options.out.with_suffix(".json"), {**about, "data": data, "runs": rows})
            head = f"# Promoters by categorical and by Fisher flow maps\n\n{__doc__}\nMean ± deviation over seeds.\n\n"
            page = options.out.with_suffix(".md")
            write_text(page, head + json.dumps(about) + "\n\n" + table(rows, data) + "\n" + remarks(page))


if __name__ == "__main__":
    main()
