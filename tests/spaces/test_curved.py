"""The curved spaces: geoopt where it has them, derivatives where geodesics meet or end, densities, float32."""

import math

import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps.autodiff import ForwardMode
from flowmaps.paths import Dirichlet, Gaussian, GeodesicPath, Source, WrappedNormal
from flowmaps.spaces import Euclidean, Hyperboloid, OneHot, PoincareBall, Product, Rotations, Sphere, Torus
from flowmaps.spaces.rotations import from_quaternion, hat, quaternion, rotation_vector
from identities.cases import seeded

SPACES = {
    "Torus": Torus(2),
    "circle of the torus": Torus(1),
    "Sphere": Sphere(3),
    "circle of the sphere": Sphere(2),
    "PoincareBall": PoincareBall(2),
    "Hyperboloid": Hyperboloid(3),
    "Rotations": Rotations(),
}


def draw(space, n: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return space.random(torch.randn(space.noise_shape((n,)), generator=seeded(seed), dtype=dtype))


def tangents(space, x, seed: int = 1) -> torch.Tensor:
    return space.tangent(x, torch.randn(space.noise_shape((len(x),)), generator=seeded(seed), dtype=x.dtype))


@given(st.integers(1, 4), st.integers(0, 50), st.sampled_from([1e-6, 1e-2, 0.5, 2.0]))
@settings(max_examples=40, deadline=None)
def test_the_ball_is_that_of_geoopt(dim, seed, scale):
    space, other = PoincareBall(dim), geoopt.PoincareBall()
    x, y = draw(space, 5, seed), draw(space, 5, seed + 100)
    v, w = scale * tangents(space, x, seed), tangents(space, x, seed + 1)
    assert torch.allclose(space.exp(x, v), other.expmap(x, v), atol=1e-9)
    assert torch.allclose(space.log(x, y), other.logmap(x, y), atol=1e-9)
    assert torch.allclose(space.inner(x, v, w), other.inner(x, v, w, keepdim=True).squeeze(-1), atol=1e-9)
    assert torch.allclose(space.transport(x, y, v), other.transp(x, y, v), atol=1e-9)
    assert torch.allclose(space.sharp(x, w), other.egrad2rgrad(x, w), atol=1e-9)


@given(st.integers(2, 5), st.integers(0, 50), st.sampled_from([1e-2, 0.5, 2.0]))
@settings(max_examples=40, deadline=None)
def test_the_hyperboloid_is_that_of_geoopt(dim, seed, scale):
    space, other = Hyperboloid(dim), geoopt.Lorentz()
    x, y = draw(space, 5, seed), draw(space, 5, seed + 100)
    v, w = scale * tangents(space, x, seed), tangents(space, x, seed + 1)
    assert torch.allclose(space.exp(x, v), other.expmap(x, v), rtol=1e-6)
    assert torch.allclose(space.log(x, y), other.logmap(x, y), rtol=1e-5, atol=1e-5)  # by an arc cosine there
    assert torch.allclose(space.inner(x, v, w), other.inner(x, v, w, keepdim=False), rtol=1e-6, atol=1e-9)
    assert torch.allclose(space.transport(x, y, v), other.transp(x, y, v), rtol=1e-5, atol=1e-7)


def test_both_hyperbolic_models_are_one_space():
    """The change of coordinates carries exp, distances, random points and their densities from one to the other."""
    ball, sheet = PoincareBall(3), Hyperboloid(4)
    noise = torch.randn(2, 50, 3, generator=seeded(), dtype=torch.float64)
    x, y = ball.random(noise)
    a, b = sheet.random(noise)
    assert torch.allclose(Hyperboloid.from_ball(x), a, atol=1e-12) and torch.allclose(Hyperboloid.to_ball(b), y)
    ours, its = ball.log(x, y), sheet.log(a, b)
    assert torch.allclose(ball.inner(x, ours, ours), sheet.inner(a, its, its), rtol=1e-8)
    assert torch.allclose(ball.log_density(x), sheet.log_density(a), atol=1e-9)
    assert torch.allclose(sheet.exp(a, its / 3), Hyperboloid.from_ball(ball.exp(x, ours / 3)), rtol=1e-8)


def test_rotations_are_those_of_the_exponential_of_matrices():
    space = Rotations()
    x, w = draw(space, 20), torch.randn(20, 3, generator=seeded(1), dtype=torch.float64)
    v = (x.unflatten(-1, (3, 3)) @ hat(w)).flatten(-2)
    expected = x.unflatten(-1, (3, 3)) @ torch.linalg.matrix_exp(hat(w))
    assert torch.allclose(space.exp(x, v).unflatten(-1, (3, 3)), expected, atol=1e-12)
    assert torch.allclose(space.inner(x, v, v), w.square().sum(-1))  # the distance is the angle
    assert torch.allclose(space.project(x, v + x), v, atol=1e-12)


@given(st.integers(0, 100), st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 3.0, math.pi - 1e-9, math.pi]))
@settings(max_examples=60, deadline=None)
def test_quaternions_and_axes_at_every_angle(seed, angle):
    axis = torch.randn(4, 3, generator=seeded(seed), dtype=torch.float64)
    axis = angle * axis / axis.norm(dim=-1, keepdim=True)
    R = torch.linalg.matrix_exp(hat(axis))
    assert torch.allclose(from_quaternion(quaternion(R)).unflatten(-1, (3, 3)), R, atol=1e-12)
    assert torch.allclose(torch.linalg.matrix_exp(hat(rotation_vector(R))), R, atol=1e-11)
    if angle < 3.1:
        assert torch.allclose(rotation_vector(R), axis, atol=1e-9)


