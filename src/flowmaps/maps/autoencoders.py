r"""Autoencoders within flows: encoder, decoder and prior of a variational autoencoder as the parts of a bijection.

A core c with as many entries as there are latent dimensions, and a shell h, exchange roles with latents z and errors e:

.. math:: c' = f(c), \qquad z = m_e(h) + \sigma_e(h)\, c', \qquad e = \frac{h - m_d(z)}{\sigma_d(z)}, \qquad
          z_0 = g^{-1}(z)

Each line is a bijection, so that

.. math:: \log p = \log N(z_0) + \log N(e) + \sum\log\sigma_e - \sum\log\sigma_d + \log|\det f'| + \log|\det (g^{-1})'|

Where the core is a part of the image the density is exact (:class:`Partition`). Where it is a variable of its own, the
image's density is an integral over it, bounded from below (:class:`Augmented`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..fields import FREE, Condition
from ..paths import GeodesicPath
from ..spaces import Euclidean
from .bijection import Bijection, Invertible
from .masks import Centre, Mask
from .preprocessing import Identity
from .transport import Transport


class Modules(NamedTuple):
    """What an autoencoder is made of.

    Arguments:
        shape: Height and width of the images.
        latents: Number of latent dimensions.
        encoder: Means and deviations ``(batch, latents)`` of images ``(batch, 1, height, width)``, the pixels of the
            core being 0; any module, see :class:`~flowmaps.maps.conditional.ConditionalNormal`.
        decoder: Means and deviations of all pixels, ``(batch, pixels)``, of latents ``(batch, latents)``; any module.
        prior: g, the bijection from normal noise to latents; none is the identity.
        core: The bijection f^{-1} from c' to the core; none is the identity.
        outer: From the numbers that are modelled to intensities; none is the identity.
        levels: Grey levels of the images.
    """

    shape: tuple[int, int]
    latents: int
    encoder: nn.Module
    decoder: nn.Module
    prior: Bijection | None = None
    core: Bijection | None = None
    outer: Invertible | None = None
    levels: int = 256


class Inward(NamedTuple):
    """Latents and errors of a core and a shell, with the log-determinant of the way there.

    Arguments:
        z: Latents ``(n, latents)``.
        z_0: Their source ``(n, latents)``.
        e: Errors ``(n, shell)``.
        log_det: ``(n,)``.
    """

    z: Tensor
    z_0: Tensor
    e: Tensor
    log_det: Tensor

    @property
    def log_density(self) -> Tensor:
        """Of the core and the shell together, ``(n,)``."""
        return log_normal(self.z_0) + log_normal(self.e) + self.log_det


class Autoencoder(Transport[Tensor]):
    """Latents of images and images of latents, with a likelihood.

    Arguments:
        modules: What it is made of.
        dim: Coordinates of the source.
    Raises: ValueError if the prior or the core flow has another number of dimensions than there are latents.
    """

    def __init__(self, modules: Modules, dim: int):
        super().__init__(GeodesicPath(Euclidean(dim)))
        self.shape, self.latents, self.levels = modules.shape, modules.latents, modules.levels
        for name in ("prior", "core"):
            part: Bijection | None = getattr(modules, name)
            if part is not None and part.space.dim != self.latents:
                raise ValueError(
                    f"the {name} flow has {part.space.dim} dimensions but there are {self.latents} latents; "
                    "build it for as many"
                )
        self.encoder, self.decoder = modules.encoder, modules.decoder
        self.prior: Invertible = modules.prior or Identity()
        self.core: Invertible = modules.core or Identity()
        self.outer: Invertible = modules.outer or Identity()

    @property
    def pixels(self) -> int:
        """D, the number of pixels."""
        return math.prod(self.shape)

    # -- what an autoencoder does ---------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, x_1: Tensor) -> Tensor:
        """Latents ``(n, latents)`` of intensities ``(n, pixels)``."""

    @abstractmethod
    def decode(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Intensities ``(n, pixels)`` of latents, with errors e of the decoder, none by default."""

    @abstractmethod
    def log_likelihood(self, x_1: Tensor, noise: Tensor) -> Tensor:
        """log p of intensities ``(n, pixels)``, or a lower bound of it, in nats, ``(n,)``.

        Arguments:
            noise: Standard normal ``(draws, n, latents)``; where the density is exact, it is not looked at.
        """

    def reconstruct(self, x_1: Tensor) -> Tensor:
        """Images as the latents of ``x_1`` have them: what noise there is in ``x_1`` is left behind, as error."""
        return self.decode(self.encode(x_1))

    def imagine(self, z_0: Tensor, e: Tensor | None = None) -> Tensor:
        """Images of source points of the latents."""
        return self.decode(self.prior(z_0)[0], e)

    # -- the moments of its modules --------------------------------------------------------------------------------

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """m_e and σ_e of images ``(n, pixels)``."""
        return self._checked("encoder", self.encoder(y.unflatten(1, (1, *self.shape))), self.latents, "latents")

    def likelihood(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """m_d and σ_d of latents ``(n, latents)``."""
        return self._checked("decoder", self.decoder(z), self.pixels, "pixels")

    def _inward(
        self, c: Tensor, h: Tensor, moments: tuple[Tensor, Tensor], shell: Tensor | slice = slice(None)
    ) -> Inward:
        """Latents and errors of a core and a shell.

        Arguments:
            moments: m_e and σ_e of the latents.
            shell: Which of the decoder's pixels the shell is.
        """
        m_e, sigma_e = moments
        c_prime, core = self.core.inverse(c)
        z = m_e + sigma_e * c_prime
        m_d, sigma_d = (part[:, shell] for part in self.likelihood(z))
        e = (h - m_d) / sigma_d
        z_0, prior = self.prior.inverse(z)
        return Inward(z, z_0, e, sigma_e.log().sum(1) - sigma_d.log().sum(1) + core + prior)

    @staticmethod
    def _checked(name: str, moments: tuple[Tensor, Tensor], dim: int, what: str) -> tuple[Tensor, Tensor]:
        m, sigma = moments
        if m.shape[1:] != (dim,) or sigma.shape[1:] != (dim,):
            raise ValueError(
                f"the {name} gives means {tuple(m.shape)} and deviations {tuple(sigma.shape)}, expected "
                f"(batch, {dim}) each: one number for each of {dim} {what}"
            )
        return m, sigma


class Partition(Autoencoder, Bijection):
    r"""An autoencoder whose core is some pixels of the image: a bijection, with exact likelihood.

    .. math:: \log p(x_1) = \log N(z_0) + \log N(e) + \sum\log\sigma_e - \sum\log\sigma_d
              + \log|\det f'| + \log|\det (g^{-1})'| + \log|\det \text{outer}^{-1\prime}|

    The decoder says something of every pixel, but what it says of the core is not looked at: those pixels follow from
    the latents and the shell.

    Arguments:
        modules: What it is made of.
        mask: Which pixels are the core.
    Raises: ValueError if the mask names another number of pixels than there are latents.
    Invariant: the density integrates to 1 (``tests/maps/test_autoencoders.py``).
    Reference: Silvestri, Roos and Ambrogioni 2022,
        *Closing the gap: exact maximum likelihood training of generative autoencoders using invertible layers*,
        arXiv 2205.09546.
    """

    inner: Tensor
    shell: Tensor

    def __init__(self, modules: Modules, mask: Mask | None = None):
        super().__init__(modules, math.prod(modules.shape))
        inner = (mask or Centre())(modules.shape, modules.latents)
        outside = torch.ones(self.pixels, dtype=torch.bool).index_fill(0, inner, False)
        self.register_buffer("inner", inner, persistent=False)
        self.register_buffer("shell", outside.nonzero().squeeze(1), persistent=False)

    def inward(self, y: Tensor) -> Inward:
        """Latents and errors of images ``(n, pixels)``."""
        moments = self.posterior(y.index_fill(1, self.inner, 0.0))
        return self._inward(y[:, self.inner], y[:, self.shell], moments, self.shell)

    def outward(self, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Images of latents and errors, and the log-determinant of the way from both."""
        m_d, sigma_d = (part[:, self.shell] for part in self.likelihood(z))
        h = m_d + sigma_d * e
        y = h.new_zeros(len(h), self.pixels).index_copy(1, self.shell, h)
        m_e, sigma_e = self.posterior(y)
        c, core = self.core((z - m_e) / sigma_e)
        return y.index_copy(1, self.inner, c), sigma_d.log().sum(1) - sigma_e.log().sum(1) + core

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        z, prior = self.prior(x_0[:, : self.latents])
        y, log_det = self.outward(z, x_0[:, self.latents :])
        x_1, outer = self.outer(y)
        return x_1, prior + log_det + outer

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        y, outer = self.outer.inverse(x_1)
        found = self.inward(y)
        return torch.cat([found.z_0, found.e], dim=1), found.log_det + outer

    def encode(self, x_1: Tensor) -> Tensor:
        return self.inward(self.outer.inverse(x_1)[0]).z

    def decode(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        y, _ = self.outward(z, z.new_zeros(len(z), len(self.shell)) if e is None else e)
        return self.outer(y)[0]

    def log_likelihood(self, x_1: Tensor, noise: Tensor) -> Tensor:
        return self.log_prob(x_1)


class LatentVariable(Autoencoder):
    r"""An autoencoder whose core w is a variable beside the image, with a distribution q(w | y) that can be drawn from.

    .. math:: \log p(y) \ge \mathbb{E}_{w_i \sim q}\, \log \frac1K \sum_{i=1}^K \frac{p(y, w_i)}{q(w_i | y)}

    The bound grows with the number K of draws and is exact for every K where q is the model's own posterior of w. A
    source point is (z_0, e), which gives the image without w.

    Arguments:
        modules: What it is made of.
    Reference: Burda, Grosse and Salakhutdinov 2015, *Importance weighted autoencoders*, arXiv 1509.00519.
    """

    def __init__(self, modules: Modules):
        super().__init__(modules, modules.latents + math.prod(modules.shape))

    @abstractmethod
    def auxiliary(self, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws w of q(w | y) made of normal noise ``(draws, n, latents)``, and their log-densities ``(draws, n)``."""

    def inward(self, y: Tensor, w: Tensor) -> Inward:
        """Latents and errors of images ``(n, pixels)``, each with the same number of cores ``(draws, n, latents)``;
        ``(draws * n, ...)``."""
        m_e, sigma_e = (part.repeat(len(w), 1) for part in self.posterior(y))
        return self._inward(w.flatten(0, 1), y.repeat(len(w), 1), (m_e, sigma_e))

    def log_joint(self, x_1: Tensor, w: Tensor) -> Tensor:
        """log p(x_1, w) of intensities ``(n, pixels)`` and cores ``(draws, n, latents)``: ``(draws, n)``."""
        y, outer = self.outer.inverse(x_1)
        return self.inward(y, w).log_density.unflatten(0, (len(w), len(y))) + outer

    def log_likelihood(self, x_1: Tensor, noise: Tensor) -> Tensor:
        w, log_q = self.auxiliary(self.outer.inverse(x_1)[0], noise)
        return (self.log_joint(x_1, w) - log_q).logsumexp(0) - math.log(len(noise))

    def encode(self, x_1: Tensor) -> Tensor:
        y = self.outer.inverse(x_1)[0]
        w, _ = self.auxiliary(y, y.new_zeros(1, len(y), self.latents))
        return self.inward(y, w).z

    def decode(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        m_d, sigma_d = self.likelihood(z)
        return self.outer(m_d if e is None else m_d + sigma_d * e)[0]

    def push(self, x_0: Tensor, condition: Condition = FREE) -> Tensor:
        return self.imagine(x_0[:, : self.latents], x_0[:, self.latents :])


class VAE(LatentVariable):
    r"""The variational autoencoder: its core is noise that knows nothing of the image.

    .. math:: w \sim N(0, 1), \qquad z = m_e(y) + \sigma_e(y)\, f(w)

    Without a core flow that is the usual one, whose bound with one draw is the ELBO and with more that of IWAE; with
    one, the posterior is a flow.

    Reference: Kingma and Welling 2013, *Auto-encoding variational Bayes*, arXiv 1312.6114; Rezende and Mohamed 2015,
        *Variational inference with normalizing flows*, arXiv 1505.05770.
    """

    def auxiliary(self, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise, log_normal(noise)


class Augmented(LatentVariable):
    r"""An autoencoder in the image's space expanded by a core, near a dense projection of the image.

    .. math:: w = W y + \tau \varepsilon, \qquad z = m_e(y) + \sigma_e(y)\, f(w)

    With an identity core this is a variational autoencoder, and its bound the ELBO. Training W and the modules by
    log p(y, w) at w = W y instead has no maximum (:class:`~flowmaps.objectives.RawExpandedDensity`).

    Arguments:
        modules: What it is made of.
        deviation: τ.
    Raises: ValueError if τ is not positive.
    Reference: Silvestri, Roos and Ambrogioni 2022, arXiv 2205.09546 (the expanded space; the bound is this library's).
    """

    def __init__(self, modules: Modules, deviation: float = 0.1):
        super().__init__(modules)
        if not deviation > 0:
            raise ValueError(f"deviation is {deviation}, expected a positive number")
        self.deviation, self.project = deviation, nn.Linear(self.pixels, self.latents, bias=False)
        nn.init.normal_(self.project.weight, std=self.pixels**-0.5)

    def auxiliary(self, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        w = self.project(y) + self.deviation * noise
        return w, log_normal(noise) - self.latents * math.log(self.deviation)


def log_normal(x: Tensor) -> Tensor:
    """The log-density of standard normal numbers, summed over the last dimension."""
    return -(x.square() + math.log(2 * math.pi)).sum(-1) / 2
