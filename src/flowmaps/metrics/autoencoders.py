"""How well autoencoders tell the likelihood of images, and how much of an image they keep."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..maps import Autoencoder
from ..maps.preprocessing import dequantise, quantise
from .images import ImageClassifier
from .modes import Measure


@torch.no_grad()
def nats(
    flow_map: Autoencoder, x_1: Tensor, generator: torch.Generator, draws: int = 128, repeats: int = 1, batch: int = 64
) -> Tensor:
    r"""What each grey image costs, in nats, float64 ``(n,)``.

    .. math:: -\log p + D \log K, \qquad \log p \approx \log \frac1n \sum_{i=1}^n \frac{p(y, w_i)}{q(w_i | y)}

    An upper bound: by dequantisation, and by the number of draws where the density is not exact.

    Arguments:
        x_1: Categories ``(n, height, width)``.
        draws: n, the draws of the importance-weighted bound.
        repeats: Evaluations that are averaged.
        batch: Images at a time.
    """
    place = generator.device
    total = torch.zeros(len(x_1), dtype=torch.float64)
    for _ in range(repeats):
        parts = []
        for k in x_1.to(place).flatten(1).split(batch):
            u = torch.rand(k.shape, generator=generator, device=place)
            noise = torch.randn(draws, len(k), flow_map.latents, generator=generator, device=place)
            x = dequantise(k, flow_map.levels, u.to(flow_map.dtype))
            parts.append(-flow_map.log_likelihood(x, noise.to(flow_map.dtype)))
        total += torch.cat(parts).double().cpu() / repeats
    return total + flow_map.pixels * math.log(flow_map.levels)


def bits_per_dimension(
    flow_map: Autoencoder, x_1: Tensor, generator: torch.Generator, draws: int = 128, repeats: int = 1, batch: int = 64
) -> Measure:
    r"""The nats of :func:`nats` in bits per pixel, their mean with its standard error over images.

    .. math:: \frac{-\log p + D \log K}{D \log 2}
    """
    bits = nats(flow_map, x_1, generator, draws, repeats, batch) / (flow_map.pixels * math.log(2))
    return Measure(float(bits.mean()), float(bits.std() / math.sqrt(len(bits))))


@torch.no_grad()
def reconstructed(flow_map: Autoencoder, x_1: Tensor, generator: torch.Generator, batch: int = 512) -> Tensor:
    """Categories ``(n, height, width)`` as their latents have them, without errors of the decoder."""
    parts = []
    for k in x_1.to(generator.device).flatten(1).split(batch):
        u = torch.rand(k.shape, generator=generator, device=generator.device)
        x = flow_map.reconstruct(dequantise(k, flow_map.levels, u.to(flow_map.dtype)))
        parts.append(quantise(x, flow_map.levels).unflatten(1, flow_map.shape))
    return torch.cat(parts).cpu()


def errors(found: Tensor, clean: Tensor, classifier: ImageClassifier) -> dict[str, float]:
    """How far images are from the clean ones, image by image.

    Returns: ``pixel_error``, the mean squared difference of intensities in [0, 1]; ``feature_error``, the mean squared
        distance in the features of the reference classifier over the mean variance of a feature of the clean images.
    """
    apart = (found.double() - clean.double()) / (classifier.levels - 1)
    f, g = classifier.inspect(found)[0].double(), classifier.inspect(clean)[0].double()
    return {
        "pixel_error": float(apart.square().mean()),
        "feature_error": float((f - g).square().mean() / g.var(0).mean()),
    }
