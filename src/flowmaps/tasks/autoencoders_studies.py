"""What ``flowmaps evaluate`` finds out about autoencoders beside the quality of their samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.images import noisy
from ..maps import Autoencoder, Partition
from ..maps.preprocessing import dequantise, quantise
from ..metrics.autoencoders import bits_per_dimension, errors, reconstructed
from ..metrics.images import ImageClassifier
from ..pictures import latent_plane, sample_grid
from ..samplers import Sampler

Found = tuple[dict[str, object], list[Path]]
SHOWN, SIDE, REACH = 16, 12, 2.0  # images in a row, images along an axis of the plane, deviations that it covers


class OfTestImages(ABC):
    """A study of test images, which samples and metrics do not enter."""

    def __call__(
        self,
        flow_map: Autoencoder,
        rows: Mapping[str, Sampler],
        n: int,
        seed: int,
        data: Mapping[str, float],
        directory: Path,
    ) -> Found:
        return self.of(flow_map, seed, directory)

    @abstractmethod
    def of(self, flow_map: Autoencoder, seed: int, directory: Path) -> Found:
        """What was found, and the files that were written.

        Arguments:
            seed: Of all random numbers.
        """


@dataclass(frozen=True)
class Likelihood(OfTestImages):
    """Bits per pixel of test images.

    Arguments:
        x_1: Categories as the model was trained to see them.
        draws, repeats: As in :func:`~flowmaps.metrics.autoencoders.bits_per_dimension`.
    """

    x_1: Tensor
    draws: int
    repeats: int

    def of(self, flow_map: Autoencoder, seed: int, directory: Path) -> Found:
        exact = isinstance(flow_map, Partition)
        draws = 1 if exact else self.draws
        bits = bits_per_dimension(flow_map, self.x_1, _generator(flow_map, seed), draws, self.repeats)
        says = {"bits_per_dimension": bits.value, "bits_per_dimension_error": bits.error}
        return {**says, "exact": exact, "draws": draws, "images": len(self.x_1)}, []


@dataclass(frozen=True)
class Reconstructions(OfTestImages):
    """Test images as their latents have them, ``reconstructions.png``.

    Arguments:
        x_1, clean: Categories as the model sees them, and without noise.
        classifier: The reference network.
    """

    x_1: Tensor
    clean: Tensor
    classifier: ImageClassifier

    def of(self, flow_map: Autoencoder, seed: int, directory: Path) -> Found:
        found = reconstructed(flow_map, self.x_1, _generator(flow_map, seed))
        path = directory / "reconstructions.png"
        sample_grid(path, {"image": self.x_1[:SHOWN], "latents": found[:SHOWN]}, flow_map.levels)
        return dict(errors(found, self.clean, self.classifier)), [path]


@dataclass(frozen=True)
class Latents(OfTestImages):
    """Where test images are in the space of their latents, ``latents.png``.

    With two latents the picture has them all; with more it shows the two principal components.

    Arguments:
        x_1: Categories as the model sees them.
        classes: Of each image.
    """

    x_1: Tensor
    classes: Tensor

    @torch.no_grad()
    def of(self, flow_map: Autoencoder, seed: int, directory: Path) -> Found:
        generator, place = _generator(flow_map, seed), directory / "latents.png"
        u = torch.rand(self.x_1.flatten(1).shape, generator=generator, device=generator.device)
        x = dequantise(self.x_1.to(u.device).flatten(1), flow_map.levels, u.to(flow_map.dtype))
        z = torch.cat([flow_map.encode(part) for part in x.split(512)])
        if flow_map.latents == 2:
            latent_plane(place, z, self.classes, _plane(flow_map), flow_map.levels)
        else:
            centred = z - z.mean(0)
            shown = centred @ torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(1)[:, :2]
            shown = shown if flow_map.latents > 1 else torch.cat([shown, torch.zeros_like(shown)], dim=1)
            latent_plane(place, shown, self.classes, None, flow_map.levels)
        return {"mean": z.mean(0).tolist(), "deviation": z.std(0).tolist()}, [place]


@dataclass(frozen=True)
class Denoising(OfTestImages):
    """Noisy test images as their latents have them, ``denoised.png``.

    Arguments:
        clean: Categories without noise.
        level: Deviation of the noise on intensities.
        classifier: The reference network.
        trained: Whether the model was trained on noisy images.
    """

    clean: Tensor
    level: float
    classifier: ImageClassifier
    trained: bool

    def of(self, flow_map: Autoencoder, seed: int, directory: Path) -> Found:
        x = noisy(self.clean, flow_map.levels, self.level, torch.Generator().manual_seed(seed))
        found = reconstructed(flow_map, x, _generator(flow_map, seed))
        path = directory / "denoised.png"
        parts = {"noisy": x, "denoised": found, "clean": self.clean}
        sample_grid(path, {name: part[:SHOWN] for name, part in parts.items()}, flow_map.levels)
        before = {f"{name}_of_noisy": value for name, value in errors(x, self.clean, self.classifier).items()}
        said = {"noise": self.level, "trained_on_noise": self.trained}
        return {**said, **errors(found, self.clean, self.classifier), **before}, [path]


def _plane(flow_map: Autoencoder) -> Tensor:
    """Images of a grid of source points, ``(rows, columns, height, width)``."""
    side = torch.linspace(-REACH, REACH, SIDE, dtype=flow_map.dtype, device=flow_map.device)
    down, right = torch.meshgrid(side.flip(0), side, indexing="ij")
    x = flow_map.imagine(torch.stack([right, down], dim=-1).flatten(0, 1))
    return quantise(x, flow_map.levels).unflatten(1, flow_map.shape).unflatten(0, (SIDE, SIDE))


def _generator(flow_map: Autoencoder, seed: int) -> torch.Generator:
    return torch.Generator(flow_map.device).manual_seed(seed)
