"""How weights are spread over processes: all that wraps an objective from outside, in a fixed order.

Blocks compute anew, layers in their precision, the compiler sees the whole, and the strategy spreads it; then come the
optimiser and the average of what lies on this process. An objective, a map and a network know nothing of it.
"""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..autodiff import ForwardMode
from ..ema import EMA
from ..fields import Batch
from ..maps import FlowMap
from ..networks.base import Network
from ..objectives import Objective
from ..recomputing import recompute
from .deferral import follow, is_deferred, put, settle
from .parallel import SHARDED, reduced
from .settings import Hardware, Plan
from .shards import is_spread, local, whole

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger("flowmaps.train")
BLOCKWISE = (2, 13)  # of torch: earlier ones fail in forward mode through blocks that are sharded one by one
Computed = Callable[[Batch, Any], dict[str, Tensor]]


class Wrapped(NamedTuple):
    """An objective in layers.

    Arguments:
        computed: In its precision; validation calls it.
        module: Also compiled, and spread over processes; updates call it.
        optimizer: Of the weights that lie on this process.
        stepper: The optimiser, as the strategy wants to step it.
        ema: The averaged map, spread as the map is.
    """

    computed: Mixed | Gathered | Objective
    module: Any
    optimizer: Optimizer
    stepper: Any
    ema: EMA[FlowMap] | None


class Mixed(nn.Module):
    """An objective whose layers compute in bfloat16, while what enters stays as it is.

    Near 1 bfloat16 has no times but 1 and .996, and noise of eight bits is no Gaussian: inputs are cast by the layers
    that want it, never before.
    """

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective = objective

    def draw(self, batch: Batch, generator: torch.Generator) -> object:
        return self.objective.draw(batch, generator)

    def forward(self, batch: Batch, draw: object) -> dict[str, Tensor]:
        with torch.autocast(next(self.objective.parameters()).device.type, torch.bfloat16):
            return self.objective(batch, draw)


class Gathered(nn.Module):
    """An objective whose weights outside of blocks are gathered before it draws or computes.

    Arguments:
        objective: In its precision.
        compute: The same, as the compiler makes it, for updates. Without gradients it is computed plainly: held-out
            batches differ in size, and torch 2.13 fails to compile forward mode for sizes that change.
    """

    def __init__(self, objective: Objective | Mixed, compute: Computed):
        super().__init__()
        self.objective = objective
        self.__dict__["compute"] = compute  # an attribute, not a submodule: weights have one name

    def draw(self, batch: Batch, generator: torch.Generator) -> object:
        cast("Any", self).unshard()  # ``fully_shard`` makes it a module that can; encoded data are read by weights
        return self.objective.draw(batch, generator)

    def forward(self, batch: Batch, draw: object) -> dict[str, Tensor]:
        return (self.__dict__["compute"] if torch.is_grad_enabled() else self.objective)(batch, draw)


class Strategy(ABC):
    """Where the weights of a run lie, and what has to be done otherwise because of it.

    Arguments:
        fabric: The devices, launched.
    """

    def __init__(self, fabric: Fabric):
        self.fabric = fabric

    @abstractmethod
    def wrap(self, plan: Plan) -> Wrapped:
        """Recomputing, then precision, compilation, the strategy, the optimiser and the average."""

    @abstractmethod
    def accumulating(self, module: nn.Module, more: bool) -> AbstractContextManager:
        """A block whose gradients are not exchanged yet, if there is ``more`` to come."""

    @abstractmethod
    def clip(self, wrapped: Wrapped, limit: float) -> Tensor:
        """Scale the gradient to a norm of at most ``limit``. Returns: its norm before, that of all processes."""

    @abstractmethod
    def rest(self, wrapped: Wrapped) -> None:
        """After computing without gradients: every weight is again where it lies between updates."""

    @abstractmethod
    def whole(self, flow_map: FlowMap) -> FlowMap:
        """A map with all weights on the first process; every process must call."""


class Whole(Strategy):
    """Every process has all weights: one device, or DDP."""

    def wrap(self, plan: Plan) -> Wrapped:
        settle(plan.objective, torch.device("cpu"))
        lean(plan.objective, plan)
        optimizer = plan.optimizer(plan.objective)
        computed = mixed(plan.objective, plan)
        module, stepper = self.fabric.setup(compiled(computed, plan), optimizer)  # Fabric compiles outside of DDP
        ema = None if plan.ema is None else EMA(plan.objective.flow_map, plan.ema)
        return Wrapped(computed, module, optimizer, stepper, ema)

    def accumulating(self, module: nn.Module, more: bool) -> AbstractContextManager:
        return self.fabric.no_backward_sync(cast("Any", module), enabled=more)

    def clip(self, wrapped: Wrapped, limit: float) -> Tensor:
        norm = self.fabric.clip_gradients(wrapped.module, wrapped.stepper, max_norm=limit, error_if_nonfinite=False)
        assert norm is not None
        return norm

    def rest(self, wrapped: Wrapped) -> None: ...

    def whole(self, flow_map: FlowMap) -> FlowMap:
        return flow_map


