"""Processor time of plain and fused attention, forward and with its gradient: ``python bench/attention.py``."""

import time

import torch

from flowmaps.networks.attention import fused, plain

SIZES = (
    (64, 4, 64, 32),
    (32, 4, 128, 32),
    (16, 6, 256, 32),
    (64, 8, 9, 32),
    (4, 6, 1024, 32),
)  # batch, heads, length, dim
REPEATS = 8


def milliseconds(backend, size: tuple[int, ...], dtype: torch.dtype, gradient: bool) -> float:
    """Processor time of one call, after two that do not count."""
    torch.manual_seed(0)
    qkv = [torch.randn(size, dtype=dtype, requires_grad=gradient) for _ in range(3)]

    def once() -> None:
        y = backend(*qkv)
        if gradient:
            y.sum().backward()

    for _ in range(2):
        once()
    begun = time.process_time()
    for _ in range(REPEATS):
        once()
    return (time.process_time() - begun) / REPEATS * 1e3


def main() -> None:
    torch.set_num_threads(1)
    print("| dtype | batch, heads, length, dim | plain, ms | fused, ms | plain, with gradient | fused, with gradient |")
    print("|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for size in SIZES:
            row = [milliseconds(f, size, dtype, gradient) for gradient in (False, True) for f in (plain, fused)]
            print(f"| {str(dtype)[6:]} | {size} | " + " | ".join(f"{x:.1f}" for x in row) + " |")


if __name__ == "__main__":
    main()
