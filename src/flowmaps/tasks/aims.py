"""What the grid of a trained map is tuned for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..metrics.text import Measure
from ..metrics.two_sample import bootstrap

Measured = Callable[[Any], Measure]  # of a modality's samples


class Aim(NamedTuple):
    """A number about samples that a grid is chosen by, and others that it may not pay with.

    It needs no test data: what samples are compared with is the validation part, so that what ``flowmaps evaluate``
    reports was not chosen on.

    Arguments:
        metric: Its name.
        measure: The number and its standard error.
        rises: Whether more is better.
        guards: Numbers by name that may not become larger than those of equal steps, beyond their errors.
        n: Samples that it is taken over by default.
    """

    metric: str
    measure: Measured
    rises: bool = False
    guards: Mapping[str, Measured] = {}
    n: int = 2000


def against(
    metric: str,
    apart: Callable[[Tensor, Tensor], float],
    read: Callable[[Tensor], Tensor],
    real: Tensor,
    repeats: int = 10,
) -> Aim:
    """A distance to real examples as the aim, with its bootstrap error.

    Arguments:
        metric: Its name.
        apart: The distance of two sets, ``(n, d)`` and ``(m, d)``.
        read: What is compared of samples, such as features.
        real: The same of validation examples.
        repeats: Of the bootstrap.
    """

    def measure(samples: Tensor) -> Measure:
        x, generator = read(samples.cpu()), torch.Generator().manual_seed(0)
        error = bootstrap(lambda x: apart(x, real), x, generator=generator, repeats=repeats)
        return Measure(apart(x, real), error)

    return Aim(metric, measure)
