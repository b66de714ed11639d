r"""What one micro-batch costs, found by running the objective itself on tensors that have sizes but no memory.

.. math:: \text{peak} = \max_n \sum_{i \text{ alive after operation } n} \text{bytes}_i

Every operation of the forward and of the backward pass is seen, so chunks, teachers, derivatives and precision count as
they are, in any network. What is not seen is what a kernel takes for itself while it runs, and what an allocator loses.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import addmm_flop, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ..fields import Batch, parts
from ..objectives import Objective
from ..train.tensors import memory_of

aten = torch.ops.aten
MATRICES = (aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm)
ACTIVATIONS, LOGITS, CASTS, GRADIENTS = KINDS = ("activations", "logits", "casts", "gradients")


class Trace(NamedTuple):
    """What a micro-batch takes besides weights, moments and averages.

    Arguments:
        flops: Operations of its products, forward and backward, two for a multiplication with its addition.
        forward: Those of the forward pass, with its teachers and derivatives.
        kept: Bytes alive between the two passes.
        passing: Bytes of each kind at the peak if a gradient leaves when it is complete, as where it is added to an
            older one or goes to shards.
        staying: Bytes of each kind at the peak if gradients stay.
        moments: Bytes that the optimiser keeps.
        stepping: Bytes that it takes for the length of a step.
        halves: Different products of matrices in bfloat16, by operation, shapes and strides.
        widest: Bytes of a number in the widest product of matrices.
    """

    flops: int
    forward: int
    kept: int
    passing: Mapping[str, int]
    staying: Mapping[str, int]
    moments: int
    stepping: int
    halves: int
    widest: int


def traced(
    objective: Objective,
    batch: Batch,
    optimizer: Callable[[nn.Module], Optimizer],
    half: bool = False,
    cast_before: Iterable[nn.Parameter] = (),
) -> Trace:
    """One micro-batch of an objective, and the step that follows it.

    Arguments:
        objective: In training; its weights may lie on the meta device, and do afterwards.
        batch: Examples of the sizes that count, whatever they hold.
        optimizer: Of the objective's trainable weights.
        half: Layers compute in bfloat16, as under ``precision="bf16-mixed"``.
        cast_before: Weights that come in half precision already: copies of them are ``casts`` and not activations.
    Invariant: equals the allocations of a real step within 2 % (``tests/planning``); what a process takes besides is
        measured by ``bench/planner.py``.
    """
    names = {id(p): name for name, p in objective.named_parameters()}
    cast = {names[id(p)] for p in cast_before}
    for cached in (True, False):  # forward mode of a view fails in the cache of torch 2.13; without it is slower
        mode = FakeTensorMode()
        mode.cache_enabled = cached
        try:
            with mode, _Unread():
                _move(objective, "cpu")
                return _run(objective, tree_map_only(Tensor, mode.from_tensor, batch), optimizer, half, cast)
        except RuntimeError as error:
            if not cached or "has_fw_view" not in str(error):
                raise
        finally:
            _move(objective, "meta")
    raise AssertionError("the second attempt returns or raises")


def _move(module: nn.Module, device: str) -> None:
    """Give all weights and buffers the same sizes on another device, in place and without values."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, old in tensors.items():
                if old is not None:
                    new = made.get(id(old))
                    if new is None:
                        new = torch.empty(old.shape, dtype=old.dtype, device=device)
                        made[id(old)] = nn.Parameter(new, old.requires_grad) if tensors is part._parameters else new
                    tensors[name] = made[id(old)]  # pyright: ignore[reportArgumentType]  (a parameter for a parameter)


def _run(
    objective: Objective, batch: Batch, optimizer: Callable[[nn.Module], Optimizer], half: bool, cast: set[str]
) -> Trace:
    stepper = optimizer(objective)
    ledger = _Ledger(objective, batch, cast)
    with ledger:
        draw = objective.draw(batch, torch.Generator())
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = objective(batch, draw)["loss"]
        forward, between = ledger.flops, len(ledger.events)
        loss.backward()
        del loss, draw
        flops, before = ledger.flops, len(ledger.events)
        stepper.step()
    alive, most = ledger.curve(before)
    kept = ledger.alive(between)
    return Trace(
        flops, forward, sum(kept.values()), ledger.peak(before, True), ledger.peak(before, False),
        moments=alive, stepping=most - alive, halves=len(ledger.halves), widest=ledger.widest,
    )  # fmt: skip


