"""What every space promises of its geometry, and what each one is by itself."""

import math

import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps.fields import Fields, leaves
from flowmaps.paths import Dirichlet, GeodesicPath
from flowmaps.spaces import (
    Embedded,
    Euclidean,
    FisherSphere,
    Hyperboloid,
    OneHot,
    PoincareBall,
    Product,
    Rotations,
    Sphere,
    Torus,
    is_categorical,
)
from flowmaps.spaces.fisher import angle_over_sine
from identities.cases import randomised, seeded

SPACES = {
    "Euclidean": (lambda: Euclidean(3), (4, 2)),
    "OneHot": (lambda: OneHot(3), (4, 2)),
    "symmetric": (lambda: OneHot(3, symmetric=True), (4, 5, 5)),
    "Embedded": (lambda: randomised(Embedded(7, 3)), (4, 2)),
    "Sphere": (lambda: Sphere(3), (4, 2)),
    "circle": (lambda: Sphere(2), (4, 2)),
    "FisherSphere": (lambda: FisherSphere(4), (4, 2)),
    "Torus": (lambda: Torus(3), (4, 2)),
    "PoincareBall": (lambda: PoincareBall(3), (4, 2)),
    "Hyperboloid": (lambda: Hyperboloid(4), (4, 2)),
    "Rotations": (lambda: Rotations(), (4, 2)),
    "curved Product": (
        lambda: Product({"a": Torus(2), "b": Rotations(), "c": PoincareBall(2)}),
        dict.fromkeys("abc", (4,)),
    ),
    "Product": (lambda: Product({"a": Euclidean(2), "b": Sphere(4)}), {"a": (4, 2), "b": (4, 1)}),
}


def points(space, lead, seed: int):
    shapes = space.noise_shape(lead)
    draw = lambda shape: torch.randn(shape, generator=seeded(seed), dtype=torch.float64)  # noqa: E731
    noise = Fields({n: draw(s) for n, s in shapes.items()}) if isinstance(shapes, dict) else draw(shapes)
    return space.random(noise)


def close(a, b, atol=1e-12) -> bool:
    return all(torch.allclose(x, y, atol=atol) for x, y in leaves(a, b))


@pytest.mark.parametrize("name", SPACES)
def test_exp_and_log_are_inverse(name):
    make, lead = SPACES[name]
    space = make()
    x, y = points(space, lead, 0), points(space, lead, 1)
    assert close(space.exp(x, space.log(x, y)), y)
    v = space.project(x, space.log(x, y) * 0.3)
    assert close(space.log(x, space.exp(x, v)), v)
    for a, b in leaves(space.exp(x, v * 0), x):
        assert torch.equal(a, b)  # bit for bit
    assert close(space.geodesic(x, y, torch.ones(4).double()), y)


@pytest.mark.parametrize("name", SPACES)
def test_every_two_examples_are_as_far_apart_as_their_geodesic_is_long(name):
    make, lead = SPACES[name]
    space = make()
    x, y = points(space, lead, 0), points(space, lead, 1)
    away = space.apart(x, y)
    v = space.log(x, y)
    squares = [square.reshape(4, -1).sum(1) for (square,) in leaves(space.inner(x, v, v))]
    assert away.shape == (4, 4) and torch.allclose(away.diagonal(), torch.stack(squares).sum(0), atol=1e-9)
    assert torch.allclose(space.apart(y, x), away.mT, atol=1e-9)


@pytest.mark.parametrize("name", SPACES)
def test_transport_keeps_the_metric_and_the_geodesic(name):
    make, lead = SPACES[name]
    space = make()
    x, y = points(space, lead, 0), points(space, lead, 1)
    u, v = (space.project(x, points(space, lead, seed)) for seed in (2, 3))
    there = [space.transport(x, y, w) for w in (u, v)]
    assert close(space.inner(y, *there), space.inner(x, u, v))
    assert close(space.project(y, there[0]), there[0])
    assert close(space.transport(x, y, space.log(x, y)), -space.log(y, x))


