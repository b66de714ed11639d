"""Autoencoders within flows: exact where the core is in the image, a bound where it is beside it."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from flowmaps.maps import Affine
from flowmaps.maps.autoencoders import VAE, Augmented, Modules, Partition
from flowmaps.maps.bijection import Composed
from flowmaps.maps.conditional import ConditionalNormal, LearnedScale, PredictedScale
from flowmaps.maps.masks import Centre, Chosen, Corner
from flowmaps.maps.preprocessing import Logit, Shift, dequantise, quantise
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Euclidean
from identities.cases import randomised, seeded

MASKS = {"centre": Centre(), "corner": Corner(), "chosen": Chosen([(1, 2), (0, 1)])}


def perceptron(inputs: int, outputs: int, seed: int) -> nn.Module:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))
    return randomised(layers, seed, scale=1.0)


def gaussian_flow(dim: int, seed: int = 5) -> Affine:
    factor = torch.randn(dim, dim, generator=seeded(seed)).tril(-1) / 3 + torch.eye(dim) * 1.3
    return Affine(GeodesicPath(Euclidean(dim)), torch.randn(dim, generator=seeded(seed)), factor).double()


def preprocessed(D: int) -> Composed:
    return Composed(GeodesicPath(Euclidean(D)), [Shift(0.3, 0.5), Logit(0.05)], (D,)).double()


def modules(shape=(3, 4), latents: int = 2, outer: bool = True, flows: bool = True) -> Modules:
    D = math.prod(shape)
    return Modules(
        shape,
        latents,
        PredictedScale(perceptron(D, 2 * latents, 1), 0.7),
        PredictedScale(perceptron(latents, 2 * D, 2)),
        gaussian_flow(latents) if flows else None,
        gaussian_flow(latents, 9) if flows else None,
        preprocessed(D) if outer else None,
    )


def images(n: int, D: int, seed: int = 3) -> torch.Tensor:
    return torch.rand(n, D, generator=seeded(seed), dtype=torch.float64) * 0.8 + 0.1


@pytest.mark.parametrize("mask", MASKS)
def test_a_partition_is_a_bijection_with_the_log_determinants_of_its_jacobian(mask):
    f = Partition(modules(), MASKS[mask]).double()
    x_0 = torch.randn(4, 12, generator=seeded(), dtype=torch.float64)
    x_1, up = f(x_0)
    back, down = f.inverse(x_1)
    assert torch.allclose(back, x_0, atol=1e-10) and torch.allclose(up + down, torch.zeros(4).double(), atol=1e-10)
    J = torch.stack([torch.autograd.functional.jacobian(lambda x: f(x[None])[0][0], x) for x in x_0])
    assert torch.allclose(up, torch.linalg.slogdet(J)[1], atol=1e-10)
    assert torch.equal(f.push(x_0), x_1)


@pytest.mark.parametrize("mask", MASKS)
def test_inverses_in_single_precision(mask):
    f = Partition(modules(outer=False), MASKS[mask]).float()
    x_0 = torch.randn(200, 12, generator=seeded())
    back, down = f.inverse(f(x_0)[0])
    assert (back - x_0).abs().amax() < 1e-5 and (f(x_0)[1] + down).abs().amax() < 2e-5


@pytest.mark.parametrize("mask", [Centre(), Corner(), Chosen([(0, 0)])])
def test_the_density_of_a_partition_integrates_to_one(mask):
    f = Partition(modules((1, 2), 1, outer=False), mask).double()
    side = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    with torch.no_grad():
        p = f.log_prob(torch.cartesian_prod(side, side)).exp()
    assert abs(float(p.sum()) * float(side[1] - side[0]) ** 2 - 1) < 1e-4
    assert p.max() > 0.01  # and is spread over many cells, no single peak
    assert float((p > p.max() / 10).sum()) > 100


def test_densities_of_intensities_are_those_of_logits():
    """The preprocessing brings its own log-determinant."""
    f, bare = Partition(modules()).double(), Partition(modules(outer=False)).double()
    x_1 = images(5, 12)
    y, log_det = preprocessed(12).inverse(x_1)
    assert torch.allclose(f.log_prob(x_1), bare.log_prob(y) + log_det)
    J = torch.autograd.functional.jacobian(lambda x: preprocessed(12).inverse(x[None])[0][0], x_1[0])
    assert torch.allclose(torch.linalg.slogdet(J)[1], log_det[0])


def test_dequantised_levels_come_back():
    k = torch.arange(17).repeat(40, 1)
    x = dequantise(k, 17, torch.rand(40, 17, generator=seeded()))
    assert bool((0 <= x).all() and (x < 1).all()) and torch.equal(quantise(x, 17), k)
    y = Composed(GeodesicPath(Euclidean(17)), [Logit(1e-6)], (17,))
    assert (y.push(y.inverse(x)[0]) - x).abs().amax() < 1e-5


def test_a_partition_reconstructs_what_its_latents_and_core_say():
    f = Partition(modules()).double()
    x_1 = images(6, 12)
    z = f.encode(x_1)
    e = f.inverse(x_1)[0][:, f.latents :]
    assert torch.allclose(f.decode(z, e), x_1, atol=1e-10)  # with its errors, the image itself
    assert torch.allclose(f.encode(f.reconstruct(x_1)), z, atol=1e-9)  # without them, an image of the same latents
    z_0 = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    assert torch.allclose(f.imagine(z_0, e), f.push(torch.cat([z_0, e], dim=1)))


# -- the linear Gaussian model, whose marginal is known ------------------------------------------------------------

A = torch.tensor([[1.0], [-0.5], [0.3]]).double()
NOISE, OFFSET = torch.tensor([0.5, 0.8, 0.6]).double(), torch.tensor([0.2, 0.0, -1.0]).double()
PRECISION = 1 + (A.squeeze(1).square() / NOISE.square()).sum()  # of the posterior of z


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer)


def decoder() -> LearnedScale:
    module = LearnedScale(linear(A, OFFSET), 3).double()
    with torch.no_grad():
        module.scale.copy_((NOISE - 1e-5).expm1().log())
    return module


def exact(y: torch.Tensor) -> torch.Tensor:
    return MultivariateNormal(OFFSET, A @ A.mT + NOISE.square().diag()).log_prob(y)


def linear_gaussian(off: float, core: Affine | None, deviation: float = 0.4) -> Augmented:
    """Its posterior is that of the model where ``off`` is 0."""
    f = Augmented(Modules((1, 3), 1, nn.Identity(), decoder(), core=core), deviation).double()
    shift, scale = (0.0, 1.0) if core is None else (float(core.mean.detach()), float(core.factor.detach()))
    W = f.project.weight.detach()
    sigma = float(PRECISION.rsqrt()) * scale / deviation  # of z given c', whose own deviation is τ / scale
    mean = (A / NOISE.square()[:, None]).mT / PRECISION  # m_post = mean (y - OFFSET)
    weight, bias = mean - sigma * W / scale, sigma * shift / scale - mean @ OFFSET + off
    f.encoder = ConditionalNormal(linear(weight, bias.reshape(1)), sigma)
    return f


def points() -> torch.Tensor:
    return 1.5 * torch.randn(400, 3, generator=seeded(2), dtype=torch.float64)


@pytest.mark.parametrize("core", [None, gaussian_flow(1)], ids=["identity core", "affine core"])
def test_the_bound_is_exact_at_the_optimum_and_below_elsewhere(core):
    y = points()
    noise = torch.randn(64, 400, 1, generator=seeded(), dtype=torch.float64)
    best = linear_gaussian(0.0, core)
    for draws in (1, 64):
        assert torch.allclose(best.log_likelihood(y, noise[:draws]), exact(y), atol=1e-10)
    worse = linear_gaussian(0.3, core)
    gap = [(exact(y) - worse.log_likelihood(y, noise[:draws])).mean().item() for draws in (1, 8, 64)]
    elbo = float(0.3**2 * PRECISION / 2)  # KL of two normal posteriors, one shifted
    assert gap[0] == pytest.approx(elbo, abs=0.05) and gap[0] > gap[1] > gap[2] > -0.02 and gap[2] < elbo / 5


def test_with_an_identity_core_the_bound_is_the_elbo():
    """Written out: log p(y | z) + log p(z) - log q(z | y) at the reparametrised z."""
    f = Augmented(modules(flows=False), 0.3).double()
    x_1 = images(5, 12)
    noise = torch.randn(1, 5, 2, generator=seeded(), dtype=torch.float64)
    y, log_det = f.outer.inverse(x_1)
    m, sigma = f.posterior(y)
    q = Normal(m + sigma * f.project(y), 0.3 * sigma)
    z = q.mean + q.stddev * noise[0]
    elbo = Normal(*f.likelihood(z)).log_prob(y).sum(1) + (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(1)
    assert torch.allclose(f.log_likelihood(x_1, noise), elbo + log_det)


def test_a_vae_has_the_elbo_and_the_importance_weighted_bound():
    f = VAE(modules(outer=False, flows=False)).double()
    y = images(5, 12)
    noise = torch.randn(7, 5, 2, generator=seeded(), dtype=torch.float64)
    q = Normal(*f.posterior(y))
    weights = []
    for eps in noise:
        z = q.mean + q.stddev * eps
        log_p = Normal(*f.likelihood(z)).log_prob(y).sum(1) + Normal(0.0, 1.0).log_prob(z).sum(1)
        weights.append(log_p - q.log_prob(z).sum(1))
    assert torch.allclose(f.log_likelihood(y, noise[:1]), weights[0])
    assert torch.allclose(f.log_likelihood(y, noise), torch.stack(weights).exp().mean(0).log())  # minus log K


def test_a_flow_posterior_is_a_change_of_variables_of_the_noise():
    f = VAE(modules(outer=False)).double()
    y, noise = images(5, 12), torch.randn(1, 5, 2, generator=seeded(), dtype=torch.float64)
    m, sigma = f.posterior(y)
    core = Affine(GeodesicPath(Euclidean(2)), f.core.mean.detach(), f.core.factor.detach())
    c = core.inverse(noise[0])[0]
    z = m + sigma * c
    inverse = torch.linalg.inv(core.factor)
    q = MultivariateNormal(m + sigma * (-core.mean @ inverse.mT), scale_tril=sigma.diag_embed() @ inverse)
    prior = MultivariateNormal(f.prior.mean, scale_tril=f.prior.factor)
    elbo = Normal(*f.likelihood(z)).log_prob(y).sum(1) + prior.log_prob(z) - q.log_prob(z)
    assert torch.allclose(f.log_likelihood(y, noise), elbo)


def test_the_raw_density_of_the_expanded_space_has_no_maximum():
    """m_e = m - s W y and σ_e = s leave the latents where they are, and the density at w = W y grows like L log s."""
    y, values = points(), []
    for s in (1.0, 1e1, 1e2, 1e4, 1e8):
        f = linear_gaussian(0.0, None)
        W = f.project.weight.detach()
        mean = (A / NOISE.square()[:, None]).mT / PRECISION
        f.encoder = ConditionalNormal(linear(mean - s * W, -mean @ OFFSET), s)
        values.append(f.log_joint(y, f.project(y)[None]).mean().item())
        assert torch.allclose(f.encode(y), (y - OFFSET) @ mean.mT)
    growth = [later - values[0] for later in values[1:]]
    assert growth == pytest.approx([math.log(s) for s in (1e1, 1e2, 1e4, 1e8)], abs=1e-6)
    assert values[-1] > float(exact(y).mean()) + 10  # far above what any density of y could say


def test_importance_sampling_of_the_marginal_subtracts_the_number_of_draws():
    f = linear_gaussian(0.3, None)
    y = points()[:50]
    noise = torch.randn(4000, 50, 1, generator=seeded(1), dtype=torch.float64)
    assert (f.log_likelihood(y, noise) - exact(y)).abs().amax() < 0.1


# -- masks and modules -----------------------------------------------------------------------------------------------


def test_masks():
    assert Centre()((5, 5), 9).tolist() == [12, 13, 18, 17, 16, 11, 6, 7, 8]
    assert Corner()((4, 4), 6).tolist()[:4] == [0, 3, 12, 15]
    assert Corner()((3, 3), 4).tolist() == [0, 2, 6, 8]
    for mask in (Centre(), Corner()):
        for shape in ((28, 28), (3, 7), (8, 2), (1, 5)):
            most = math.prod(shape) - 1
            assert len(set(mask(shape, most).tolist())) == most


@pytest.mark.parametrize(
    ("mask", "latents", "complaint"),
    [
        (Chosen([(0, 0), (1, 1)]), 3, "names 2 pixels for 3 latent dimensions"),
        (Chosen([(0, 0), (1, 1), (2, 2)]), 2, "names 3 pixels for 2 latent dimensions"),
        (Chosen([(0, 0), (0, 0)]), 2, "named twice"),
        (Chosen([(0, 9)]), 1, "outside of an image of 3 x 4"),
        (Centre(), 12, "latents is 12, expected 1 to 11"),
        (Corner(), 0, "latents is 0"),
    ],
)
def test_masks_with_the_wrong_pixels_are_refused(mask, latents, complaint):
    with pytest.raises(ValueError, match=complaint) as refused:
        Partition(modules(flows=False)._replace(latents=latents), mask)
    assert "\n" not in str(refused.value)


def test_modules_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="prior flow has 3 dimensions but there are 2 latents"):
        Partition(modules()._replace(prior=gaussian_flow(3)))
    wrong = modules()._replace(encoder=PredictedScale(perceptron(12, 6, 1)))
    with pytest.raises(ValueError, match="the encoder gives means .* one number for each of 2 latents"):
        Partition(wrong).double().log_prob(images(2, 12))
    with pytest.raises(ValueError, match="decoder gives"):
        VAE(modules()._replace(decoder=PredictedScale(perceptron(2, 6, 1)))).double().decode(torch.zeros(1, 2).double())
    with pytest.raises(ValueError, match="deviation is 0"):
        Augmented(modules(), 0.0)


class Borrowed(nn.Module):
    """A network that knows nothing of this library: convolutions, batch norm, two heads, its own way to say scales."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten())
        self.mean, self.spread = nn.Linear(48, 2), nn.Linear(48, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.body(x)
        return self.mean(h), self.spread(h).exp()


@pytest.mark.parametrize("family", [Partition, Augmented, VAE])
def test_any_modules_drop_in_and_learn(family):
    torch.manual_seed(0)
    picture = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (1, 3, 4)), nn.ConvTranspose2d(1, 1, 3, padding=1))
    f = family(Modules((3, 4), 2, Borrowed(), LearnedScale(picture, 12)))
    y = torch.randn(256, 2, generator=seeded()) @ torch.randn(2, 12, generator=seeded(1)) + 0.1
    noise = torch.randn(1, 256, 2, generator=seeded(2))
    optimizer = torch.optim.Adam(f.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        loss = -f.log_likelihood(y, noise).mean()
        values.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < values[0] - 2
    unmoved = [name for name, p in f.named_parameters() if p.grad is None]
    assert not unmoved
    assert f.eval().reconstruct(y).shape == y.shape and f.imagine(torch.zeros(3, 2)).shape == (3, 12)