def test_distances_of_the_torus_go_the_short_way_and_add_up():
    space = Torus(2)
    x, y = torch.tensor([[3.0, -3.0]]).double(), torch.tensor([[-3.0, 3.0]]).double()
    away = 2 * math.pi - 6
    assert torch.allclose(space.log(x, y), torch.tensor([[away, -away]]).double())
    assert torch.allclose(space.inner(x, space.log(x, y), space.log(x, y)), torch.tensor([2 * away**2]).double())
    assert float(space.exp(x, torch.tensor([[40.0, -40.0]]).double()).abs().max()) <= math.pi + 1e-12


def opposite(name: str, x: torch.Tensor) -> torch.Tensor:
    """A point of the cut locus of x, where there is one."""
    if name == "PoincareBall" or name == "Hyperboloid":
        return draw(SPACES[name], len(x), 9)
    if "torus" in name.lower():
        return SPACES[name].exp(x, torch.full_like(x, math.pi))
    if name == "Rotations":
        turn = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=x.dtype))
        return (x.unflatten(-1, (3, 3)) @ turn).flatten(-2)
    return -x


@pytest.mark.parametrize("apart", ["same", "near", "opposite", "nearly opposite"])
@pytest.mark.parametrize("name", SPACES)
def test_first_derivatives_are_finite_where_points_meet_and_where_geodesics_end(name, apart):
    """Of exp and log, backward and forward; and the loss through them."""
    space = SPACES[name]
    x = draw(space, 4)
    small = 1e-9 * tangents(space, x)
    y = {"same": x, "near": space.exp(x, small)}.get(apart, opposite(name, x))
    y = space.exp(y, space.project(y, 1e-9 * tangents(space, y, 3))) if apart == "nearly opposite" else y
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    v = space.log(a, b)
    (space.exp(a, v) + v).sum().backward()
    assert bool(v.isfinite().all()) and bool(a.grad.isfinite().all()) and bool(b.grad.isfinite().all())

    class Log(torch.nn.Module):
        def forward(self, x, s, t, condition=None):
            return space.log(x, y)

    time = torch.zeros(4, dtype=torch.float64)
    value, tangent = ForwardMode()(Log(), (x, time, time), (tangents(space, x, 5), time, time))
    assert bool(value.isfinite().all()) and bool(tangent.isfinite().all())
    if not (isinstance(space, Sphere) and apart == "opposite"):  # where its log has no particular direction
        assert torch.allclose(space.exp(x, v.detach()), space.exp(y, 0 * small), atol=1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_the_derivative_of_exp_at_no_tangent_is_the_identity(name):
    """Points are put back on their space without a change of derivatives."""
    space = SPACES[name]
    x = draw(space, 4)
    v = tangents(space, x)

    class Exp(torch.nn.Module):
        def forward(self, x, s, t, condition=None):
            return space.exp(x, t.unsqueeze(-1) * v)

    one = torch.ones(4, dtype=torch.float64)
    for t in (0 * one, 0.3 * one):
        y, dy = ForwardMode()(Exp(), (x, one, t), (0 * x, 0 * one, one))
        assert torch.allclose(dy, space.transport(x, y, v), atol=1e-10)


@pytest.mark.parametrize("name", SPACES)
def test_float32_stays_on_the_space_in_a_hundred_steps(name):
    space = SPACES[name]
    x = draw(space, 500, dtype=torch.float32)
    for step in range(100):
        x = space.exp(x, 0.3 * tangents(space, x, step))
        assert bool(x.isfinite().all())
    assert float(space.off(x).max()) < 1e-6


@pytest.mark.parametrize("name", SPACES)
def test_tangents_are_standard_normal_and_the_frame_is_the_identity(name):
    space = SPACES[name]
    x = draw(space, 3).repeat_interleave(20_000, 0)
    v, w = tangents(space, x), tangents(space, x, 7)
    assert torch.allclose(space.project(x, v), v, atol=1e-12)
    square = space.inner(x, v, v)
    assert abs(float(square.mean()) - space.dimension) < 0.05 * space.dimension
    frame = space.frame(x)
    product = sum(space.inner(x, v, e) * space.inner(x, e, w) for e in frame)
    assert torch.allclose(product, space.inner(x, v, w), atol=1e-9)
    if space.dimension == len(frame):
        along = torch.stack([space.inner(x, v, e) for e in frame], -1)
        assert torch.allclose(
            along.T.cov().reshape(space.dimension, -1), torch.eye(space.dimension).double(), atol=0.05
        )


MEANS = {
    "Torus": [3.0, -1.0],
    "circle of the torus": [3.0],
    "Sphere": [0.0, 0.6, 0.8],
    "circle of the sphere": [0.6, 0.8],
    "PoincareBall": [-0.6, 0.6],
    "Hyperboloid": Hyperboloid.from_ball(torch.tensor([-0.6, 0.6], dtype=torch.float64)).tolist(),
    "Rotations": [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
}


@pytest.mark.parametrize("deviation", [0.5, 1.5])
@pytest.mark.parametrize("name", SPACES)
def test_wrapped_normals_have_the_density_of_their_draws(name, deviation):
    """Its mean under another distribution, by weights, is 1; and E_q[p/q f] = E_p[f] for a function of the points."""
    space, source = SPACES[name], WrappedNormal(MEANS[name], deviation)
    curved = name in ("PoincareBall", "Hyperboloid")
    base: Source = WrappedNormal(MEANS[name], 1.3 * deviation) if curved else Source()
    n = 100_000
    x, y = (law.state(space, law.noise(space, (n,), seeded(i)).double()) for i, law in enumerate((base, source)))
    weight = (source.log_density(space, x) - base.log_density(space, x)).exp()
    error = float(weight.std() / n**0.5)
    assert abs(float(weight.mean()) - 1) < 4.5 * error and error < 0.05
    mean = torch.tensor(MEANS[name], dtype=torch.float64).expand_as(x)
    f = lambda z: space.inner(mean, space.log(mean, z), space.log(mean, z)).clamp(min=0).sqrt().cos()  # noqa: E731
    assert abs(float((weight * f(x)).mean() - f(y).mean())) < 4.5 * (float((weight * f(x)).std()) + 1) / n**0.5


@pytest.mark.parametrize("name", SPACES)
def test_the_wrapped_normal_of_points_is_that_they_came_from(name):
    space, source = SPACES[name], WrappedNormal(MEANS[name], 0.3)
    found = WrappedNormal.around(space, source.state(space, source.noise(space, (20_000,), seeded())).double())
    assert abs(found.deviation - 0.3) < 0.006
    mean = torch.tensor(MEANS[name], dtype=torch.float64)
    assert float(space.apart(found.mean[None], mean[None]).squeeze()) < 0.012**2
    with pytest.raises(ValueError, match="deviation is 0"):
        WrappedNormal.around(space, mean.expand(5, -1))


@pytest.mark.parametrize(("space", "volume"), [
    (Torus(2), 4 * math.pi**2), (Sphere(3), 4 * math.pi), (Sphere(2), 2 * math.pi), (Sphere(4), 2 * math.pi**2),
    (Rotations(), 8 * math.pi**2),
])  # fmt: skip
def test_random_points_of_compact_spaces_are_uniform(space, volume):
    x = draw(space, 50_000)
    assert torch.allclose(space.log_density(x[:5]), torch.full((5,), -math.log(volume), dtype=torch.float64))
    waves = x if not isinstance(space, Torus) else torch.cat([x.sin(), x.cos()], -1)
    assert float(waves.mean(0).abs().max()) < 0.02
    if isinstance(space, Rotations):  # Haar: the angle has density (1 - cos θ)/π, whose mean is π/2 + 2/π
        angle = rotation_vector(x.unflatten(-1, (3, 3))).norm(dim=-1)
        assert abs(float(angle.mean()) - (math.pi / 2 + 2 / math.pi)) < 0.02
    else:
        one = waves - waves.mean(0)
        assert torch.allclose(one.T.cov(), one.square().mean() * torch.eye(waves.shape[1]).double(), atol=0.02)


def test_sources_of_curved_spaces():
    path = GeodesicPath(PoincareBall(2), WrappedNormal([-0.6, -0.6], 0.7))
    x = path.start(path.noise((1000,), seeded()))
    assert float(x.norm(dim=-1).max()) < 1 and float(x.mean()) < -0.4
    with pytest.raises(ValueError, match="deviation is 0"):
        WrappedNormal([0.0], 0)
    with pytest.raises(ValueError, match="open unit ball"):
        GeodesicPath(PoincareBall(1), WrappedNormal([1.5])).start(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="not Euclidean"):
        GeodesicPath(Euclidean(1), WrappedNormal([0.0])).start(torch.zeros(1, 1))
    assert torch.allclose(Gaussian().log_density(Euclidean(2), torch.zeros(1, 2)), -torch.tensor(2 * math.pi).log())
    for source, space in ((Dirichlet(), OneHot(2)), (Gaussian(), OneHot(2))):
        with pytest.raises(ValueError, match="known"):
            source.log_density(space, torch.zeros(1, 2))
    both = Product({"a": Torus(1), "b": Euclidean(1)})
    found = Source().log_density(both, {"a": torch.zeros(1, 1), "b": torch.zeros(1, 1)})
    assert math.isclose(float(found["a"]), -math.log(2 * math.pi), rel_tol=1e-6)


@pytest.mark.parametrize(("space", "wrong", "said"), [
    (Torus(1), [[4.0]], "modulo 2π"),
    (PoincareBall(1), [[1.0]], "unit ball"),
    (Sphere(2), [[1.0, 1.0]], "by their norm"),
    (Hyperboloid(2), [[1.0, 1.0]], "first coordinate"), (Rotations(), [[2.0, 0, 0, 0, 1, 0, 0, 0, 1]], "orthonormal"),
    (Rotations(), [[-1.0, 0, 0, 0, 1, 0, 0, 0, 1]], "determinant 1"),
])  # fmt: skip
def test_data_off_the_space_are_refused(space, wrong, said):
    with pytest.raises(ValueError, match=said):
        space.check(torch.tensor(wrong))
