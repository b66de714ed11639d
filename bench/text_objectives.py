r"""Objectives on real text: same network, data, budget and laws of time; judge perplexity and entropy by step count.

    python bench/text_objectives.py --seeds 0                   # the table in bench/results
    python bench/text_objectives.py --objectives ECLD --seeds 0 # this row again, the others stay

Each run trains a letter model from scratch, then draws the same noise through 1, 2, 4 and 8 jumps of its flow map, 4
Euler steps and 64 Euler steps. Last tokens are drawn at temperature 1. Perplexity is that of an n-gram judge trained on
the training text, beside the held-out data's own value; the error is the standard error over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch

from flowmaps.maps import FlowMap, VelocityMap
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
from flowmaps.samplers import Argmax, Categorical, Euler, Jumps
from flowmaps.tasks.text import Text
from flowmaps.times import DecodeRateClock, OnClock, PairOnClock
from flowmaps.train import AdamW, Cosine, Trainer
from records import Record, jumps, origins, require_whole

AVERAGED = ", averaged"  # targets from a moving average of the weights
OBJECTIVES: dict[str, Callable[[], Consistency] | None] = {
    "LSD": Lagrangian,
    "LSD-CE": LagrangianCE,
    "ECLD": EndpointConsistency,
    "LSD-KL": LagrangianKL,
    "ESD-KL": EulerianKL,
    "PSD-KL": SemigroupKL,
    "PSD-KL midpoint, averaged": lambda: SemigroupKL(fraction=0.5),
    "naive": Lagrangian,
    "diagonal": None,
}
SETTINGS = {"steps": 300, "batch": 32, "length": 64, "width": 128, "depth": 3, "n": 256}
SAMPLERS = {"1": Jumps(1), "2": Jumps(2), "4": Jumps(4), "8": Jumps(8), "euler4": Euler(4), "ode64": Euler(64)}


def train(task: Text, name: str, seed: int, arguments: argparse.Namespace) -> tuple[FlowMap, float, float]:
    """A trained map, its processor seconds of training and its held-out diagonal cross-entropy."""
    torch.manual_seed(seed)
    flow_map, clock = task.build_map(), DecodeRateClock(task.tokeniser.size)
    if name == "naive":
        flow_map = VelocityMap(flow_map.path, flow_map.network, flow_map.head)
    make = OBJECTIVES[name]
    consistency = make and make()
    objective = SelfDistillation(
        flow_map,  # pyright: ignore[reportArgumentType]
        consistency,
        times=OnClock(clock),
        pairs=PairOnClock(clock, jumps(consistency, flow_map, 0.05)),
        share=1.0 if consistency is None else 0.75,
        teacher=Average(flow_map) if name.endswith(AVERAGED) else None,  # pyright: ignore[reportArgumentType]
    )
    report = Trainer(
        objective,
        task.train_data,
        task.valid_data,
        max_steps=arguments.steps,
        batch_size=arguments.batch,
        seed=seed,
        optimizer=AdamW(lr=arguments.lr),
        schedule=Cosine(warmup=50),
        ema=0.995,
        validate_every=arguments.steps,
        progress=False,
    ).fit()
    require_whole(report)
    return report.flow_map, report.cpu_seconds, report.metrics.get("valid/diagonal", math.nan)


def run(arguments: argparse.Namespace) -> None:
    """Every objective and seed; the record is written after each."""
    task = Text(arguments.source, arguments.path, "letters", length=arguments.length, width=arguments.width,
                depth=arguments.depth, n=arguments.n, given=False)  # fmt: skip
    told = ("source", *SETTINGS, "lr")
    record = Record(arguments.out, {name: getattr(arguments, name) for name in told}, table)
    record.result.setdefault("data", task.of_data())
    for name in arguments.objectives:
        for seed in arguments.seeds:
            flow_map, seconds, diagonal = train(task, name, seed, arguments)
            row = {"objective": name, "seed": seed, "cpu_seconds": seconds, "diagonal": diagonal, "by_steps": {}}
            for key, sampler in SAMPLERS.items():
                generator = torch.Generator().manual_seed(seed)
                decoder = Argmax() if name == "naive" else Categorical()  # scores of the naive map are no logits
                tokens = task.sample(flow_map, arguments.n, sampler, generator, decoder=decoder)
                row["by_steps"][key] = task.quality(tokens)
            record.add(row)
            print(json.dumps({k: v for k, v in row.items() if k != "by_steps"}), flush=True)


def table(result: dict) -> str:
    def cell(values: list[float]) -> str:
        x = torch.tensor(values, dtype=torch.float64)
        error = f" ± {float(x.std() / len(x) ** 0.5):.2g}" if len(x) > 1 else ""
        return f"{float(x.mean()):.3g}{error}"

    lines = [f"| objective | CPU s | {' | '.join(SAMPLERS)} |", "|" + "---|" * (len(SAMPLERS) + 2)]
    for name in dict.fromkeys(row["objective"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["objective"] == name]
        cells = [
            " / ".join(cell([r["by_steps"][k][m] for r in rows]) for m in ("judge_perplexity", "entropy"))
            for k in SAMPLERS
        ]
        spent = [row["cpu_seconds"] for row in rows if "cpu_seconds" in row]
        lines.append(f"| {name} | {cell(spent) if spent else ''} | {' | '.join(cells)} |")
    data = result["data"]
    head = f"# Objectives on text\n\n{origins(result)}\n\nJudge perplexity / entropy within a sample (nats); "
    return head + f"data {data['judge_perplexity']:.3g} / {data['entropy']:.3g}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="tiny_shakespeare")
    parser.add_argument("--path")
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for name, value in SETTINGS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/text_objectives"))
    run(parser.parse_args())


if __name__ == "__main__":
    main()
