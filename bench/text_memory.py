r"""Dense states against embedded states with a chunked head, at large vocabularies: time and memory of a training step.

Dense is ``OneHot`` noise, path and map in K dimensions, a first layer Linear(K, width) and all logits at once. Embedded
keeps the state in ``width`` dimensions and reads the head chunk by chunk. Network, batch and objective are the same,
and so is the law of what the network sees. Each variant runs in a process of its own, so that peaks do not mix.

    python bench/text_memory.py --K 30522 50257 --out bench/results/text_memory

The memory of a step is the highest resident set during steps minus the resident set of the loaded model with its
optimiser state, gradients included; the time is the median of the steps after a warm-up. ``cpu_seconds`` is that of the
process, which other load on the machine hardly touches. By default glibc keeps freed blocks of up to 32 MiB and its
heap breaks into pieces, so both variants run with a fixed threshold (MALLOC_MMAP_THRESHOLD_), as one would train.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from flowmaps.data import CategoricalData
from flowmaps.maps import EndpointMap
from flowmaps.networks import LinearHead, Transformer
from flowmaps.objectives import (
    EndpointConsistency,
    EulerianKL,
    Lagrangian,
    LagrangianCE,
    LagrangianKL,
    SelfDistillation,
    SemigroupKL,
)
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Embedded, OneHot
from flowmaps.train import AdamW, Trainer

OBJECTIVES = {
    "LSD": Lagrangian,
    "PSD-KL": SemigroupKL,
    "LSD-CE": LagrangianCE,
    "LSD-KL": LagrangianKL,
    "ESD-KL": EulerianKL,
    "ECLD": EndpointConsistency,
    "diagonal": None,
}

SETTINGS = {
    "width": 256,
    "depth": 4,
    "batch": 8,
    "length": 128,
    "chunk": 64,
    "steps": 5,
    "threads": torch.get_num_threads(),
}
MEASURED = ("seconds", "cpu_seconds", "peak_mib")
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


def resident(field: str = "VmRSS") -> float:
    """Resident set in MiB, or its peak (``VmHWM``) since :func:`forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}; this bench needs Linux")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def build(variant: str, K: int, width: int, depth: int, chunk: int) -> EndpointMap:
    torch.manual_seed(0)
    embedded = variant == "embedded"
    network = Transformer(width if embedded else K, width, depth, heads=4, K=K)
    head = LinearHead(width, K)
    nn.init.normal_(head.weight, std=width**-0.5)
    space = Embedded(K, width) if embedded else OneHot(K)
    return EndpointMap(GeodesicPath(space), network, head, chunk if embedded else None)


class Moment(NamedTuple):
    """Clocks in seconds and memory in MiB at the end of an update."""

    wall: float
    processor: float
    resident: float
    peak: float


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and MiB of one variant, in this process."""
    torch.set_num_threads(arguments.threads)
    K = arguments.K[0]
    flow_map = build(arguments.variant, K, arguments.width, arguments.depth, arguments.chunk)
    consistency = OBJECTIVES[arguments.objective]
    objective = SelfDistillation(flow_map, consistency and consistency(), share=1.0 if consistency is None else 0.75)
    tokens = torch.randint(K, (arguments.batch, arguments.length), generator=torch.Generator().manual_seed(1))
    moments: list[Moment] = []

    def note(flow_map: nn.Module, step: int) -> dict[str, float]:
        """After each update; what came before the end of the first is the warm-up."""
        if step == 1:
            forget_peak()
        moments.append(Moment(time.perf_counter(), time.process_time(), resident(), resident("VmHWM")))
        return {}

    Trainer(
        objective,
        CategoricalData(tokens),
        evaluate=note,
        evaluate_every=1,
        max_steps=arguments.steps + 1,
        batch_size=arguments.batch,
        optimizer=AdamW(lr=1e-4),
        clip=None,
        ema=None,
        accelerator="cpu",
        progress=False,
    ).fit()
    first, last = moments[0], moments[-1]
    return {
        "seconds": statistics.median(b.wall - a.wall for a, b in pairwise(moments)),
        "cpu_seconds": statistics.median(b.processor - a.processor for a, b in pairwise(moments)),
        "loaded_mib": first.resident,
        "peak_mib": last.peak - first.resident,
        "parameters": sum(p.numel() for p in flow_map.parameters()),
    }


def in_own_process(arguments: argparse.Namespace, variant: str, objective: str, K: int) -> dict[str, float]:
    options = {name: getattr(arguments, name) for name in SETTINGS}
    command = [sys.executable, __file__, "--variant", variant, "--objectives", objective, "--K", str(K)]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=ALLOCATOR | os.environ).stdout
    return json.loads(output.splitlines()[-1])


def table(rows: list[dict]) -> str:
    names = ["K", "objective"]
    names += [f"{what} {v}".strip() for what in ("s/step", "CPU s/step", "MiB") for v in ("dense", "embedded", "ratio")]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [str(row["K"]), row["objective"]]
        for key in MEASURED:
            digits = 0 if key == "peak_mib" else 2
            cells += [f"{row[v][key]:.{digits}f}" for v in ("dense", "embedded")] + [f"**{row['ratio'][key]:.2f}**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def compare(arguments: argparse.Namespace) -> list[dict]:
    rows = []
    for K in arguments.K:
        for objective in arguments.objectives:
            result = {v: in_own_process(arguments, v, objective, K) for v in ("dense", "embedded")}
            ratio = {k: result["embedded"][k] / result["dense"][k] for k in MEASURED}
            rows.append({"K": K, "objective": objective, **result, "ratio": ratio})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=("dense", "embedded"), help=argparse.SUPPRESS)
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=["LSD", "PSD-KL"])
    parser.add_argument("--K", type=int, nargs="+", default=[30522, 50257])
    for name, value in SETTINGS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.variant:
        arguments.objective = arguments.objectives[0]
        print(json.dumps(measure(arguments)))
        return
    rows = compare(arguments)
    if arguments.out:
        hardware = f"{platform.machine()} CPU, {arguments.threads} threads, torch {torch.__version__}, float32"
        settings = {k: v for k, v in vars(arguments).items() if k not in ("variant", "out", "objectives", "K")}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        document = {"date": time.strftime("%Y-%m-%d"), "hardware": hardware, "settings": settings, "rows": rows}
        arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")
        note = ", ".join(f"{k} {v}" for k, v in settings.items())
        arguments.out.with_suffix(".md").write_text(f"{document['date']}, {hardware}; {note}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
