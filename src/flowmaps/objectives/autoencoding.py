"""Maximum likelihood of autoencoders within flows: exact, or by the bound that they have."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ..fields import Batch, one_field
from ..maps import Autoencoder
from ..maps.autoencoders import LatentVariable
from ..maps.preprocessing import dequantise
from .base import Objective


class Draw(NamedTuple):
    """Randomness of one evaluation.

    Arguments:
        u: Uniform numbers that dequantise pixels, ``(batch, pixels)``.
        noise: Normal numbers of cores beside the images, ``(draws, batch, latents)``.
    """

    u: Tensor
    noise: Tensor


class AutoencoderLikelihood(Objective[Draw, Autoencoder]):
    r"""Negative log-likelihood of grey images, or a bound on it, per pixel.

    .. math:: L = -\tfrac1D\, \mathbb{E}_u \log p\Big(\frac{k + u}{K}\Big) + \log K \ge -\tfrac1D \log P(k)

    For :class:`~flowmaps.maps.Partition` log p is exact; for the others it is their importance-weighted bound: with one
    draw the ELBO, with more IWAE's.

    Arguments:
        flow_map: The autoencoder.
        draws: Draws of the bound.
    Raises: ValueError if there is no draw.
    Reference: Burda, Grosse and Salakhutdinov 2015, *Importance weighted autoencoders*, arXiv 1509.00519.
    """

    def __init__(self, flow_map: Autoencoder, draws: int = 1):
        super().__init__()
        if draws < 1:
            raise ValueError(f"draws is {draws}, expected at least 1")
        self.flow_map, self.draws = flow_map, draws

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        n, device = len(one_field(batch.x_1)), generator.device
        u = torch.rand(n, self.flow_map.pixels, generator=generator, device=device)
        noise = torch.randn(self.draws, n, self.flow_map.latents, generator=generator, device=device)
        return Draw(u.to(self.flow_map.dtype), noise.to(self.flow_map.dtype))

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        x_1 = dequantise(one_field(batch.x_1).flatten(1), self.flow_map.levels, draw.u)
        loss = -self.log_density(x_1, draw.noise).mean() / self.flow_map.pixels + math.log(self.flow_map.levels)
        return {"loss": loss, "bits_per_dimension": loss.detach() / math.log(2)}

    def log_density(self, x_1: Tensor, noise: Tensor) -> Tensor:
        """What is maximised, ``(batch,)``."""
        return self.flow_map.log_likelihood(x_1, noise)


class RawExpandedDensity(AutoencoderLikelihood):
    r"""The density of an image and its projection, as published: for reproduction only, since it has no maximum.

    .. math:: L = -\tfrac1D \log p(y, w)\big|_{w = W y} + \log K

    It is no likelihood of images. With m_e(y) = m(y) - s W y and σ_e = s the latents stay where they are while the
    density grows like L log s, L being the number of latents, even where W is held fixed.

    Arguments:
        flow_map: An autoencoder of the expanded space.
    Raises: ValueError for other autoencoders.
    Invariant: it is unbounded above (``tests/maps/test_autoencoders.py``).
    Reference: Silvestri, Roos and Ambrogioni 2022, arXiv 2205.09546.
    """

    def __init__(self, flow_map: Autoencoder):
        super().__init__(flow_map)
        if not isinstance(flow_map, LatentVariable):
            raise ValueError(
                f"the raw density is of the expanded space, but the map is a {type(flow_map).__name__}; use Augmented"
            )
        warnings.warn(
            "RawExpandedDensity has no maximum: its values are no likelihoods and may grow without end; it is here to "
            "reproduce, use AutoencoderLikelihood to train",
            stacklevel=1,
        )

    def log_density(self, x_1: Tensor, noise: Tensor) -> Tensor:
        assert isinstance(self.flow_map, LatentVariable)
        w, _ = self.flow_map.auxiliary(self.flow_map.outer.inverse(x_1)[0], torch.zeros_like(noise))
        return self.flow_map.log_joint(x_1, w).squeeze(0)
