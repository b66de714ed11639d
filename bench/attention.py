r"""What attention costs on a CPU, by itself and within training steps.

    python bench/attention.py kernels     # plain and fused attention, forward and with its gradient
    python bench/attention.py tangents    # value, tangent and the gradient of both: plain, compiled, in pairs
    python bench/attention.py steps       # steps of each objective against steps of the diagonal loss

One thread; times are processor time, the least of some calls after one or two that do not count. Each step runs in a
process of its own; its memory is the highest resident set during a step minus that of the loaded model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from flowmaps.data.text_known import blank
from flowmaps.networks import Transformer, use_backend
from flowmaps.networks.attention import Backend, automatic, fused, paired, plain
from flowmaps.objectives import Eulerian, Lagrangian, SelfDistillation, Semigroup
from flowmaps.tasks.text import build_map
from growth import apart, repeated

SIZES = (
    (64, 4, 64, 32),
    (32, 4, 128, 32),
    (16, 6, 256, 32),
    (64, 8, 9, 32),
    (4, 6, 1024, 32),
)  # batch, heads, length, dim
OBJECTIVES = {"diagonal": None, "LSD": Lagrangian, "ESD": Eulerian, "PSD": Semigroup}
BATCH, SHARE = 4, 0.75
REPEATS = 8


def milliseconds(once: Callable[[], None], repeats: int = REPEATS) -> float:
    """Processor time of the fastest call, after two that do not count."""
    times = []
    for _ in range(repeats + 2):
        begun = time.process_time()
        once()
        times.append(time.process_time() - begun)
    return min(times[2:]) * 1e3


def table(header: list[str], rows: Iterator[list[object]]) -> None:
    """Print a table row by row."""
    print(f"| {' | '.join(header)} |", "|" + "---|" * len(header), sep="\n", flush=True)
    for row in rows:
        print("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row) + " |", flush=True)


def kernels() -> None:
    """Plain and fused attention without a tangent."""

    def call(backend: Backend, size: tuple[int, ...], dtype: torch.dtype, gradient: bool) -> Callable[[], None]:
        torch.manual_seed(0)
        qkv = [torch.randn(size, dtype=dtype, requires_grad=gradient) for _ in range(3)]

        def once() -> None:
            y = backend(*qkv, None)
            if gradient:
                y.sum().backward()

        return once

    def rows() -> Iterator[list[object]]:
        for dtype in (torch.float32, torch.bfloat16):
            for size in SIZES:
                each = [call(f, size, dtype, gradient) for gradient in (False, True) for f in (plain, fused)]
                yield [str(dtype)[6:], size, *map(milliseconds, each)]

    header = ["dtype", "batch, heads, length, dim", "plain, ms", "fused, ms"]
    table([*header, "plain, with gradient", "fused, with gradient"], rows())


def tangents(repeats: int = 3) -> None:
    """Attention in forward mode, with the gradient through value and tangent, or through the value alone."""

    def call(backend: Backend, inputs: list[Tensor], through: bool, compiled: bool = False) -> Callable[[], None]:
        def loss(*x: Tensor) -> Tensor:
            y, dy = torch.func.jvp(lambda *qkv: backend(*qkv, None), x[:3], x[3:])
            return (y * y).sum() + ((dy * dy).sum() if through else 0)

        loss = torch.compile(loss, fullgraph=True) if compiled else loss
        return lambda: torch.autograd.backward(loss(*inputs))

    def rows() -> Iterator[list[object]]:
        for dtype in (torch.float32, torch.bfloat16):
            for length in (32, 64, 128, 256, 1024):
                torch.manual_seed(0)
                x = [torch.randn(2, 4, length, 32, dtype=dtype, requires_grad=True) for _ in range(6)]
                diagonal = lambda x=x: fused(*x[:3]).square().sum().backward()  # noqa: E731
                calls = [diagonal, call(plain, x, True), call(paired, x, True), call(plain, x, False)]
                row = [milliseconds(each, repeats) for each in [*calls, call(paired, x, False)]]
                whole = dtype == torch.float32 and length in (64, 1024)
                row.insert(2, milliseconds(call(plain, x, True, True), repeats) if whole else "")
                yield [str(dtype)[6:], length, *row]

    header = ["dtype", "length", "diagonal (fused), ms", "plain", "plain, compiled", "pairs"]
    table([*header, "plain, tangent detached", "pairs, tangent detached"], rows())


def step(name: str, length: int, backend: Backend, repeats: int) -> dict[str, float]:
    """Processor seconds and MiB of a step."""
    torch.manual_seed(0)
    flow_map = build_map(27, partial(Transformer, width=128, depth=2, heads=4))
    use_backend(flow_map, backend)
    consistency = OBJECTIVES[name]
    objective = SelfDistillation(flow_map, consistency and consistency(), share=SHARE if consistency else 1.0)
    return repeated(objective, blank(BATCH, length, given=False), repeats)


def steps(repeats: int = 4) -> None:
    """Every objective by plain products and by what is chosen, against the diagonal loss on as many rows.

    A step has a share of its rows on the diagonal, as by default; the last column is the ratio of the other rows alone.
    """

    def rows() -> Iterator[list[object]]:
        for length in (64, 256, 1024):
            base = 0.0
            for name in OBJECTIVES:
                for backend in (plain, automatic) if name in ("LSD", "ESD") else (automatic,):
                    found = apart(step, name, length, backend, repeats)
                    base = base or found["seconds"]
                    ratio = found["seconds"] / base
                    others = "" if name == "diagonal" else f"{(ratio - SHARE) / (1 - SHARE):.2f}"
                    times = f"{1e3 * found['seconds']:.0f} ({1e3 * found['slowest']:.0f})"
                    yield [length, name, backend.__name__, times, f"{ratio:.2f}", others, f"{found['mib']:.0f}"]

    header = ["length", "objective", "attention", "ms a step (slowest)", "ratio", "ratio of rows off the diagonal"]
    table([*header, "MiB a step"], rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kernels", "tangents", "steps"))
    what = parser.parse_args().what
    torch.set_num_threads(1)
    {"kernels": kernels, "tangents": tangents, "steps": steps}[what]()


if __name__ == "__main__":
    main()
