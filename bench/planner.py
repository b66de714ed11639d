"""Does a training take the memory that `flowmaps plan` says? Small runs on one core against their plans.

    python bench/planner.py --out bench/results/planner

Each run is by `flowmaps.train.Trainer`, three updates in a process of its own, forked after everything is loaded: the
highest resident set minus that before the model was built, hence weights, gradients, moments, average, activations,
logits and what libraries keep, against the sum that the planner makes of tensors without memory. So that it is what the
training holds, glibc gives blocks of 128 KiB and more back when they are freed (its first M_MMAP_THRESHOLD, which else
grows to 32 MiB); a column shows the peak as glibc is by itself, with the gaps between blocks that it keeps.

What libraries keep is also measured alone: after products of random sizes, the resident set that stays.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import platform
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lightning.fabric
import torch

from flowmaps.data import CategoricalData
from flowmaps.data.text_known import blank
from flowmaps.files import write_json, write_text
from flowmaps.networks import Transformer
from flowmaps.objectives import Consistency, Lagrangian, SelfDistillation, SemigroupKL
from flowmaps.planning.draft import Draft, Machine
from flowmaps.tasks.text import build_map
from flowmaps.train import AdamW, Trainer
from flowmaps.train.settings import Hardware
from growth import apart
from records import commit
from text_memory import forget_peak, resident

assert lightning.fabric  # loaded before memory is measured
GLIBC = ctypes.CDLL("libc.so.6")
M_MMAP_THRESHOLD, FIRST = -3, 128 * 1024  # mallopt(3)


class Run(NamedTuple):
    """A small training."""

    title: str
    consistency: Callable[[], Consistency] | None
    K: int = 4000
    L: int = 64
    width: int = 192
    depth: int = 2
    chunk: int | None = 128
    batch: int = 8
    accumulation: int = 1
    precision: str = "32-true"
    recompute: bool = False


RUNS = (
    Run("diagonal alone", None),
    Run("PSD-KL", SemigroupKL),
    Run("PSD-KL, two micro-batches", SemigroupKL, accumulation=2),
    Run("PSD-KL, bf16-mixed", SemigroupKL, precision="bf16-mixed"),
    Run("PSD-KL, activations anew", SemigroupKL, recompute=True),
    Run("LSD", Lagrangian),
    Run("PSD-KL, K = 30,000", SemigroupKL, K=30_000),
    Run("PSD-KL, K = 30,000, bf16-mixed", SemigroupKL, K=30_000, precision="bf16-mixed"),
    Run("PSD-KL, K = 30,000, six blocks, activations anew", SemigroupKL, K=30_000, depth=6, batch=32, recompute=True),
)


def objective(run: Run) -> SelfDistillation:
    torch.manual_seed(0)
    network = partial(Transformer, width=run.width, depth=run.depth, heads=4, reach=2)
    flow_map = build_map(run.K, network, embedding=run.width, chunk=run.chunk)
    return SelfDistillation(flow_map, run.consistency and run.consistency(), share=0.75 if run.consistency else 1.0)


def planned(run: Run) -> dict[str, float]:
    """MB of each part, and of all."""
    with torch.device("meta"):
        one = objective(run).train()
    hardware = Hardware(precision=run.precision, recompute=run.recompute, accelerator="cpu")
    draft = Draft(one, lambda n: blank(n, run.L, False), AdamW(), hardware, True, Machine())
    memory = draft.way(run.batch, run.accumulation, False).memory
    return {name: size / 1e6 for name, size in {**memory._asdict(), "total": memory.total}.items()}


def measured(run: Run, gaps: bool) -> dict[str, float]:
    """MB that a real training adds to a process that has trained before, and so has loaded what it computes with.

    Arguments:
        gaps: glibc keeps what was freed, as it likes.
    """
    if not gaps:
        without_gaps()
    train(run._replace(K=100, width=16, chunk=16))
    before = settled()
    forget_peak()
    train(run)
    return {"total": megabytes(resident("VmHWM")) - before}


def without_gaps() -> None:
    """Have large blocks leave the process when they are freed."""
    GLIBC.mallopt(M_MMAP_THRESHOLD, FIRST)


def settled() -> float:
    """MB that are resident when all that is free was given back."""
    gc.collect()
    GLIBC.malloc_trim(0)
    return megabytes(resident())


def megabytes(mib: float) -> float:
    return mib * 2**20 / 1e6


def of_code(kind: str, n: int = 40) -> dict[str, float]:
    """MB that stay for each product in bfloat16 of sizes that are new, after ten, which load the library."""
    sizes = random.Random(0)

    def product() -> None:
        a, b, c = (16 * sizes.randrange(1, 64) for _ in range(3))
        x, y = torch.ones(a, b, dtype=torch.bfloat16), torch.ones(b, c, dtype=torch.bfloat16)
        if kind == "linear with a bias":
            torch.nn.functional.linear(x, y.T.contiguous(), torch.ones(c, dtype=torch.bfloat16))
        else:
            torch.matmul(x, y) if kind == "matrices" else torch.bmm(x[None], y[None])

    without_gaps()
    for _ in range(10):
        product()
    before = settled()
    for _ in range(n):
        product()
    return {"each": (settled() - before) / n}


def of_buffers(dtype: str, most: int) -> dict[str, float]:
    """MB that stay after products of up to ``most`` rows, after one of eight."""

    def product(n: int) -> None:
        x = torch.ones(n, n, dtype=getattr(torch, dtype))
        for a, b in ((x, x), (x.T, x), (x, x.T)):
            torch.mm(a, b)

    without_gaps()
    product(8)
    before = settled()
    for n in (16, 64, 128, 256, 512, 1024, 2048, 3000):
        if n <= most:
            product(n)
    return {"all": settled() - before}


def libraries() -> list[str]:
    """Lines of a table: what stays of products alone."""
    lines = ["| products | stays, MB |", "|---|---|"]
    for kind in ("matrices", "linear with a bias", "batches of matrices"):
        lines.append(f"| bfloat16, {kind}: each of 40 sizes | {apart(of_code, kind)['each']:.2f} |")
    for dtype in ("float32", "float64"):
        for most in (512, 3000):
            found = apart(of_buffers, dtype, most)["all"]
            lines.append(f"| {dtype}, all of up to {most:,} rows | {found:.1f} |")
    return lines


def train(run: Run) -> None:
    """Three updates."""
    data = CategoricalData(blank(run.batch, run.L, False).x_1)
    Trainer(
        objective(run), data, max_steps=3, batch_size=run.batch, accumulation=run.accumulation, optimizer=AdamW(),
        precision=run.precision, recompute=run.recompute, accelerator="cpu", progress=False, log_every=3,
    ).fit()  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="also write this file's .md and .json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines, found = [], []
    for run in RUNS:
        plan, real, gaps = planned(run), *(apart(measured, run, gaps)["total"] for gaps in (False, True))
        parts = ", ".join(f"{name} {size:.0f}" for name, size in plan.items() if size and name != "total")
        missing = f"{real - plan['total']:.0f} | {plan['total'] / real - 1:+.1%}"
        lines.append(f"| {run.title} | {parts} | {plan['total']:.0f} | {real:.0f} | {missing} | {gaps:.0f} |")
        found.append({"run": run.title, "planned": plan, "measured": real, "measured_with_gaps": gaps})
        print(lines[-1], flush=True)
    alone = libraries()
    print(*alone, sep="\n", flush=True)
    if options.out:
        setting = (f"`python bench/planner.py`, {time.strftime('%Y-%m-%d')}, commit {commit()}, one core of an "
                   f"{platform.machine()} CPU, torch {torch.__version__}, seed 0; three updates each, peak of the "
                   "resident set above that before the model")  # fmt: skip
        head = ["| training | planned, MB | planned in all | measured | missing | error | with glibc's gaps |",
                "|---|---|---|---|---|---|---|"]  # fmt: skip
        text = ["# The memory of a training, planned and measured", "", setting + ".", "", *head, *lines, "", *alone]
        write_text(options.out.with_suffix(".md"), "\n".join(text) + "\n")
        write_json(options.out.with_suffix(".json"), {"setting": setting, "runs": found})


if __name__ == "__main__":
    main()
