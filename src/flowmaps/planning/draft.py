"""A training as it would be: what it computes, what it takes of every device, and how long it lasts."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import nn
from torch.optim import Optimizer

from ..fields import Batch, parts
from ..objectives import Objective
from ..train.settings import Hardware
from ..train.strategy import blocks_of, lean, why_not_blockwise
from ..train.surgery import Divided
from .account import DeviceMemory, Sizes, Step, sizes_of
from .libraries import kept
from .trace import Trace, traced


class Machine(NamedTuple):
    """What a training would run on.

    Arguments:
        devices: Accelerators.
        memory: Bytes of each.
        reserve: Share of them that is left to kernels, communication and gaps.
        speed: Operations a second of each at its best, in the precision of the products.
        utilisation: Share of it that a training reaches.
    """

    devices: int = 1
    memory: float = 80e9
    reserve: float = 0.1
    speed: float = 989e12
    utilisation: float = 0.4

    @property
    def room(self) -> float:
        """Bytes that may be planned with."""
        return (1 - self.reserve) * self.memory


class Way(NamedTuple):
    """How an update is divided.

    Arguments:
        batch_size: Examples of an update.
        accumulation: Micro-batches of a device.
        micro: Examples of one.
        sharded: Whether each device has a part of every weight, or all of them.
        memory: Bytes of a device.
    """

    batch_size: int
    accumulation: int
    micro: int
    sharded: bool
    memory: DeviceMemory


@dataclass
class Draft:
    """A training whose objective lies on the meta device.

    Arguments:
        objective: In training.
        batch: Examples of the right sizes, as many as are asked for.
        optimizer: Of its weights.
        hardware: Precision, compilation and whether blocks compute their activations anew.
        averaged: Whether the map is averaged.
        machine: What it runs on.
    """

    objective: Objective
    batch: Callable[[int], Batch]
    optimizer: Callable[[nn.Module], Optimizer]
    hardware: Hardware
    averaged: bool
    machine: Machine
    traces: dict[int, Trace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.hardware.precision == "64-true":
            self.objective.double()
        lean(self.objective, self.hardware)
        root_only = why_not_blockwise(self.objective, self.hardware)
        self.blocks: list[nn.Module] = [] if root_only else list(blocks_of(self.objective))
        self.sizes: Sizes = sizes_of(self.objective, self.averaged, self.blocks)

    @property
    def half(self) -> bool:
        """Whether layers compute in bfloat16, as accelerators do by themselves."""
        return self.hardware.precision in ("bf16-mixed", "auto")

    def lean(self) -> Draft:
        """The same training, whose blocks compute their activations anew in the backward pass.

        Raises: ValueError if it has no blocks, or is compiled.
        """
        hardware = replace(self.hardware, recompute=True)
        return Draft(self.objective, self.batch, self.optimizer, hardware, self.averaged, self.machine)

    @property
    def least(self) -> int:
        """Examples of the smallest micro-batch."""
        return 2 if isinstance(self.objective, Divided) and self.objective.share < 1 else 1

    def parameters(self) -> dict[str, int]:
        """Weights of the map in training: all, and those of each part."""
        flow_map = self.objective.flow_map
        each = {name: sum(p.numel() for p in part.parameters()) for name, part in flow_map.named_children()}
        return {"all": sum(p.numel() for p in flow_map.parameters()), **each}

    def positions(self) -> int:
        """Positions of an example."""
        shapes = parts(self.objective.flow_map.space.positions(self.batch(1).x_1))
        return sum(math.prod(shape) for shape in shapes)

    def trace(self, micro: int) -> Trace:
        """What a micro-batch takes."""
        if micro not in self.traces:
            before = [p for block in self.blocks for p in block.parameters()]
            self.traces[micro] = traced(self.objective, self.batch(micro), self.optimizer, self.half, before)
        return self.traces[micro]

    def way(self, batch_size: int, accumulation: int, sharded: bool) -> Way:
        """An update divided in this way.

        Raises: ValueError if it cannot be.
        """
        micro, rest = divmod(batch_size, self.machine.devices * accumulation)
        if rest or micro < self.least:
            raise ValueError(
                f"batch_size {batch_size} over {self.machine.devices} devices and {accumulation} micro-batches is not "
                f"a whole number of at least {self.least} examples; --fit finds one that is"
            )
        trace = self.trace(micro)
        libraries = kept(trace.widest, trace.halves) if self.hardware.accelerator == "cpu" else 0
        step = Step(self.sizes, trace, self.machine.devices, accumulation, self.half, libraries)
        return Way(batch_size, accumulation, micro, sharded, step.memory(sharded))

    def fits(self, way: Way) -> bool:
        """Whether a device has room for it."""
        return way.memory.total <= self.machine.room

    def fitted(self, batch_size: int) -> Way | None:
        """The way with the fewest micro-batches that a device has room for, with whole weights if that is no loss.

        The batch grows to the next size that the devices can share, if it must.
        """
        each = max(math.ceil(batch_size / self.machine.devices), self.least)
        micros = [n for n in range(self.least, each + 1) if each % n == 0]
        forms = (False, True) if self.machine.devices > 1 else (False,)
        found = [self._largest(each, micros, sharded) for sharded in forms]
        return max((way for way in found if way), key=lambda way: way.micro, default=None)

    def _largest(self, each: int, micros: list[int], sharded: bool) -> Way | None:
        """The largest micro-batch of which memory has room, ``each`` being the examples of a device."""
        ways = lambda n: self.way(each * self.machine.devices, each // n, sharded)  # noqa: E731
        many = bisect_right(micros, 0, key=lambda n: 0 if self.fits(ways(n)) else 1)
        return ways(micros[many - 1]) if many else None

    # -- time -----------------------------------------------------------------------------------------------------

    def operations(self, way: Way) -> float:
        """Operations for each position that is trained on."""
        return self.trace(way.micro).flops / (way.micro * self.positions())

    def rate(self, way: Way) -> float:
        """Positions a second, of all devices."""
        machine = self.machine
        return machine.devices * machine.speed * machine.utilisation / self.operations(way)
