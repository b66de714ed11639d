"""Grey images by autoencoders within flows, and by the variational ones that they are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data import Identified
from ..data import images as sources
from ..data.base import CategoricalData
from ..data.images import NoisyImages
from ..fields import one_field
from ..likelihood import Bound, OwnScore
from ..maps import Autoencoder, Bijection, Composed, LearnedScale, Logit, Modules, Partition, PredictedScale, Shift
from ..maps.conditional import ConditionalNormal
from ..maps.preprocessing import dequantise, quantise
from ..metrics.autoencoders import nats
from ..networks.autoencoding import ConvDecoder, ConvEncoder
from ..paths import GeodesicPath
from ..reading import Document
from ..samplers import Jumps, Sampler
from ..spaces import Euclidean
from . import autoencoders_studies as found
from .base import Study, in_batches
from .of_images import OfImages, Source

MOST, DRAWS = 10_000, 128  # images that the first scale and shift are taken from; draws of a bound


class Autoencoders(OfImages[Autoencoder]):
    """Scanned digits or one's own pictures in their grey levels, modelled by few latent numbers.

    Arguments:
        source, path, fetch, background, seed: As for :class:`~flowmaps.tasks.images.Images`.
        levels: From grey to categories, for MNIST and folders; by default all 256.
        latents: Number of latent dimensions.
        family: How encoder, decoder and prior become a likelihood: ``Partition`` (exact), ``Augmented``, ``VAE``.
        encoder: What makes the encoder, called as ``encoder(shape, outputs)``; convolutions by default.
        decoder: What makes the decoder, called as ``decoder(latents, shape, channels)``; convolutions by default.
        prior: What makes the bijection from noise to latents, called as ``prior(path, shape)``; none by default.
        core: What makes the bijection of the core, called alike; none by default.
        scale: The decoder's deviations: the same for all pixels, one learned for each, or predicted.
        alpha: Margin of the logit.
        noise: Deviation of noise on the intensities of the images that the model sees, another in each epoch.
    """

    ode = 0
    headlines = ("frechet", "precision", "recall", "classifier_confidence")
    files = ("samples.*", "reconstructions.png", "latents.png", "denoised.png")
    teaching = {**OfImages.teaching, "mean": float, "deviation": float}

    def __init__(
        self,
        source: Source = "digits",
        path: str | None = None,
        fetch: bool = False,
        levels: sources.Levels | None = None,
        latents: int = 8,
        family: Callable[[Modules], Autoencoder] = Partition,
        encoder: Callable[[Sequence[int], int], nn.Module] = ConvEncoder,
        decoder: Callable[[int, Sequence[int], int], nn.Module] = ConvDecoder,
        prior: Callable[[GeodesicPath, Sequence[int]], Bijection] | None = None,
        core: Callable[[GeodesicPath, Sequence[int]], Bijection] | None = None,
        scale: Literal["fixed", "pixel", "predicted"] = "pixel",
        alpha: float = 1e-6,
        noise: float = 0.0,
        seed: int = 0,
        background: int = 255,
    ):
        super().__init__(source, path, fetch, levels or sources.Quantised(256), seed, background)
        if latents < 1:
            raise ValueError(f"latents is {latents}, expected at least 1")
        if not 0 <= noise < 100:
            raise ValueError(f"noise is {noise}, expected a deviation of intensities in [0, 1]: 0 for none, or .5")
        self.latents, self.family, self.encoder, self.decoder = latents, family, encoder, decoder
        self.prior, self.core, self.scale = prior, core, scale
        self.alpha, self.noise = alpha, noise

    # -- data ----------------------------------------------------------------------------------------------------

    @cached_property
    def train_data(self) -> Identified:
        return self._seen(self.splits.train)

    @cached_property
    def valid_data(self) -> Identified:
        return self._seen(self.splits.valid)

    @cached_property
    def test_data(self) -> Identified:
        return self._seen(self.splits.test)

    def _seen(self, data: CategoricalData) -> Identified:
        """Images as the model sees them."""
        plain = CategoricalData(one_field(data.x_1))
        return NoisyImages(plain, self.state()["levels"], self.noise, self.seed) if self.noise else plain

    def _tested(self, n: int | None) -> Tensor:
        """At most ``n`` test images as the model sees them."""
        return one_field(self.test_data.batch(torch.arange(len(self.test_data))[:n]).x_1)

    def learned(self, splits: sources.ImageSplits) -> Document:
        k = one_field(splits.train.x_1)[:MOST].flatten(1)
        u = torch.rand(k.shape, generator=torch.Generator().manual_seed(self.seed))
        y = Logit(self.alpha).inverse(dequantise(k, splits.levels, u))[0].double()
        return {**super().learned(splits), "mean": float(y.mean()), "deviation": float(y.std())}

    # -- model ---------------------------------------------------------------------------------------------------

    def build_map(self) -> Autoencoder:
        state, L = self.state(), self.latents
        height, width = state["shape"]
        shape, D = (height, width), height * width
        latent, pixels = GeodesicPath(Euclidean(L)), GeodesicPath(Euclidean(D))
        return self.family(
            Modules(
                shape,
                L,
                PredictedScale(self.encoder(shape, 2 * L)),
                self._scaled(self.decoder(L, shape, 1 + (self.scale == "predicted")), D),
                None if self.prior is None else self.prior(latent, (L,)),
                None if self.core is None else self.core(latent, (L,)),
                Composed(pixels, [Shift(state["mean"], state["deviation"]), Logit(self.alpha)], (D,)),
                state["levels"],
            )
        )

    def _scaled(self, network: nn.Module, D: int) -> ConditionalNormal:
        if self.scale == "pixel":
            return LearnedScale(network, D)
        return ConditionalNormal(network) if self.scale == "fixed" else PredictedScale(network)

    # -- samples -------------------------------------------------------------------------------------------------

    def rows(self, steps: Sequence[int], ode: int | None = 128) -> dict[str, Sampler]:
        """One row: a single step leads from noise to images."""
        return {"1": Jumps(1)}

    @torch.no_grad()
    def sample(
        self,
        flow_map: Autoencoder,
        n: int,
        sampler: Sampler,
        generator: torch.Generator,
        temperature: float = 1.0,
        errors: float = 0.0,
        batch: int = 512,
    ) -> Tensor:
        """Images ``(n, height, width)``.

        Arguments:
            temperature: Deviation of the latents' source; pictures are clearer at .8.
            errors: Deviation of the decoder's errors, 0 for the middle of what it says, 1 for exact samples.
            batch: Images at a time.
        """
        if sampler.evaluations != 1:
            raise ValueError(f"steps is {sampler.evaluations}, expected 1: an autoencoder makes images in one step")
        if not (temperature >= 0 and errors >= 0):
            raise ValueError(f"temperature is {temperature} and errors {errors}, expected numbers of at least 0")
        parts = []
        for rows in in_batches(n, batch):
            x_0 = flow_map.noise((len(rows),), generator)
            z_0, e = temperature * x_0[:, : flow_map.latents], errors * x_0[:, flow_map.latents :]
            parts.append(quantise(flow_map.imagine(z_0, e), flow_map.levels).unflatten(1, flow_map.shape))
        return torch.cat(parts)

    @torch.no_grad()
    def own_likelihood(
        self,
        flow_map: Autoencoder,
        generator: torch.Generator,
        bound: Bound | None,
        n: int | None,
        path: str | None = None,
    ) -> OwnScore:
        """Nats of test images as the model sees them, or of images of a file: exact, or an importance-weighted bound.

        Both are upper bounds by dequantisation.

        Arguments:
            path: A PNG file, a folder of these, or an archive of samples.
        """
        if bound is not None:
            raise ValueError(f"{type(bound).__name__} bounds flow maps; an autoencoder has its own, leave --bound out")
        exact = isinstance(flow_map, Partition)
        x = self._tested(n) if path is None else self.read_images(path)[:n]
        found = nats(flow_map, x, generator, 1 if exact else DRAWS)
        uniform = flow_map.pixels * math.log(flow_map.levels)
        return OwnScore("exact" if exact else f"{DRAWS} draws", found, flow_map.pixels, uniform)

    def studies(
        self, draws: int = DRAWS, repeats: int = 1, images: int = 1000, corruption: float | None = None
    ) -> Mapping[str, Study[Autoencoder]]:
        """Likelihood, reconstructions, latents and denoising.

        Arguments:
            draws: Draws of the importance-weighted bound; where the density is exact they say nothing.
            repeats: Evaluations that are averaged.
            images: Test images, at most.
            corruption: Deviation of the noise that is to be left behind; by default that of the training, else .5.
        """
        if min(draws, repeats, images) < 1 or images < 2:
            raise ValueError(
                f"draws is {draws}, repeats {repeats} and images {images}, expected at least 1, and 2 images"
            )
        level = self.noise or 0.5 if corruption is None else corruption
        test = self.splits.test
        clean = one_field(test.x_1)[:images]
        seen = self._tested(images)
        classes = test.condition.label if test.condition.label is not None else torch.zeros(len(test))
        return {
            "likelihood": found.Likelihood(seen, draws, repeats),
            "reconstructions": found.Reconstructions(seen, clean, self.classifier),
            "latents": found.Latents(seen, classes[:images]),
            "denoising": found.Denoising(clean, level, self.classifier, self.noise > 0),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        if not state["deviation"] > 0:
            raise ValueError(f"deviation in the state of config.json is {state['deviation']}, expected more than 0")
