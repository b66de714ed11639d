r"""Objectives on molecules: same network, data, budget and laws of time; validity and distances by step count.

    python bench/molecules_objectives.py --seeds 0                         # the table in bench/results: 90 s each
    python bench/molecules_objectives.py --steps 300 --seeds 0 --n 500 --out runs/look                 # a quick look
    python bench/molecules_objectives.py --seconds 300 --n 2000 --out bench/results/molecules_objectives_300
    python bench/molecules_objectives.py --objectives ECLD                 # this row again, the others stay

Each run trains a graph transformer on QM9 from scratch, then carries the same noise to molecules in 1, 2, 4 and 8 jumps
of its flow map and in 64 Euler steps of its diagonal, decoded by arg-max. The headline is the share of samples that are
valid as generated *and* connected; the convention of the papers (the largest fragment alone) stands beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from flowmaps.maps import EndpointMap, FlowMap, VelocityMap
from flowmaps.objectives import (
    Average,
    Consistency,
    EndpointConsistency,
    EulerianKL,
    Lagrangian,
    LagrangianCE,
    LagrangianKL,
    SelfDistillation,
    SemigroupKL,
)
from flowmaps.samplers import Euler, Jumps, Sampler
from flowmaps.tasks.molecules import Molecules
from flowmaps.times import LogitNormal
from flowmaps.train import AdamW, Cosine, Trainer
from flowmaps.train.stream import generator
from records import FOREVER, Record, by_objective, jumps, origins, require_whole, with_error

AVERAGED = ", averaged"  # targets from a moving average of the weights
OBJECTIVES: dict[str, Callable[[], Consistency] | None] = {
    "LSD": Lagrangian,
    "LSD, averaged": Lagrangian,
    "LSD-CE": LagrangianCE,
    "ECLD": EndpointConsistency,
    "ECLD (1; 1/2)": lambda: EndpointConsistency(endpoint=1.0, drift=0.5),
    "LSD-KL": LagrangianKL,
    "ESD-KL": EulerianKL,
    "PSD-KL": SemigroupKL,
    "PSD-KL midpoint": lambda: SemigroupKL(fraction=0.5),
    "PSD-KL midpoint, averaged": lambda: SemigroupKL(fraction=0.5),
    "naive": Lagrangian,
    "diagonal": None,
}
SAMPLERS: dict[str, Sampler] = {"1": Jumps(1), "2": Jumps(2), "4": Jumps(4), "8": Jumps(8), "ode64": Euler(64)}
SHOWN = {
    "valid_connected": "Valid as generated and connected, per cent",
    "valid_largest_fragment": "The largest fragment alone valid, per cent: the convention of the papers",
    "valid_unique_novel": "Valid, connected, unique and novel, per cent",
    "atom_types": "Total variation of the atom types, per cent",
    "logp": "Wasserstein distance of logP, hundredths; of valid and connected samples",
}


def train(task: Molecules, name: str, seed: int, arguments: argparse.Namespace) -> tuple[FlowMap, int, float]:
    """A map with averaged weights, its updates and its processor seconds."""
    torch.manual_seed(seed)
    flow_map, make = task.build_map(), OBJECTIVES[name]
    consistency = make and make()
    objective = SelfDistillation(
        flow_map,
        consistency,
        times=LogitNormal(0.0, 1.0),
        pairs=jumps(consistency, flow_map, 0.1),
        share=1.0 if consistency is None else 0.75,
        teacher=Average(flow_map) if name.endswith(AVERAGED) else None,
    )
    report = Trainer(
        objective,
        task.train_data,
        max_steps=arguments.steps or FOREVER,
        max_cpu_seconds=None if arguments.steps else arguments.seconds,
        batch_size=arguments.batch,
        seed=seed,
        optimizer=AdamW(lr=arguments.lr),
        schedule=Cosine(warmup=50),
        ema=arguments.ema,
        accelerator="cpu",
        progress=False,
    ).fit()
    require_whole(report)
    return report.flow_map, report.step, report.cpu_seconds


def run(arguments: argparse.Namespace) -> None:
    """Every objective and seed; the record is written after each."""
    sizes = {"width": arguments.width, "edge": arguments.edge, "depth": arguments.depth, "held_out": arguments.n}
    where = {"path": arguments.path, "cache": arguments.cache}
    kinds = {False: EndpointMap, True: VelocityMap}
    tasks = {naive: Molecules(arguments.source, flow_map=kind, **where, **sizes) for naive, kind in kinds.items()}
    if not arguments.fcd:
        tasks[False].judge.chemnet = None
    budget = "steps" if arguments.steps else "seconds"
    told = ("source", budget, "n", "fcd", "batch", "width", "edge", "depth", "lr", "ema")
    record = Record(arguments.out, {name: getattr(arguments, name) for name in told}, table)
    for name in arguments.objectives:
        for seed in arguments.seeds:
            task = tasks[name == "naive"]
            flow_map, steps, seconds = train(task, name, seed, arguments)
            row: dict[str, Any] = {"objective": name, "seed": seed, "updates": steps, "seconds": round(seconds, 1)}
            row["by_steps"] = {
                key: tasks[False].quality(task.sample(flow_map, arguments.n, sampler, generator("cpu", seed, "sample")))
                for key, sampler in SAMPLERS.items()
            }
            record.add(row)
            shares = {key: round(values["valid_connected"], 3) for key, values in row["by_steps"].items()}
            print(name, seed, steps, shares, flush=True)


def table(result: dict[str, Any]) -> str:
    """One table a metric: the headline first, then what keeps it honest."""

    def cell(rows: list[dict[str, Any]], key: str, metric: str) -> str:
        found = with_error(rows, key, metric, 100.0)
        return "none" if found is None else f"{found[0]:.1f} ± {found[1]:.1f}"

    lines = ["# Objectives on molecules", "", origins(result), ""]
    for metric, title in SHOWN.items():
        lines += [f"## {title}", ""]
        lines += ["| objective | " + " | ".join(SAMPLERS) + " | updates | CPU s |", "|---" * (len(SAMPLERS) + 3) + "|"]
        for name, rows in by_objective(result).items():
            cells = [cell(rows, key, metric) for key in SAMPLERS]
            spent = [f"{mean(row['updates'] for row in rows):.0f}", f"{mean(row['seconds'] for row in rows):.0f}"]
            lines.append(f"| {' | '.join([name, *cells, *spent])} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--source", default="qm9")
    p.add_argument("--path", default=None, help="folder of the data set")
    p.add_argument("--cache", default=None)
    p.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--seconds", type=float, default=90.0, help="processor time of one training")
    p.add_argument("--steps", type=int, default=0, help="updates of one training, instead")
    p.add_argument("--n", type=int, default=1000)
    p.add_argument("--fcd", action="store_true", help="compute FCD too")
    for name, value in (("batch", 64), ("width", 64), ("edge", 32), ("depth", 4)):
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--ema", type=float, default=0.998)
    p.add_argument("--out", type=Path, default=Path("bench/results/molecules_objectives"))
    arguments = p.parse_args()
    torch.set_num_threads(1)
    run(arguments)


if __name__ == "__main__":
    main()
