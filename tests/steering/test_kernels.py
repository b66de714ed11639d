import pytest
import torch

from flowmaps.fields import Condition, Fields
from flowmaps.maps import EndpointMap
from flowmaps.oracles import GaussianLaw
from flowmaps.paths import Dirichlet, GeodesicPath
from flowmaps.samplers import Jumps, Renoise, generate
from flowmaps.spaces import Embedded, OneHot, Product
from flowmaps.steering import Langevin
from flowmaps.steering.kernels import disturb, inner, langevin, posterior
from steering.laws import distance, floor, generator, small_law


def test_refresh_leaves_a_narrow_law_as_it_is_at_every_rate():
    """For one datum μ is constant, so the Gaussian N(tμ, (1-t)²) is kept however large the rate."""
    flow_map = GaussianLaw(torch.tensor([0.3, -1.0]), a=1e-6).flow_map()
    t = torch.full((40_000,), 0.6)
    x = 0.6 * torch.tensor([0.3, -1.0]) + 0.4 * torch.randn(40_000, 1, 2, generator=generator())
    g = generator(1)
    for rate in (0.01, 0.5, 30.0):
        x = disturb(flow_map, *langevin(x, posterior(flow_map, x, t), t, rate), g)[0]
        assert torch.allclose(x.mean(0), 0.6 * torch.tensor([[0.3, -1.0]]), atol=0.01)
        assert torch.allclose(x.std(0), torch.full((1, 2), 0.4), atol=0.01)


def test_refresh_of_a_product_has_its_width():
    flow_map = small_law().flow_map()
    t, mu = torch.full((40_000,), 0.5), torch.full((40_000, 3, 4), 0.8)
    x = disturb(flow_map, *langevin(mu, mu, t, 50.0, total=2.0), generator())[0]
    assert torch.allclose(x.mean(0), torch.full((3, 4), 0.5 * 0.8 / 2), atol=0.01)
    assert torch.allclose(x.std(0), torch.full((3, 4), 0.5 / 2**0.5), atol=0.01)


def test_no_noise_is_the_plain_sampler():
    flow_map = small_law().flow_map()
    expected = generate(flow_map, Jumps(4), (50, 3), generator(1))
    for sampler in (Langevin(4, c=0.0), Renoise(4, eta=0.0)):
        assert sampler.still and torch.equal(generate(flow_map, sampler, (50, 3), generator(1)), expected)
    x, t = torch.randn(5, 3, 4), torch.full((5,), 0.5)
    mean, deviation = langevin(x, x, t, 0.0)
    assert torch.equal(mean, x) and not deviation.any()


@pytest.mark.parametrize(
    "space",
    [OneHot(6), Embedded(6, 3), Embedded(4, 7), OneHot(3, symmetric=True)],
    ids=["one-hot", "wide", "narrow", "sym"],
)
def test_weights_undo_the_gradient(space):
    """Moves with a gradient, weighted, have the mean and normaliser of moves without it: E[w] = 1, E[w x'] = E[x']."""
    n = 60_000
    for weight in space.parameters():  # of unit rows, whatever was drawn when the space was made
        torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator(9))
    flow_map = EndpointMap(GeodesicPath(space), torch.nn.Identity())
    shape = (n, 2, 2, space.dim)
    t, g = torch.full((n,), 0.6), generator()
    x = space.random(torch.randn(space.noise_shape(shape[:-1]), generator=g)).detach()
    gradient = 0.3 * torch.randn(shape[1:], generator=g).expand(shape)
    with torch.no_grad():
        free = disturb(flow_map, x, t, generator(5))[0]
        moved, log_w = disturb(flow_map, x, t, generator(6), gradient)
    w = log_w.double().exp()
    assert 0.05 < float(w.std()) < 3
    assert abs(float(w.mean()) - 1) < 4 * float(w.std()) / n**0.5
    weighted = (w[:, None] * moved.double().flatten(1)).mean(0)
    assert torch.allclose(weighted, free.double().flatten(1).mean(0), atol=0.05)
    assert float((moved - free).flatten(1).mean(0).abs().max()) > 0.05


def test_a_symmetric_space_pairs_gradients_of_both_places():
    space = OneHot(3, symmetric=True)
    x = space.random(torch.randn(4, 5, 5, 3, generator=generator())).requires_grad_()
    free = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
    weight = torch.randn(5, 5, 3, generator=generator(1))
    gradient = torch.autograd.grad((x * weight).sum(), x)[0]
    paired = space.sharp(x, gradient)
    assert torch.equal(paired, paired.transpose(1, 2))
    assert torch.allclose(paired[:, free], (weight + weight.transpose(0, 1))[free].expand(4, -1, -1))
    assert not paired.diagonal(dim1=1, dim2=2).any()


def test_the_law_is_kept_along_the_path():
    law, n = small_law(), 8000
    sample = generate(law.flow_map(), Langevin(32, c=2.0), (n, 3), generator(1))
    assert distance(law, sample) <= 1.5 * floor(law, n)


def test_products_and_known_positions():
    a, b = small_law(4, 2), small_law(4, 2, seed=1)

    class Two(torch.nn.Module):
        def forward(self, x, s, t, condition):
            return {name: law(x[name], s, t) for name, law in (("a", a), ("b", b))}

    flow_map = EndpointMap(GeodesicPath(Product({"a": OneHot(4), "b": OneHot(4)})), Two())
    sample = generate(flow_map, Langevin(8), {"a": (4000, 2), "b": (4000, 2)}, generator())
    assert distance(a, sample["a"]) <= 2 * floor(a, 4000) and distance(b, sample["b"]) <= 2 * floor(b, 4000)
    law = small_law()
    known = torch.zeros(10, 3, dtype=torch.bool)
    known[:, 1] = True
    given = torch.full((10, 3), 2)
    told = Condition(known=known)
    sample = generate(law.flow_map(), Langevin(8), (10, 3), generator(), condition=told, given=given)
    assert bool((sample[:, 1] == 2).all())


def test_inner_products_sum_over_fields():
    a = Fields({"u": torch.ones(2, 3, 4), "v": torch.full((2, 5, 2), 2.0)})
    assert inner(a, a).tolist() == [12 + 40.0] * 2


def test_bad_noise_is_refused():
    with pytest.raises(ValueError, match="c is -1"):
        Langevin(4, c=-1.0)
    flow_map = EndpointMap(GeodesicPath(OneHot(4), Dirichlet()), small_law())
    with pytest.raises(ValueError, match="Dirichlet"):
        generate(flow_map, Langevin(4), (5, 3), generator())