class Sharded(Strategy):
    r"""Every process has a part of each weight, of its gradient, average and moments (FSDP2).

    .. math:: \theta = (\theta^{(1)}, \dots, \theta^{(P)}), \qquad
              g^{(p)} = \frac1P \sum_q \nabla_{\theta^{(p)}} L_q

    The blocks of a network are gathered one by one, each while it computes, and the rest, which states, heads and
    losses read, for the length of an update. A map that was built without memory (``deferred``) is filled after it was
    sharded. Where that is not possible the root alone is sharded, and the log says
    why. Gradients are reduced in float32, also where blocks have their weights in bfloat16. Scalars are not sharded.

    Arguments:
        fabric: The devices, launched.
    Invariant: gradients, losses and weights are those of one process (``tests/train/test_sharded.py``).
    Reference: Zhao et al. 2023, *PyTorch FSDP: experiences on scaling fully sharded data parallel*, arXiv 2304.11277.
    """

    def __init__(self, fabric: Fabric):
        super().__init__(fabric)
        self.hollow: FlowMap | None = None  # the map without its weights
        self.alone: list[nn.Parameter] = []

    def wrap(self, plan: Plan) -> Wrapped:
        objective = plan.objective
        lean(objective, plan)
        if plan.precision == "64-true":
            settle(objective, torch.device("cpu"))  # what fills weights later knows them in float32
            objective.double()
        later = is_deferred(objective)
        if not later:
            self._begin_alike(objective)
        self.hollow = hollow(objective.flow_map)
        ema = None if plan.ema is None else EMA(objective.flow_map, plan.ema)
        computed = mixed(objective, plan)
        root = Gathered(computed, compiled(computed, plan))
        reason = why_not_blockwise(root, plan)
        blocks = {} if reason else blocks_of(root)
        self._tell(reason, len(blocks))
        self._shard(root, bool(blocks), plan)
        if ema is not None:
            self._shard(ema.copy, bool(blocks), plan)
        if later:
            self._settle(objective, self.hollow, ema)
        self.alone = [p for p in objective.parameters() if p.requires_grad and not is_spread(p)]
        optimizer = plan.optimizer(objective)
        _apart(optimizer)
        return Wrapped(root, root, optimizer, optimizer, ema)

    def accumulating(self, module: nn.Module, more: bool) -> AbstractContextManager:
        cast("Any", module).set_requires_gradient_sync(not more)
        return nullcontext()

    @torch.no_grad()
    def clip(self, wrapped: Wrapped, limit: float) -> Tensor:
        for p in self.alone:
            if p.grad is not None:
                p.grad = reduced(self.fabric, p.grad, "mean")
        parameters = [p for group in wrapped.optimizer.param_groups for p in group["params"] if p.grad is not None]
        spread = [local(p.grad) for p in parameters if is_spread(p.grad)]
        same = [p.grad for p in parameters if not is_spread(p.grad)]
        squares = [torch.nn.utils.get_total_norm(part).square() for part in (spread, same)]
        total = reduced(self.fabric, squares[0].to(self.fabric.device), "sum") + squares[1].to(self.fabric.device)
        norm = total.sqrt()
        for gradient in (*spread, *same):
            gradient.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def rest(self, wrapped: Wrapped) -> None:
        wrapped.module.reshard()

    @torch.no_grad()
    def whole(self, flow_map: FlowMap) -> FlowMap:
        first, state = self.fabric.is_global_zero, dict[str, Tensor]()
        for name, parameter in flow_map.named_parameters():
            full = whole(parameter)
            if first:
                state[name] = nn.Parameter(full.clone(), requires_grad=parameter.requires_grad)
        made = copy.deepcopy(self.hollow)
        assert made is not None
        if first:
            same = {id(p): state[name] for name, p in flow_map.named_parameters()}
            names = {name: same[id(p)] for name, p in flow_map.named_parameters(remove_duplicate=False)}
            rest = {name: value.clone() for name, value in flow_map.state_dict().items() if name not in names}
            made.load_state_dict({**rest, **names}, assign=True)
            made.to(self.fabric.device)
        return made.train(flow_map.training)

    def _settle(self, objective: Objective, hollow: FlowMap, ema: EMA[FlowMap] | None) -> None:
        """Fill the shards of this process, which never has more than a few whole tensors."""
        settle(objective, self.fabric.device)
        if ema is not None:
            follow(ema.copy, objective.flow_map, self.fabric.device)
        for name, buffer in objective.flow_map.named_buffers():
            put(hollow, name, buffer.clone())

    def _begin_alike(self, module: nn.Module) -> None:
        """Every process begins with the weights and buffers of the first, as under DDP."""
        if self.fabric.world_size == 1:
            return
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                there = tensor.detach().to(self.fabric.device).contiguous()
                torch.distributed.broadcast(there, 0)
                tensor.copy_(there)

    def _shard(self, module: nn.Module, blockwise: bool, hardware: Hardware) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(self.fabric.device.type, (self.fabric.world_size,))
        half = hardware.precision == "bf16-mixed"
        dtypes = (torch.bfloat16, torch.float32) if half else (None, None)
        policy = MixedPrecisionPolicy(*dtypes, cast_forward_inputs=False)
        scalars = {p for p in module.parameters() if p.ndim == 0}
        for scalar in scalars:
            if not scalar.is_meta:
                scalar.data = scalar.data.to(self.fabric.device)
        if blockwise:
            for block in reversed(blocks_of(module)):  # inner ones first
                given = {p for p in scalars if any(p is own for own in block.parameters())}
                fully_shard(block, mesh=mesh, ignored_params=given, mp_policy=policy)
        fully_shard(module, mesh=mesh, ignored_params=scalars)

    def _tell(self, reason: str, blocks: int) -> None:
        if self.fabric.is_global_zero:
            if reason:
                log.warning("%s shards the root only, so that each process gathers all weights in an update: %s",
                            SHARDED, reason)  # fmt: skip
            else:
                log.info("%s shards %d blocks and the root over %d processes", SHARDED, blocks, self.fabric.world_size)


