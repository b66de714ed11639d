r"""The memory of one device of a training, by what it is for and how weights are spread.

.. math:: \text{bytes} = \frac{\text{weights} + \text{gradients} + \text{moments} + \text{averages}}{n}
          + \text{gathered} + \text{activations} + \text{logits} + \text{libraries}

with n = 1 where every device has all weights, and the number of devices where they are sharded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

from ..objectives import Objective
from .trace import ACTIVATIONS, CASTS, GRADIENTS, LOGITS, Trace

PAIR = 2  # blocks that are gathered at one time: the one that computes, and the next


class DeviceMemory(NamedTuple):
    """Bytes of one device.

    Arguments:
        weights: In training.
        gradients: With the buckets that they are exchanged in, where all weights are on every device.
        moments: Of the optimiser.
        averages: The averaged map, and the weights of teachers.
        gathered: Weights and gradients of shards, put together while they are needed.
        activations: What the backward pass needs, and what operations hand on.
        logits: Predictions of a chunk, with what is computed of them.
        libraries: What those of a CPU keep once they have computed: buffers, and code that they have compiled.
    """

    weights: float
    gradients: float
    moments: float
    averages: float
    gathered: float
    activations: float
    logits: float
    libraries: float = 0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


class Sizes(NamedTuple):
    """Bytes of all weights in their own precision.

    Arguments:
        trained: In training.
        averages: Those of teachers, and of the averaged map.
        blocks: Of the parts in training that are gathered one by one.
    """

    trained: int
    averages: int
    blocks: tuple[int, ...]


class Step(NamedTuple):
    """One update of a training.

    Arguments:
        sizes, trace: Of its weights and of a micro-batch.
        devices: That share it.
        accumulation: Micro-batches of a device.
        half: Layers compute in bfloat16.
        libraries: Bytes that those of a CPU keep, if it computes.
    """

    sizes: Sizes
    trace: Trace
    devices: int
    accumulation: int
    half: bool
    libraries: float = 0

    def memory(self, sharded: bool) -> DeviceMemory:
        """Bytes of one device when it has most."""
        return (self._sharded() if sharded else self._whole())._replace(libraries=self.libraries)

    def _whole(self) -> DeviceMemory:
        sizes, trace, several = self.sizes, self.trace, self.accumulation > 1
        buckets = sizes.trained if self.devices > 1 else 0
        peak = trace.passing if several else trace.staying
        gradients = peak[GRADIENTS] + buckets + several * sizes.trained
        computing = DeviceMemory(sizes.trained, gradients, trace.moments, sizes.averages, 0,
                           peak[ACTIVATIONS] + peak[CASTS], peak[LOGITS])  # fmt: skip
        stepping = computing._replace(gradients=sizes.trained + buckets, activations=trace.stepping, logits=0)
        return max(computing, stepping, key=lambda memory: memory.total)

    def _sharded(self) -> DeviceMemory:
        """Blocks are gathered in their precision one by one, the rest for the length of an update; gradients are
        reduced in float32 after the last micro-batch."""
        sizes, n, peak = self.sizes, self.devices, self.trace.passing
        root, block = sizes.trained - sum(sizes.blocks), max(sizes.blocks, default=0)
        computed = block / 2 if self.half else block
        gathered = root + PAIR * computed + root + PAIR * (computed + block)
        kept = sizes.trained if self.accumulation > 1 else 0
        return DeviceMemory(sizes.trained / n, sizes.trained / n + kept, self.trace.moments / n, sizes.averages / n,
                      gathered, peak[ACTIVATIONS], peak[LOGITS])  # fmt: skip


def sizes_of(objective: Objective, averaged: bool, blocks: Iterable[nn.Module]) -> Sizes:
    """The sizes of an objective's weights, wherever they lie.

    Arguments:
        averaged: Whether an average of its map is kept besides.
        blocks: Its parts that are gathered one by one.
    """
    trained = {id(p): p for p in objective.parameters() if p.requires_grad}
    frozen = size(p for p in objective.parameters() if not p.requires_grad)
    each = (size(p for p in block.parameters() if id(p) in trained) for block in blocks)
    mean = size(objective.flow_map.parameters()) if averaged else 0
    return Sizes(size(trained.values()), frozen + mean, tuple(filter(None, each)))


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
