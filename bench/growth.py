"""How time and memory of a training step grow with the alphabet K, the length L, the width and the chunk.

    python bench/growth.py --out bench/results/growth

One thread; each point in a process of its own, forked after everything is loaded. Time is processor time of forward and
backward pass, the least of some after one that does not count. Memory is the highest resident set during a step minus
that of the loaded model: activations, logits and gradients. The exponent of a curve is the slope of its logarithms,
over all points and between the last two; where a constant is part of a sum, it is below the true one.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from flowmaps import Batch
from flowmaps.data.text_known import blank
from flowmaps.files import replacing, write_json, write_text
from flowmaps.networks import Transformer, use_backend
from flowmaps.objectives import Lagrangian, SelfDistillation, SemigroupKL
from flowmaps.tasks.text import build_map
from records import commit, remarks
from text_memory import ALLOCATOR, forget_peak, resident

OBJECTIVES = {"PSD-KL": SemigroupKL, "LSD": Lagrangian}


class Point(NamedTuple):
    """The sizes of one step."""

    objective: str = "PSD-KL"
    K: int = 1000
    L: int = 64
    width: int = 64
    chunk: int | None = 64
    attention: bool = True
    batch: int = 2


class Curve(NamedTuple):
    """Points that differ by one size."""

    title: str
    along: str
    points: list[Point]


def curves() -> Iterator[Curve]:
    """What is measured."""
    for name in OBJECTIVES:
        points = [Point(name, K=K) for K in (5_000, 15_000, 50_000, 150_000)]
        yield Curve(f"{name}, alphabet", "K", points)
    for name in OBJECTIVES:
        yield Curve(f"{name}, length", "L", [Point(name, L=L) for L in (128, 256, 512, 1024, 2048)])
    points = [Point("LSD", L=L, attention=False) for L in (128, 256, 512, 1024, 2048)]
    yield Curve("LSD, length, attention left out", "L", points)
    yield Curve("LSD, width", "width", [Point("LSD", width=width) for width in (64, 128, 256, 512, 1024)])
    points = [Point(K=50_000, L=128, width=32, chunk=chunk) for chunk in (16, 32, 64, 128)]
    yield Curve("PSD-KL, chunk at K = 50,000, L = 128", "chunk", points)
    points = [Point(K=50_000, L=L, width=32, chunk=16) for L in (32, 64, 128, 256)]
    yield Curve("PSD-KL, length at K = 50,000 in chunks of 16", "L", points)
    points = [Point(K=50_000, L=L, width=32, chunk=None) for L in (32, 64, 128)]
    yield Curve("PSD-KL, length at K = 50,000 without chunks", "L", points)


def nothing(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention left out: every position reads itself."""
    return v


def measured(point: Point, steps: int) -> dict[str, float]:
    """Processor seconds and MiB of a step."""
    torch.manual_seed(0)
    network = partial(Transformer, width=point.width, depth=2, heads=2, reach=2)
    flow_map = build_map(point.K, network, embedding=point.width, chunk=point.chunk)
    if not point.attention:
        use_backend(flow_map, nothing)
    objective = SelfDistillation(flow_map, OBJECTIVES[point.objective](), share=0.5)
    return repeated(objective, blank(point.batch, point.L, given=False), steps)


def repeated(objective: SelfDistillation, batch: Batch, steps: int) -> dict[str, float]:
    """Processor seconds and MiB of a step, of several after one that does not count."""
    seconds, memory = [], []
    for step in range(steps + 1):
        objective.zero_grad(set_to_none=True)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = resident()
        forget_peak()
        begun = time.process_time()
        objective(batch, objective.draw(batch, torch.Generator().manual_seed(step)))["loss"].backward()
        seconds.append(time.process_time() - begun)
        memory.append(resident("VmHWM") - before)
    return {"seconds": min(seconds[1:]), "slowest": max(seconds[1:]), "mib": max(memory[1:])}


