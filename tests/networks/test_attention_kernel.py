"""The kernels of Triton against the tiles of PyTorch: on an accelerator, or on a CPU by Triton's interpreter,

pip install triton; TRITON_INTERPRET=1 pytest tests/networks/test_attention_kernel.py
"""

import os
from importlib.util import find_spec

import pytest
import torch

from flowmaps.networks import attention_pair

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which torch for accelerators brings")
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")


def rows(queries: int, keys: int, d: int, e: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v and their tangents, not contiguous; then g and h. Tangents of keys are far from 0, so those of scores."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(queries, d), (keys, d), (keys, e)] * 2 + [(queries, e)] * 2
    made = [torch.randn(2, n, 3, dim, generator=generator).transpose(1, 2) for n, dim in sizes]
    made[4] += 5
    return [x.to(dtype) for x in made]


def evaluated(inputs, mask, through_tangent: bool):
    leaves = [x.detach().requires_grad_() for x in inputs[:6]]
    y, dy, statistics = attention_pair.pair(*leaves, mask)
    g, h = inputs[6:]
    loss = (g * y).sum() + (h * dy if through_tangent else dy.detach()).sum()
    return y, dy, statistics, *torch.autograd.grad(loss, leaves[: 6 if through_tangent else 3])


DEVICES = [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)]
CASES = [
    (40, 70, 8, 20, torch.float32, 2e-6),  # no multiple of a block, and dims that are no power of 2
    (33, 33, 16, 16, torch.float16, 3e-3),
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("through_tangent", [False, True])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("queries, keys, d, e, dtype, most", CASES)
def test_results_and_gradients_are_those_of_tiles(
    monkeypatch, device, queries, keys, d, e, dtype, most, through_tangent, masked
):
    inputs, mask = rows(queries, keys, d, e, dtype), None
    if masked:
        mask = torch.rand(2, keys, generator=torch.Generator().manual_seed(1)) > 0.3
        mask[0], mask[:, -1] = False, True  # one sample sees its last key alone, which is in a later block
    monkeypatch.setattr(attention_pair, "_on_kernels", lambda q, v: True)
    ours = evaluated([x.to(device) for x in inputs], None if mask is None else mask.to(device), through_tangent)
    monkeypatch.undo()
    exact = evaluated([x.double() for x in inputs], mask, through_tangent)
    for one, true in zip(ours, exact, strict=True):
        assert (one.cpu().double() - true).abs().max() <= most * true.abs().max().clamp(min=1)
    assert ours[0].dtype == ours[3].dtype == dtype and ours[2].dtype == torch.float32
