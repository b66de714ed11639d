"""Activations that are computed anew in the backward pass rather than kept, also where a tangent is carried along.

PyTorch's own checkpointing fails inside ``torch.func.jvp``: it would compute anew in a backward pass in which the level
of the derivative is gone. Here what enters and leaves a block are plain pairs (h, dh), and the derivative is inside.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.func import functional_call, jvp
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

Run = Callable[..., tuple[Tensor, ...]]


class Conditions(NamedTuple):
    """What the second evaluation must share with the first: random numbers and precision."""

    random: Tensor
    autocast: torch.dtype | None
    device: str

    @staticmethod
    def now(device: torch.device) -> Conditions:
        random = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
        half = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        return Conditions(random, half, device.type)

    def again(self) -> AbstractContextManager:
        (torch.cuda if self.device == "cuda" else torch).set_rng_state(self.random)
        return nullcontext() if self.autocast is None else torch.autocast(self.device, self.autocast)


class _Anew(torch.autograd.Function):
    """``run(*tensors)``, of which only the tensors are kept."""

    @staticmethod
    def forward(run: Run, conditions: Conditions, *tensors: Tensor) -> tuple[Tensor, ...]:
        return run(*tensors)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # noqa: ANN001  (as torch calls it)
        ctx.run, ctx.conditions = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):  # noqa: ANN001, ANN205  # pyright: ignore[reportIncompatibleMethodOverride]  (as torch calls it)
        needed = ctx.needs_input_grad[2:]
        tensors = [t.detach().requires_grad_(need) for t, need in zip(ctx.saved_tensors, needed, strict=True)]
        devices = [tensors[0].device] if ctx.conditions.device == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad(), ctx.conditions.again():
            results = ctx.run(*tensors)
        asked = [t for t, need in zip(tensors, needed, strict=True) if need]
        pairs = [(r, g) for r, g in zip(results, gradients, strict=True) if g is not None and r.requires_grad]
        values, weights = [r for r, _ in pairs], [g for _, g in pairs]
        found = iter(torch.autograd.grad(values, asked, weights, allow_unused=True))
        return None, None, *(next(found) if need else None for need in needed)


class _Recomputed(nn.Module):
    """A block that keeps what enters it, and none of what it computes."""

    plain: type[nn.Module]

    def forward(self, *arguments: object, **named: object) -> object:
        weights = dict(self.named_parameters())
        if not torch.is_grad_enabled() or not any(w.requires_grad for w in weights.values()):
            return super().forward(*arguments, **named)
        flat, form = tree_flatten((arguments, named))
        places = [i for i, part in enumerate(flat) if isinstance(part, Tensor)]
        given, rest = [flat[i] for i in places], [None if isinstance(part, Tensor) else part for part in flat]
        bare, forms = self._bare(), list[TreeSpec]()

        def call(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, ...]:
            parts = list(rest)
            for i, tensor in zip(places, tensors, strict=True):
                parts[i] = tensor
            arguments, named = tree_unflatten(parts, form)
            found, made = tree_flatten(functional_call(bare, dict(zip(weights, values, strict=True)), arguments, named))
            forms.append(made)
            return tuple(found)

        results = _evaluated(call, given, list(weights.values()))
        return tree_unflatten(results, forms[0])

    def _bare(self) -> nn.Module:
        """The plain block with the same weights, and without hooks, which have had their turn."""
        bare = self.plain.__new__(self.plain)
        bare.__dict__.update(self.__dict__)
        bare._forward_pre_hooks, bare._forward_hooks = OrderedDict(), OrderedDict()
        return bare


def _evaluated(
    call: Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]], given: list[Tensor], weights: list[Tensor]
) -> list[Tensor]:
    """``call(given, weights)``, where what is given may carry tangents."""
    pairs, k = [forward_ad.unpack_dual(tensor) for tensor in given], len(given)
    moved = [i for i, pair in enumerate(pairs) if pair.tangent is not None]
    n = k + len(moved)

    def value(*everything: Tensor) -> tuple[Tensor, ...]:
        return call(everything[:k], everything[k:])

    def value_and_tangent(*everything: Tensor) -> tuple[Tensor, ...]:
        def along(*points: Tensor) -> tuple[Tensor, ...]:
            parts = list(everything[:k])
            for i, point in zip(moved, points, strict=True):
                parts[i] = point
            return call(parts, everything[n:])

        values, tangents = jvp(along, tuple(everything[i] for i in moved), everything[k:n])[:2]
        return (*values, *tangents)

    primals, tangents = [pair.primal for pair in pairs], [pairs[i].tangent for i in moved]
    conditions = Conditions.now(weights[0].device)
    results = _Anew.apply(value_and_tangent if moved else value, conditions, *primals, *tangents, *weights)
    if not moved:
        return list(results)
    half = len(results) // 2
    return [forward_ad.make_dual(*pair) for pair in zip(results[:half], results[half:], strict=True)]


def recompute(block: nn.Module) -> None:
    r"""From now on a block keeps what enters it for the backward pass, and none of what it computes.

    .. math:: (h, \dot h) \mapsto \big(f(h),\; \partial f(h)\, \dot h\big) \text{ is evaluated twice}

    Gradients are the same, through values and through tangents; memory is that of one block at a time, and an update
    takes about a third more time.

    Arguments:
        block: A module that returns tensors.
    Invariant: values, tangents and their gradients are those of the plain block (``tests/test_recomputing.py``).
    Reference: Chen et al. 2016, *Training deep nets with sublinear memory cost*, arXiv 1604.06174.
    """
    plain = type(block)
    block.__class__ = type(f"Recomputed{plain.__name__}", (_Recomputed, plain), {"plain": plain})