def apart(function: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """What a function finds in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, json.dumps(function(*arguments)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def exponents(x: list[float], y: list[float]) -> tuple[float, float]:
    """The slope of log y over log x: by least squares, and between the last two points."""
    a, b = [math.log(v) for v in x], [math.log(v) for v in y]
    p, q = sum(a) / len(a), sum(b) / len(b)
    slope = sum((u - p) * (v - q) for u, v in zip(a, b, strict=True)) / sum((u - p) ** 2 for u in a)
    return slope, (b[-1] - b[-2]) / (a[-1] - a[-2])


def rows(steps: int) -> Iterator[dict]:
    for curve in curves():
        found = [apart(measured, point, steps) for point in curve.points]
        x = [getattr(point, curve.along) for point in curve.points]
        row = {"title": curve.title, "along": curve.along, "x": x, "points": found}
        for name in ("seconds", "mib"):
            row[f"exponents_{name}"] = exponents(x, [point[name] for point in found])
        print(line(row), flush=True)
        yield row


def line(row: dict) -> str:
    time_, memory = row["exponents_seconds"], row["exponents_mib"]
    seconds = ", ".join(f"{point['seconds']:.2f}" for point in row["points"])
    mib = ", ".join(f"{point['mib']:.0f}" for point in row["points"])
    sizes = ", ".join(f"{x:,}" for x in row["x"])
    return (f"| {row['title']} | {row['along']} = {sizes} | {seconds} | {time_[0]:.2f}, **{time_[1]:.2f}** | {mib} "
            f"| {memory[0]:.2f}, **{memory[1]:.2f}** |")  # fmt: skip


def drawn(found: list[dict], path: Path) -> None:
    """Time and memory over the sizes, logarithmic."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(15, 6.5), layout="constrained")
    groups = {"K": [], "L": [], "width": [], "chunk or K = 50,000": []}
    for row in found:
        groups["chunk or K = 50,000" if "50,000" in row["title"] else row["along"]].append(row)
    for column, (title, members) in enumerate(groups.items()):
        for row in members:
            for axis, name in zip(axes[:, column], ("seconds", "mib"), strict=True):
                label = f"{row['title']}: {row[f'exponents_{name}'][1]:.2f}"
                axis.loglog(row["x"], [point[name] for point in row["points"]], "o-", label=label)
        for axis, name in zip(axes[:, column], ("processor seconds", "MiB"), strict=True):
            axis.set_xlabel(title)
            axis.set_ylabel(f"{name} of a step")
            sizes = sorted({x for row in members for x in row["x"]})
            axis.set_xticks(sizes, [f"{x:,}" for x in sizes], fontsize=7)
            axis.set_xticks([], minor=True)
            axis.legend(fontsize=7, title="last exponent", title_fontsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="steps a point that count")
    parser.add_argument("--out", type=Path, help="also write this file's .md, .json and .png")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    torch.set_num_threads(1)
    found = list(rows(options.steps))
    if options.out:
        setting = (f"`python bench/growth.py`, {time.strftime('%Y-%m-%d')}, commit {commit()}, one core of an "
                   f"{platform.machine()} CPU, torch {torch.__version__}, float32, seed 0; transformer of depth 2, "
                   "embedded states; the least of " f"{options.steps} steps")  # fmt: skip
        head = ["| | sizes | processor s a step | exponent: all, **last** | MiB a step | exponent: all, **last** |",
                "|---|---|---|---|---|---|"]  # fmt: skip
        text = ["# How a training step grows", "", setting + ".", "", *head, *map(line, found), "",
                "![Time and memory of a step](growth.png)"]  # fmt: skip
        page = options.out.with_suffix(".md")
        write_text(page, "\n".join(text) + "\n" + remarks(page))
        write_json(options.out.with_suffix(".json"), {"setting": setting, "curves": found})
        drawn(found, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
