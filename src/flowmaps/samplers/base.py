"""The loop of every sampler, and generation from noise to categories."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor

from ..evaluation import Readouts
from ..fields import FREE, Condition, Data, S, Shape, first_leaf, like, where
from ..maps import FlowMap
from ..spaces import Space, is_categorical
from ..times import check_grid, grid
from .decode import Argmax, Decoder, Nearest


class Sampler(ABC):
    r"""Carries a source point to what data are decoded from; subclasses write one step.

    The state is advanced over ``t_0 < ... < t_{N-1}``; the last interval ends in ``final``: scores over the
    categories, or the state at time 1.

    Arguments:
        times: A grid ``0 = t_0 < ... < t_N = 1``, or the number N of equal steps. A grid that starts later carries
            states of that time; where sampling starts from noise it is refused.
    """

    spread = 1.0  # deviation of the noise that sampling starts from, see Jumps

    def __init__(self, times: int | Tensor):
        self.times = grid(times) if isinstance(times, int) else check_grid(times)
        if self.times[-1] != 1:
            raise ValueError(f"the grid ends at {float(self.times[-1])}, expected 1: decoding happens at the data")

    def from_noise(self) -> Sampler:
        """This sampler, if it may be given noise: called wherever samples start at the source.

        Raises: ValueError if the grid starts later, where noise is no state of the path.
        """
        if self.times[0] != 0:
            raise ValueError(
                f"the grid starts at {float(self.times[0]):.4g} but sampling starts from noise, at 0: begin the grid "
                "with 0, or call the sampler itself on a state of that time"
            )
        return self

    @property
    def evaluations(self) -> int:
        """Network evaluations of one sample."""
        return len(self.times) - 1

    @abstractmethod
    def step(
        self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> S:
        """The state at t from the state x at s; t < 1."""

    @abstractmethod
    def final(self, flow_map: FlowMap[S], x: S, s: Tensor, condition: Condition) -> Readouts:
        """What is decoded, from the state at the last time before 1."""

    def __call__(
        self,
        flow_map: FlowMap[S],
        x: S,
        condition: Condition = FREE,
        generator: torch.Generator | None = None,
    ) -> Readouts:
        """What data are decoded from, reached from the source point ``x``."""
        first = first_leaf(x)
        times = [first.new_full(first.shape[:1], float(t)) for t in self.times]
        for s, t in zip(times[:-2], times[1:-1], strict=True):
            x = self.step(flow_map, x, s, t, condition, generator)
        return self.final(flow_map, x, times[-2], condition)


@overload
def generate(
    flow_map: FlowMap,
    sampler: Sampler,
    shape: tuple[int, ...],
    generator: torch.Generator,
    *,
    condition: Condition = FREE,
    given: Tensor | None = None,
    decoder: Decoder | None = None,
) -> Tensor: ...


@overload
def generate(
    flow_map: FlowMap,
    sampler: Sampler,
    shape: Mapping[str, tuple[int, ...]],
    generator: torch.Generator,
    *,
    condition: Condition = FREE,
    given: Mapping[str, Tensor] | None = None,
    decoder: Decoder | None = None,
) -> Mapping[str, Tensor]: ...


@torch.no_grad()
def generate(
    flow_map: FlowMap,
    sampler: Sampler,
    shape: Shape,
    generator: torch.Generator,
    *,
    condition: Condition = FREE,
    given: Data | None = None,
    decoder: Decoder | None = None,
) -> Data:
    """Draw samples: categories, int64, of ``shape`` per field, or points with their coordinates last.

    Arguments:
        flow_map: A flow map, learned or exact; put it in evaluation mode yourself.
        sampler: How to get from noise to data.
        shape: ``(*batch, *positions)``, or a dictionary of such shapes by field.
        generator: Drives noise, stochastic steps and decoding: a seed reproduces samples exactly. Its device decides
            where samples live.
        condition: Passed to the network. Positions that are ``known`` keep the categories of ``given``.
        given: Categories at the known positions (anything elsewhere), of ``shape``.
        decoder: From scores to categories, arg-max by default; points are data as they are.
    Raises: ValueError if positions are known but no categories are given, or their shapes differ, or the sampler's grid
        does not start at 0.
    """
    decoder, sampler = decoder or decoder_of(flow_map), sampler.from_noise()
    x = source_point(flow_map, shape, generator, condition, given, sampler.spread)
    sample = decoder(sampler(flow_map, x, condition, generator), generator, flow_map.chunk)
    return keep_given(sample, condition, given)


def decoder_of(flow_map: FlowMap) -> Decoder:
    """Arg-max over the categories where there are any, else the state itself."""
    return Argmax() if is_categorical(flow_map.space) else Nearest(flow_map.space)


def source_point(
    flow_map: FlowMap[S],
    shape: Shape,
    generator: torch.Generator,
    condition: Condition,
    given: Data | None,
    spread: float = 1.0,
) -> S:
    """A state at time 0, its noise multiplied by the spread, with the given categories clean at the known positions."""
    x = flow_map.path.start(flow_map.noise(shape, generator))
    if spread != 1:
        flow_map.path.require_gaussian("a spread of the noise")
        x = x * spread
    if (condition.known is None) != (given is None):
        raise ValueError("known positions and their given categories come together: pass both or neither")
    if given is None:
        return x
    flow_map.space.check(given)
    flow_map.space.each(_same_shape, shape, condition.known, given)
    return flow_map.path.clamp(x, like(flow_map.space.encode(given), x), condition)


def _same_shape(space: Space[Tensor], shape: tuple[int, ...], known: Tensor, given: Tensor) -> None:
    if not tuple(given.shape) == tuple(known.shape) == tuple(shape):
        raise ValueError(f"known {tuple(known.shape)} and given {tuple(given.shape)}: expected shape {tuple(shape)}")


def keep_given(sample: Data, condition: Condition, given: Data | None) -> Data:
    """Put the given categories back at the known positions."""
    if given is None or condition.known is None:
        return sample
    return where(condition.known, given, sample)