class _Unread(TorchFunctionMode):
    """Questions after values, such as whether data fit an alphabet, are answered without them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in (Tensor.__int__, Tensor.item):
            return int(func is Tensor.item)  # the number of a first update, which optimisers divide by, is 1
        return False if func is Tensor.__bool__ else func(*args, **(kwargs or {}))


class _Ledger(TorchDispatchMode):
    """Which memory is born and dies at which operation, and how many products are computed.

    Arguments:
        objective, batch: What has its memory before.
        cast: Names of the weights whose copies have a kind of their own.
    """

    def __init__(self, objective: Objective, batch: Batch, cast: set[str]):
        super().__init__()
        self.flops = self.widest = 0
        self.halves: set[tuple[object, ...]] = set()
        self.sizes: list[int] = [0]  # of all memory, by number; 0 stands for what was there before
        self.kinds: list[str] = [ACTIVATIONS]
        self.events: list[int] = []  # the number of what was born, or minus that of what died
        self.complete: dict[int, int] = {}  # the event at which a gradient was
        self.number: dict[int, int] = {}
        there = [*objective.parameters(), *objective.buffers(), *(x for x in tree_leaves(batch) if torch.is_tensor(x))]
        for tensor in there:
            self.number[memory_of(tensor)] = 0
        self.cast = {memory_of(p) for name, p in objective.named_parameters() if name in cast}
        self.alphabets = {size for size in parts(objective.flow_map.space.sizes()) if size is not None}
        for parameter in objective.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._completed)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        self.flops += products(func, args, kwargs or {}, out)
        if getattr(func, "overloadpacket", None) in MATRICES:
            self._multiplied(func, [x for x in args if torch.is_tensor(x)])
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and memory_of(tensor) not in self.number:
                self._born(func, args, tensor)
        return out

    def _multiplied(self, func: Callable[..., Any], factors: Sequence[Tensor]) -> None:
        self.widest = max(self.widest, *(x.element_size() for x in factors))
        if all(x.dtype is torch.bfloat16 for x in factors):
            # torch computes also with tangents that are zero, and lays them out for it
            laid = [x.stride() if any(x.stride()) else torch.empty(x.shape, device="meta").stride() for x in factors]
            self.halves.add((func, *((tuple(x.shape), *stride) for x, stride in zip(factors, laid, strict=True))))

    def _born(self, func: Callable[..., Any], args: tuple[Any, ...], tensor: Tensor) -> None:
        storage, number = tensor.untyped_storage(), len(self.sizes)
        kind = LOGITS if tensor.ndim > 1 and tensor.shape[-1] in self.alphabets else ACTIVATIONS
        if func is aten._to_copy.default and memory_of(args[0]) in self.cast:
            kind = CASTS
        self.sizes.append(0 if func is aten._efficientzerotensor.default else storage.nbytes())  # a zero has no memory
        self.kinds.append(kind)
        self.number[memory_of(tensor)] = number
        self.events.append(number)
        weakref.finalize(storage, self._died, memory_of(tensor), number)

    def _died(self, key: int, number: int) -> None:
        self.number.pop(key, None)
        self.events.append(-number)

    def _completed(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        number = self.number[memory_of(parameter.grad)]
        self.kinds[number] = GRADIENTS
        self.complete[number] = len(self.events)

    def peak(self, end: int, passing: bool) -> dict[str, int]:
        """Bytes of each kind when most were alive, before event ``end``."""
        return max(self._course(end, passing), key=lambda alive: sum(alive.values()), default=dict.fromkeys(KINDS, 0))

    def alive(self, end: int) -> dict[str, int]:
        """Bytes of each kind alive at event ``end``."""
        return list(self._course(end, passing=True))[-1]

    def _course(self, end: int, passing: bool) -> Iterator[dict[str, int]]:
        alive: dict[str, int] = dict.fromkeys(KINDS, 0)
        leaving: dict[int, list[int]] = {}
        if passing:
            for number, event in self.complete.items():
                leaving.setdefault(event, []).append(number)
        for place, event in enumerate(self.events[:end]):
            for number in leaving.get(place, ()):
                alive[self.kinds[number]] -= self.sizes[number]
            if event > 0:
                alive[self.kinds[event]] += self.sizes[event]
                yield dict(alive)
            elif not (passing and -event in self.complete):
                alive[self.kinds[-event]] -= self.sizes[-event]
        yield dict(alive)

    def curve(self, begin: int) -> tuple[int, int]:
        """Bytes that were added since event ``begin``: in the end, and at most."""
        now = most = 0
        for event in self.events[begin:]:
            now += self.sizes[event] if event > 0 else -self.sizes[-event]
            most = max(most, now)
        return now, most


def products(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: object) -> int:
    """Operations of a matrix product, a convolution or an attention; 0 for all else."""
    packet = getattr(func, "overloadpacket", None)
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=out)
    if packet is aten.addmm_:
        return addmm_flop(*(x.shape for x in args[:3]))
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        return sdpa_flop_count(*(x.shape for x in args[:3]))
    if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return sdpa_backward_flop_count(*(x.shape for x in args[:4]))
    return 0
