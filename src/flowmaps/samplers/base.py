"""The loop of every sampler, and generation from noise to categories."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..fields import FREE, Condition, fieldwise, leaves
from ..maps import FlowMap
from ..times import check_grid, grid
from .decode import Argmax, Decoder


class Sampler(ABC):
    r"""Carries a source point to scores over the categories; subclasses write one step.

    The state is advanced over ``t_0 < ... < t_{N-1}``; the last interval ends in ``final``, whose scores are decoded.

    Arguments:
        times: A grid ``0 = t_0 < ... < t_N = 1``, or the number N of equal steps. A grid that starts later carries
            states of that time; where sampling starts from noise it is refused.
    """

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
    def step(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition, generator: Any) -> Any:
        """The state at t from the state x at s; t < 1."""

    @abstractmethod
    def final(self, map: FlowMap, x: Any, s: Tensor, condition: Condition) -> Any:
        """Readouts of scores over the categories from the state at the last time before 1."""

    def __call__(
        self,
        map: FlowMap,
        x: Any,
        condition: Condition = FREE,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Readouts of the final scores from the source point ``x``."""
        first = next(leaves(x))[0]
        times = [first.new_full(first.shape[:1], float(t)) for t in self.times]
        for s, t in zip(times[:-2], times[1:-1], strict=True):
            x = self.step(map, x, s, t, condition, generator)
        return self.final(map, x, times[-2], condition)


@torch.no_grad()
def generate(
    map: FlowMap,
    sampler: Sampler,
    shape: Any,
    generator: torch.Generator,
    *,
    condition: Condition = FREE,
    given: Any = None,
    decoder: Decoder | None = None,
) -> Any:
    """Draw samples: categories, int64, of ``shape`` per field.

    Arguments:
        map: A flow map, learned or exact; put it in evaluation mode yourself.
        sampler: How to get from noise to data.
        shape: ``(*batch, *positions)``, or a dictionary of such shapes by field.
        generator: Drives noise, stochastic steps and decoding: a seed reproduces samples exactly. Its device decides
            where samples live.
        condition: Passed to the network. Positions that are ``known`` keep the categories of ``given``.
        given: Categories at the known positions (anything elsewhere), of ``shape``.
        decoder: From scores to categories; arg-max by default.
    Raises: ValueError if positions are known but no categories are given, or their shapes differ, or the sampler's grid
        does not start at 0.
    """
    decoder, sampler = decoder or Argmax(), sampler.from_noise()
    x = source_point(map, shape, generator, condition, given)
    sample = decoder(sampler(map, x, condition, generator), generator, map.chunk)
    return keep_given(sample, condition, given)


def source_point(map: FlowMap, shape: Any, generator: torch.Generator, condition: Condition, given: Any) -> Any:
    """A state at time 0, with the given categories clean at the known positions."""
    x = map.path.start(map.noise(shape, generator))
    if (condition.known is None) != (given is None):
        raise ValueError("known positions and their given categories come together: pass both or neither")
    if given is None:
        return x
    for want, is_known, have in leaves(fieldwise(tuple, shape), condition.known, given):
        if tuple(have.shape) != want or tuple(is_known.shape) != want:
            raise ValueError(f"known {tuple(is_known.shape)} and given {tuple(have.shape)}: expected shape {want}")
    map.path.space.check(given)
    clean = fieldwise(lambda e, x: e.to(x.dtype), map.path.space.embed(given), x)
    return map.path.clamp(x, clean, condition)


def keep_given(sample: Any, condition: Condition, given: Any) -> Any:
    """Put the given categories back at the known positions."""
    if given is None:
        return sample
    return fieldwise(lambda known, given, sample: torch.where(known, given, sample), condition.known, given, sample)