def strategy_of(fabric: Fabric, hardware: Hardware) -> Strategy:
    """The strategy that was asked for."""
    return Sharded(fabric) if hardware.strategy == SHARDED else Whole(fabric)


def lean(objective: Objective, hardware: Hardware) -> None:
    """Have the blocks of a map computed anew in the backward pass, if that is asked for.

    Raises: ValueError if it has none.
    """
    if not hardware.recompute:
        return
    blocks = blocks_of(objective.flow_map)
    if not blocks:
        raise ValueError("recompute is true, but the networks of this map have no blocks; leave it out")
    for block in blocks:
        recompute(block)


def mixed(objective: Objective, hardware: Hardware) -> Objective | Mixed:
    """The objective in its precision."""
    return Mixed(objective) if hardware.precision == "bf16-mixed" else objective


def compiled(module: nn.Module, hardware: Hardware) -> nn.Module:
    """A module as the compiler makes it, if that is asked for."""
    if not hardware.compile:
        return module
    mode = hardware.compile if isinstance(hardware.compile, str) else "default"
    return cast("nn.Module", torch.compile(module, mode=mode))


def blocks_of(module: nn.Module) -> dict[nn.Module, str]:
    """The repeated parts of all networks in a module, with their names, outer ones first."""
    names = {child: name for name, child in module.named_modules()}
    lists = [
        child
        for network in module.modules()
        if isinstance(network, Network)
        for child in network.modules()
        if isinstance(child, nn.ModuleList)
    ]
    found = {block for each in lists for block in each if any(True for _ in block.parameters())}
    return {block: name for block, name in names.items() if block in found}


def why_not_blockwise(root: nn.Module, hardware: Hardware) -> str:
    """What keeps the blocks from being sharded one by one; empty if nothing does."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < BLOCKWISE:
        return f"torch {torch.__version__} cannot take forward mode through sharded blocks, which 2.13 can"
    if hardware.compile:
        return "the compiler needs all weights at once; use compile=false for sharded blocks"
    derivatives = [getattr(part, "derivative", None) for part in root.modules()]
    if any(isinstance(each, ForwardMode) and each.through_weights for each in derivatives):
        return "ForwardMode(through_weights=True) needs all weights at once"
    blocks = blocks_of(root)
    if not blocks:
        return "its networks have no blocks"
    owners: dict[int, set[str]] = defaultdict(set)
    for name, parameter in root.named_parameters(remove_duplicate=False):
        around = [prefix for prefix in blocks.values() if name.startswith(f"{prefix}.")]
        owners[id(parameter)].add(max(around, key=len, default=""))
    shared = [name for name, p in root.named_parameters() if len(owners[id(p)]) > 1]
    return f"{shared[0]} belongs to several blocks" if shared else ""


def hollow(flow_map: FlowMap) -> FlowMap:
    """A copy of a map whose weights have no memory."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in flow_map.parameters()}
    return copy.deepcopy(flow_map, cast("dict[int, Any]", empty))


def _apart(optimizer: Optimizer) -> None:
    """Scalars, which are not sharded, in groups of their own: optimisers step a group at a time."""
    for group in list(optimizer.param_groups):
        alone = [p for p in group["params"] if not is_spread(p)]
        if alone and len(alone) < len(group["params"]):
            group["params"] = [p for p in group["params"] if is_spread(p)]
            optimizer.add_param_group({**group, "params": alone})