@pytest.mark.parametrize("name", SPACES)
def test_projection_is_a_projection_and_sharp_is_the_gradient(name):
    """sharp(x, ∇f) is the direction in which f grows: its derivative along v is <sharp, v>, per position."""
    make, lead = SPACES[name]
    space = make()
    x, v = points(space, lead, 0), points(space, lead, 1)
    u = space.project(x, v)
    assert close(space.project(x, u), u)
    if name in ("symmetric", "Embedded"):
        return  # their gradients are paired with the noise, not with the metric: tests/steering/test_kernels.py
    g = points(space, lead, 2)
    for a, b in leaves(space.inner(x, space.sharp(x, g), u), (g * u)):
        assert torch.allclose(a, b.sum(-1), atol=1e-12)


@given(st.integers(2, 6), st.integers(0, 50), st.sampled_from([0.0, 1e-9, 1e-4, 1.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_the_sphere_is_that_of_geoopt(dim, seed, scale):
    space, other = Sphere(dim), geoopt.Sphere()
    draw = lambda k: torch.randn(5, dim, generator=seeded(seed + k), dtype=torch.float64)  # noqa: E731
    x = space.random(draw(0))
    v = space.project(x, draw(1))
    v = v / v.norm(dim=-1, keepdim=True) * scale
    assert torch.allclose(space.exp(x, v), other.expmap(x, v), atol=1e-7)  # geoopt switches to a series near 0
    y = space.exp(x, v)
    assert torch.allclose(space.log(x, y), v, atol=1e-7)
    assert torch.allclose(space.inner(x, v, v), other.inner(x, v, v).squeeze(-1), atol=1e-12)


def test_derivatives_on_the_sphere_are_finite_where_points_meet():
    """At x = y, and at opposite points, values and gradients are finite."""
    space = Sphere(3)
    x = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    for y in (x, -x, x + torch.tensor([[1e-12, 0.0, 0.0]])):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        v = space.log(a, b)
        (space.exp(a, v) + v).sum().backward()
        assert bool(v.isfinite().all()) and bool(a.grad.isfinite().all()) and bool(b.grad.isfinite().all())
    tangent = torch.func.jvp(lambda y: space.log(x, y), (x,), (torch.tensor([[0.5, 0.0, 0.0]]).double(),))[1]
    assert torch.allclose(tangent, torch.tensor([[0.5, 0.0, 0.0]]).double())


def test_random_points_of_the_sphere_are_uniform():
    x = Sphere(3).random(torch.randn(200_000, 3, generator=seeded()))
    assert torch.allclose(x.norm(dim=-1), torch.ones(len(x)), atol=1e-6)
    assert torch.allclose(x.mean(0), torch.zeros(3), atol=5e-3)
    assert torch.allclose(x.mT @ x / len(x), torch.eye(3) / 3, atol=5e-3)
    height = x[:, 2].sort().values  # Archimedes: the height is uniform on [-1, 1]
    assert float((height - torch.linspace(-1, 1, len(x))).abs().max()) < 0.01


@pytest.mark.parametrize("space", [OneHot(5), Embedded(5, 3), Embedded(3, 8), FisherSphere(5), FisherSphere(5, 0.1)])
def test_categories_come_back(space):
    x_1 = torch.arange(space.K).view(1, -1)
    assert torch.equal(space.decode(space.encode(x_1)), x_1)
    pi = torch.softmax(torch.randn(1, 4, space.K, generator=seeded()), -1)
    x = torch.randn(1, 4, space.dim, generator=seeded(1))
    gamma = torch.tensor([0.3])
    assert torch.allclose(space.approach(x, pi, gamma), space.exp(x, 0.3 * space.toward(x, pi)), atol=1e-6)
    assert space.positions(x_1) == (1, space.K) and space.sizes() == space.K


def test_what_is_no_data_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 4\).*3 coordinates"):
        Euclidean(3).check(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="not finite"):
        Euclidean(1).check(torch.tensor([[float("nan")]]))
    with pytest.raises(ValueError, match="off the unit sphere"):
        Sphere(2).check(torch.ones(3, 2))
    with pytest.raises(ValueError, match="expected one"):
        Euclidean(2).noise_shape({"a": (2,)})
    with pytest.raises(ValueError, match="at least 2"):
        Sphere(1)


def test_fields_are_added_and_scaled_by_name():
    a, b = Fields(x=torch.ones(2), y=torch.zeros(3)), Fields(x=torch.full((2,), 2.0), y=torch.ones(3))
    assert close(a + 0.5 * (b - a), Fields(x=torch.full((2,), 1.5), y=torch.full((3,), 0.5)))
    assert close(-a / 2, a * -0.5) and close(1 - a, Fields(x=torch.zeros(2), y=torch.ones(3)))
    with pytest.raises(ValueError, match="same names"):
        a + Fields(z=torch.ones(2))


def test_a_product_says_whether_it_is_flat_and_categorical():
    assert Product({"a": OneHot(2), "b": Euclidean(1)}).flat and not Product({"a": OneHot(2), "b": Sphere(3)}).flat
    assert is_categorical(Product({"a": OneHot(2)})) and not is_categorical(Product({"a": Euclidean(2)}))
    assert Product({"a": OneHot(2), "b": Euclidean(1)}).sizes() == {"a": 2, "b": None}


def test_random_points_of_the_orthant_and_their_densities():
    """Uniform on the orthant is Dirichlet(1/2) on the simplex; Dirichlet(1) has the density of its volume."""
    space, generator = FisherSphere(3), seeded()
    path, simplex = GeodesicPath(space), GeodesicPath(space, Dirichlet())
    p = path.start(path.noise((200_000,), generator)).square()
    q = simplex.start(simplex.noise((200_000,), generator))
    assert torch.allclose(p.sum(-1), torch.ones(len(p)), atol=1e-5)
    assert torch.allclose(p.mean(0), torch.full((3,), 1 / 3), atol=5e-3)
    assert torch.allclose(p.var(0), torch.full((3,), (1 / 3) * (2 / 3) / 2.5), atol=2e-3)  # α_0 = 3/2
    assert torch.allclose(q.square().var(0), torch.full((3,), (1 / 3) * (2 / 3) / 4), atol=2e-3)  # α_0 = 3
    x = path.start(path.noise((200_000,), generator)).double()
    area = 4 * math.pi / 8
    assert torch.allclose(path.source.log_density(space, x).exp(), torch.tensor(1 / area, dtype=torch.float64))
    assert float(simplex.source.log_density(space, x).exp().mean()) * area == pytest.approx(1, abs=0.01)


def test_lengths_on_the_orthant_are_half_of_fisher_rao():
    p, q = (torch.softmax(torch.randn(2, 5, generator=seeded(k), dtype=torch.float64), -1) for k in range(2))
    space = FisherSphere(5)
    v = space.log(space.lift(p), space.lift(q))
    assert torch.allclose(2 * v.norm(dim=-1), 2 * (p * q).sqrt().sum(-1).arccos())


def test_the_angle_over_its_sine_is_smooth():
    cos = torch.cat(
        [torch.linspace(-0.9, 1, 4001, dtype=torch.float64)[:-1], torch.tensor([0.95 - 1e-12, 0.95 + 1e-12])]
    )
    theta = cos.arccos()
    assert torch.allclose(angle_over_sine(cos), theta / theta.sin(), rtol=1e-10)
    assert torch.autograd.gradcheck(angle_over_sine, torch.tensor([0.0, 0.5, 0.97, 1.0]).double().requires_grad_())
    assert (
        torch.equal(angle_over_sine(torch.ones(1)), torch.ones(1)) and angle_over_sine(-torch.ones(1)).isfinite().all()
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.02])
def test_directions_of_certain_endpoints_lead_to_categories(smoothing):
    space = FisherSphere(4, smoothing)
    x = points(space, (5, 4), 0)
    x_1 = torch.arange(4).expand(5, 4)
    y = space.encode(x_1).double()
    pi = torch.nn.functional.one_hot(x_1, 4).double()
    assert torch.allclose(space.exp(x, space.toward(x, pi)), y, atol=1e-7)
    mixed = torch.softmax(points(Euclidean(4), (5, 4), 3), -1)
    by_hand = sum(mixed[..., k : k + 1] * space.log(x, space.encode(torch.full((5, 4), k)).double()) for k in range(4))
    assert torch.allclose(space.toward(x, mixed), by_hand, atol=1e-6)


def test_an_orthant_of_no_size_is_refused():
    with pytest.raises(ValueError, match="K, the number of categories, is 1"):
        FisherSphere(1)
    with pytest.raises(ValueError, match="smoothing is 1"):
        FisherSphere(3, 1.0)
    with pytest.raises(ValueError, match="FisherSphere alone"):
        Dirichlet().log_density(OneHot(3), torch.zeros(1, 3))
