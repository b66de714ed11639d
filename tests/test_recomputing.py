"""Blocks that compute anew have the values, tangents and gradients of plain ones, and keep less."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from flowmaps.fields import Batch
from flowmaps.recomputing import recompute
from flowmaps.train.strategy import blocks_of
from train.sharded import KINDS, distilled, texts
from train.toys import LeastSquares, trainer


def evaluated(objective, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """The loss, its gradient, and how many numbers are kept between them, weights among them."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(batch, objective.draw(batch, torch.Generator().manual_seed(0)))["loss"]
    loss.backward()
    return loss, [p.grad for p in objective.parameters() if p.grad is not None], kept


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_plain_blocks(kind):
    plain = distilled(kind, width=32, depth=5).double()
    lean = copy.deepcopy(plain)
    for block in blocks_of(lean.flow_map):
        recompute(block)
    lean = copy.deepcopy(lean)
    batch = texts(0).batch(torch.arange(16))
    (loss, gradient, kept), (found, other, kept_lean) = (evaluated(o, batch) for o in (plain, lean))
    torch.testing.assert_close(found, loss, rtol=1e-12, atol=0)
    assert len(gradient) == len(other) and max(g.abs().max() for g in gradient) > 0.1
    for one, two in zip(gradient, other, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-11)
    assert kept_lean < 0.4 * kept
    assert plain.state_dict().keys() == lean.state_dict().keys()


class Pair(nn.Module):
    """A block of two streams with dropout, one of them through a named argument, and a flag that is no tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.dropout = nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, h, scale: float, *, e):
        return self.dropout(torch.tanh(self.a(h) * scale + e)), {"e": self.b(e).sin()}


@pytest.mark.parametrize("moved", ["h", "e", "both"])
def test_dropout_several_results_and_tangents_of_some_inputs(moved):
    torch.manual_seed(0)
    plain = Pair().double()
    lean = copy.deepcopy(plain)
    recompute(lean)
    h, e, dh, de = torch.randn(4, 3, 4, dtype=torch.double)
    h.requires_grad_()

    def value_and_tangent(block: Pair) -> list[torch.Tensor]:
        torch.manual_seed(1)
        f = {
            "h": lambda h: block(h, 2.0, e=e),
            "e": lambda e: block(h, 2.0, e=e),
            "both": lambda h, e: block(h, 2.0, e=e),
        }
        points = {"h": ((h,), (dh,)), "e": ((e,), (de,)), "both": ((h, e), (dh, de))}
        (a, b), (da, db) = torch.func.jvp(f[moved], *points[moved])[:2]
        torch.manual_seed(7)  # what happens in between changes nothing
        results = [a, b["e"], da, db["e"]]
        loss = torch.stack([r.square().sum() for r in results]).sum()
        return [*results, *torch.autograd.grad(loss, [*block.parameters(), h])]

    for one, two in zip(value_and_tangent(plain), value_and_tangent(lean), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-12)


def test_without_gradients_or_in_half_precision_it_is_the_plain_block():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    lean = copy.deepcopy(plain)
    recompute(lean)
    h = torch.randn(3, 4)
    with torch.no_grad():
        assert torch.equal(plain(h), lean(h))
    gradients = []
    for block in (plain, lean):
        with torch.autocast("cpu", torch.bfloat16):
            value = block(h)
        assert value.dtype == torch.bfloat16
        value.float().square().sum().backward()
        gradients.append([p.grad for p in block.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert one is not None and torch.equal(one, two)


def test_the_trainer_refuses_what_has_no_blocks_and_the_compiler():
    with pytest.raises(ValueError, match="have no blocks; leave it out"):
        trainer(None, LeastSquares(), recompute=True).fit()
    with pytest.raises(ValueError, match="recompute hides blocks from the compiler"):
        trainer(None, LeastSquares(), recompute=True, compile=True)
