"""Sources, couplings, the straight path and its posterior relations; spaces of several fields."""

import pytest
import torch

from flowmaps.fields import Condition, across
from flowmaps.paths import Dirichlet, Gaussian, GeodesicPath, MinibatchOT, root_snr
from flowmaps.spaces import Embedded, Euclidean, OneHot, Product
from identities.cases import finite, seeded, state, times


def test_the_path_starts_at_the_source_and_ends_at_the_data():
    path = GeodesicPath(OneHot(5))
    x_0, x_1 = torch.randn(4, 3, 5, generator=seeded()), torch.randint(5, (4, 3), generator=seeded())
    assert torch.equal(path(x_0, x_1, torch.zeros(4)), x_0)
    assert torch.equal(path(x_0, x_1, torch.ones(4)), path.space.encode(x_1))
    t = torch.full((4,), 0.25)
    assert torch.allclose(path(x_0, x_1, t), 0.75 * x_0 + 0.25 * path.space.encode(x_1))
    assert torch.allclose(path.velocity(x_0, x_1, t), path.space.encode(x_1) - x_0)


@pytest.mark.parametrize("field", [OneHot(4), Embedded(9, 4), Embedded(3, 6)])
def test_gaussian_noise_has_the_gram_matrix_as_covariance(field):
    path = GeodesicPath(field)
    x = path.start(path.noise((40_000, 1), seeded())).detach().squeeze(1)
    expected = (field.gram() if isinstance(field, Embedded) else torch.eye(4)).detach()
    assert torch.allclose(x.mT @ x / len(x), expected, atol=0.06 * float(expected.diag().max()))


def test_dirichlet_noise_is_uniform_on_the_simplex():
    path = GeodesicPath(OneHot(4), Dirichlet())
    x = path.start(path.noise((50_000, 1), seeded())).squeeze(1)
    assert torch.allclose(x.sum(1), torch.ones(len(x)), atol=1e-5) and bool((x >= 0).all())
    assert torch.allclose(x.mean(0), torch.full((4,), 0.25), atol=5e-3)
    assert torch.allclose(x.var(0), torch.full((4,), 3 / 80), atol=2e-3)  # a(A - a)/(A²(A + 1)), a = 1, A = 4


def test_velocity_and_score_follow_from_the_posterior():
    """The score is the gradient of the exact log-density; the velocity is the mean slope of pairs through x."""
    law = finite()
    path = law.flow_map().path
    x, _ = state(law.flow_map())
    t = times()[1]
    e = law.one_hot.unflatten(1, (3, 3))

    def log_density(x):
        distance = (x.unsqueeze(1) - across(t, x).unsqueeze(1) * e).flatten(2).square().sum(-1)
        return (law.log_p - distance / (2 * (1 - t).square().unsqueeze(-1))).logsumexp(1).sum()

    mu = law(x, t, t).exp()
    assert torch.allclose(path.score(x, mu, t), torch.func.grad(log_density)(x), atol=1e-9)
    v = law.flow_map().velocity(x, t)
    assert torch.allclose(v, (mu - x) / (1 - across(t, x)), atol=1e-12)
    with pytest.raises(ValueError, match="standard normal source"):
        GeodesicPath(OneHot(3), Dirichlet()).score(x, mu, t)
    assert torch.equal(root_snr(torch.tensor(0.5)), torch.tensor(1.0))


def test_known_positions_are_clean_at_every_time():
    path = GeodesicPath(OneHot(3))
    x_0, x_1 = torch.randn(2, 4, 3, generator=seeded()), torch.randint(3, (2, 4), generator=seeded())
    known = torch.tensor([[True, False, False, True], [False] * 4])
    x_t = path(x_0, x_1, torch.tensor([0.3, 0.3]), Condition(known=known))
    assert torch.equal(x_t[known], path.space.encode(x_1)[known])
    assert torch.equal(path.velocity(x_0, x_1, torch.rand(2), Condition(known=known))[known], torch.zeros(2, 3))


def test_minibatch_transport_is_the_cheapest_pairing():
    path = GeodesicPath(OneHot(4))
    x_0, x_1 = torch.randn(7, 2, 4, generator=seeded()), torch.randint(4, (7, 2), generator=seeded())
    e = path.space.encode(x_1)
    order = MinibatchOT()(path.space, x_0, e)
    assert sorted(order.tolist()) == list(range(7))
    cost = lambda order: float((x_0[order] - e).square().sum())  # noqa: E731
    best = min(cost(torch.randperm(7, generator=seeded(i))) for i in range(3000))
    assert cost(order) <= best + 1e-5


def test_transport_in_groups_pairs_within_each():
    x_0, x_1 = torch.randn(2, 10, 2, generator=seeded())
    order = MinibatchOT(group=4)(Euclidean(2), x_0, x_1)
    assert [sorted(part.tolist()) for part in order.split(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    pairs = enumerate(zip(x_0.split(4), x_1.split(4), strict=True))
    alone = [MinibatchOT()(Euclidean(2), a, b) + 4 * i for i, (a, b) in pairs]
    assert torch.equal(order, torch.cat(alone))
    with pytest.raises(ValueError, match="group is 0"):
        MinibatchOT(group=0)


def test_bonds_are_symmetric_and_have_no_noise_on_the_diagonal():
    space = Product({"atoms": OneHot(3), "bonds": OneHot(2, symmetric=True)})
    path = GeodesicPath(space, Gaussian())
    noise = path.noise({"atoms": (500, 4), "bonds": (500, 4, 4)}, seeded())
    bonds = path.start(noise)["bonds"]
    assert torch.equal(bonds, bonds.transpose(1, 2))
    assert float(bonds.diagonal(dim1=1, dim2=2).abs().max()) == 0
    assert float(bonds[:, 0, 1].var()) == pytest.approx(1, abs=0.1)


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match="'bonds' is missing"):
        Product({"atoms": OneHot(3), "bonds": OneHot(2)}).encode({"atoms": torch.zeros(1, 2, dtype=torch.long)})


@pytest.mark.parametrize("make", [lambda: OneHot(0), lambda: Embedded(0, 3), lambda: Product({})])
def test_empty_spaces_are_refused(make):
    with pytest.raises(ValueError, match="at least (one|1)"):
        make()
