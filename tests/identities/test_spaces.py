"""One form for every space: the identities of states vanish on exact maps, through the real objective code."""

import pytest
import torch
from torch import nn

from flowmaps import objectives as O
from flowmaps.fields import Fields, across, leaves
from flowmaps.maps import EndpointMap, FlowMap, VelocityMap
from flowmaps.oracles import GaussianLaw, LinearField, PointMass, WrappedNormalLaw
from flowmaps.paths import Dirichlet, Gaussian, GeodesicPath
from flowmaps.samplers import Dopri5, Euler, Heun, Jumps, generate
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
)
from identities.cases import finite, gaussian, randomised, seeded, times

POLE = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, -0.8]], dtype=torch.float64)


class Both(nn.Module):
    """Exact maps of two independent fields as one network."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, x, s, t, condition=None):
        return {name: part(x[name], s, t) for name, part in self.parts.items()}


class Through(nn.Module):
    """A network of one-hot states that is shown their invertible image h = Wᵀx."""

    def __init__(self, network: nn.Module, W: torch.Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("back", torch.linalg.pinv(W))

    def forward(self, h, s, t, condition=None):
        return self.network(h @ self.back, s, s if s is t else t)


def embedded() -> FlowMap:
    space = randomised(Embedded(3, 5), scale=1.0)
    return EndpointMap(GeodesicPath(space), Through(finite(), space.weight.detach()))


def product() -> FlowMap:
    space = Product({"flat": Euclidean(3), "round": Sphere(3)})
    return VelocityMap(GeodesicPath(space), Both(flat=gaussian(), round=PointMass(Sphere(3), POLE)))


def point(space) -> FlowMap:
    """All geodesics end in one random point for each of two positions."""
    noise = torch.randn(space.noise_shape((2,)), generator=seeded(5), dtype=torch.float64)
    return PointMass(space, space.random(noise)).flow_map()


def skew(n: int, seed: int, size: float = 0.7) -> torch.Tensor:
    A = size * torch.randn(n, n, generator=seeded(seed), dtype=torch.float64)
    return A - A.mT


def rotation_field() -> FlowMap:
    return LinearField(Sphere(3), skew(3, 0)).flow_map()


def boost() -> FlowMap:
    """An isometry of the hyperboloid: the generator is skew for the product of Minkowski."""
    G = skew(3, 1)
    G[0] = -G[0]
    return LinearField(Hyperboloid(3), G).flow_map()


def flow_of_rotations() -> FlowMap:
    """dR/dt = A R + R B, which is no geodesic."""
    one = torch.eye(3, dtype=torch.float64)
    A, B = skew(3, 2, 0.5), skew(3, 3, 0.5)
    return LinearField(Rotations(), torch.kron(A, one) + torch.kron(one, B.mT.contiguous())).flow_map()


def wrapped_normal() -> FlowMap:
    return WrappedNormalLaw(torch.tensor([1.0, -2.5], dtype=torch.float64), 0.7).flow_map()


EXACT = {
    "point of the torus": (lambda: point(Torus(3)), (6, 2)),
    "point of the ball": (lambda: point(PoincareBall(3)), (6, 2)),
    "point of the hyperboloid": (lambda: point(Hyperboloid(3)), (6, 2)),
    "point of the rotations": (lambda: point(Rotations()), (6, 2)),
    "rotation field": (rotation_field, (6, 2)),
    "point of the orthant": (lambda: point(FisherSphere(3)), (6, 2)),
    "boost": (boost, (6, 2)),
    "flow of rotations": (flow_of_rotations, (6, 2)),
    "wrapped normal": (wrapped_normal, (6, 2)),
    "Euclidean": (lambda: gaussian().flow_map(), (6, 2)),
    "Euclidean point": (lambda: PointMass(Euclidean(3), POLE).flow_map(), (6, 2)),
    "OneHot": (lambda: finite().flow_map(), (6, 3)),
    "Embedded": (embedded, (6, 3)),
    "Sphere": (lambda: PointMass(Sphere(3), POLE).flow_map(), (6, 2)),
    "Product": (product, {"flat": (6, 2), "round": (6, 2)}),
}
STATE = {
    "Lagrangian": lambda: O.Lagrangian(in_state=True),
    "Eulerian": lambda: O.Eulerian(in_state=True),
    "semigroup": lambda: O.Semigroup(in_state=True),
    "semigroup, midpoint": lambda: O.Semigroup(fraction=0.5, in_state=True),
    "semigroup, a path": lambda: O.Semigroup(fraction=[0.3, 0.5, 0.9], in_state=True),
}


def jump(name: str) -> tuple[FlowMap, O.Jump]:
    """An exact map and states of its own path."""
    make, lead = EXACT[name]
    flow_map, (s, t) = make(), times()
    draw = lambda seed: flow_map.path.start(_double(flow_map.path.noise(lead, seeded(seed))))  # noqa: E731
    x_0, x_1 = draw(1), draw(2)
    if flow_map.space.sizes() in (3,):
        x_1 = torch.randint(3, lead, generator=seeded(2))
    with torch.no_grad():
        x_s = flow_map.path(x_0, x_1, s)
    return flow_map, O.Jump(x_s, x_0, x_1, s, t, torch.rand(6, generator=seeded(3), dtype=torch.float64))


def _double(x):
    return Fields({n: v.double() for n, v in x.items()}) if isinstance(x, dict) else x.double()


@pytest.mark.parametrize("identity", STATE)
@pytest.mark.parametrize("name", EXACT)
def test_residuals_vanish_on_exact_maps(name, identity):
    flow_map, here = jump(name)
    for (loss,) in leaves(STATE[identity]()(flow_map, flow_map, here)["loss"]):
        assert float(loss.detach().clamp(min=0).sqrt().max()) < 1e-10


@pytest.mark.parametrize("identity", STATE)
@pytest.mark.parametrize("name", EXACT)
def test_residuals_see_a_wrong_map(name, identity):
    """The test above can fail: a map that goes a tenth too far is noticed, and its gradient is not 0."""
    flow_map, here = jump(name)

    class Faster(nn.Module):
        def __init__(self):
            super().__init__()
            self.exact, self.factor = flow_map.network, nn.Parameter(torch.tensor(1.1, dtype=torch.float64))

        def forward(self, x, s, t, condition=None):
            z = self.exact(x, s, t, condition)
            return Fields(z) * (self.factor + t[0] - s[0]) if isinstance(z, dict) else z * (self.factor + t[0] - s[0])

    wrong = type(flow_map)(flow_map.path, Faster())
    total = torch.stack([loss.sum() for (loss,) in leaves(STATE[identity]()(wrong, wrong, here)["loss"])]).sum()
    total.backward()
    assert float(total.detach()) > 1e-4 and abs(float(wrong.network.factor.grad)) > 1e-4


@pytest.mark.parametrize("name", EXACT)
def test_jumps_of_no_time_and_two_jumps(name):
    flow_map, here = jump(name)
    x, s, t = here.x_s, here.s, here.t
    for a, b in leaves(flow_map(x, s, s), x):
        assert torch.equal(a, b)
    middle = (s + t) / 2
    for a, b in leaves(flow_map(flow_map(x, s, middle), middle, t), flow_map(x, s, t)):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("name", EXACT)
def test_the_diagonal_is_the_flow(name):
    """ℓ(t) v_t is the direction of the diagonal: a short jump goes along the velocity."""
    flow_map, here = jump(name)
    x, s, h = here.x_s, here.s, 1e-6
    v = flow_map.velocity(x, s)
    along = flow_map.space.log(x, flow_map(x, s, s + h))
    for a, b in leaves(along, v):
        assert torch.allclose(a / h, b, rtol=1e-4, atol=1e-4)


def test_between_means_and_between_states_agree_where_both_are():
    """On OneHot the Lagrangian residuals are equal; the others differ by coefficients that do not vanish."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = randomised(nn.Linear(3, 3), scale=1.0)

        def forward(self, x, s, t, condition=None):
            return self.linear(x) * (1 + across(t, x) - across(s, x) ** 2)

    flow_map = EndpointMap(GeodesicPath(OneHot(3)), Net())
    _, here = jump("OneHot")
    mean = O.Lagrangian()(flow_map, flow_map, here)["loss"]
    state = O.Lagrangian(in_state=True)(flow_map, flow_map, here)["loss"]
    assert torch.allclose(mean, state, atol=1e-12)
    # γ ‖r_mean‖ = ‖r_state‖ for the semigroup: the end of a jump moves γ times what the endpoint does.
    mean = O.Semigroup(fraction=0.5)(flow_map, flow_map, here)["loss"]
    state = O.Semigroup(fraction=0.5, in_state=True)(flow_map, flow_map, here)["loss"]
    gamma = across(flow_map.gain(here.s, here.t), mean)
    assert torch.allclose(gamma.square() * mean, state, atol=1e-12)


@pytest.mark.parametrize("sampler", [Jumps(1), Jumps(3), Euler(400), Heun(40), Dopri5(rtol=1e-8, atol=1e-8)])
def test_samples_of_a_point_mass_on_the_sphere(sampler):
    """Every sampler ends in the point, on the sphere."""
    flow_map = PointMass(Sphere(3), POLE.float()).flow_map()
    x = generate(flow_map, sampler, (32, 2), seeded())
    assert torch.allclose(x.norm(dim=-1), torch.ones(32, 2), atol=1e-5)
    assert torch.allclose(x, POLE.float().expand(32, 2, 3), atol=2e-2)


def test_flow_matching_on_the_sphere_has_its_minimum_at_the_truth():
    """The loss on the diagonal is the velocity of the geodesic: 0 for a point mass at its own map."""
    flow_map, here = jump("Sphere")
    x_1 = POLE.expand(6, 2, 3)
    here = here._replace(x_1=x_1, x_s=flow_map.path(here.x_0, x_1, here.s))
    assert float(O.SquaredError()(flow_map, here).max()) < 1e-20


@pytest.mark.parametrize("objective", [O.SemigroupKL, O.LagrangianCE, O.LagrangianKL, O.EulerianKL])
def test_forms_on_the_simplex_are_refused_elsewhere(objective):
    flow_map, here = jump("Sphere")
    with pytest.raises(ValueError, match="Sphere"):
        objective()(flow_map, flow_map, here)


def test_the_state_form_has_no_chunks():
    flow_map, here = jump("OneHot")
    flow_map.chunk = 4
    with pytest.raises(ValueError, match="chunk=None"):
        O.Lagrangian(in_state=True)(flow_map, flow_map, here)


def test_sources_know_their_spaces():
    with pytest.raises(ValueError, match="needs a flat space"):
        GeodesicPath(Sphere(3), Gaussian())
    path = GeodesicPath(Euclidean(3), Dirichlet())
    with pytest.raises(ValueError, match="on the simplex"):
        path.noise((2, 3), seeded())


def test_a_gaussian_is_carried_in_one_jump():
    """Moments of one-step samples of float data; nothing is decoded."""
    law = GaussianLaw(torch.tensor([1.0, -2.0, 0.3]), 0.7)
    x = generate(law.flow_map(), Jumps(1), (20_000,), seeded())
    assert x.shape == (20_000, 3)
    assert torch.allclose(x.mean(0), law.m, atol=0.03) and torch.allclose(x.std(0), torch.full((3,), 0.7), atol=0.02)


class Certain(nn.Module):
    """Logits of one category at each position: the exact endpoints of a distribution on one sequence."""

    def __init__(self, scale: float):
        super().__init__()
        logits = scale * torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
        self.logits = nn.Parameter(logits)

    def forward(self, x, s, t, condition=None):
        return (self.logits + 0 * across(t, x)).expand_as(x)


@pytest.mark.parametrize("identity", STATE)
def test_endpoints_on_the_orthant(identity):
    """Residuals of the endpoint form vanish where endpoints are certain, and not where they are no vertices."""
    space, (s, t) = FisherSphere(3), times()
    x_1 = torch.tensor([1, 0]).expand(6, 2)
    for scale, exact in ((1e4, True), (1.0, False)):
        flow_map = EndpointMap(GeodesicPath(space), Certain(scale))
        x_0 = flow_map.path.start(torch.randn(6, 2, 3, generator=seeded(), dtype=torch.float64))
        here = O.Jump(flow_map.path(x_0, x_1, s), x_0, x_1, s, t, torch.rand(6, generator=seeded(3)).double())
        loss = STATE[identity]()(flow_map, flow_map, here)["loss"]
        assert (float(loss.detach().clamp(min=0).sqrt().max()) < 1e-10) == exact
        if exact:  # the jump arrives, and the velocity is that of the path
            assert torch.equal(space.decode(flow_map(x_0, 0 * s, s * 0 + 1)), x_1)
            assert torch.allclose(flow_map.velocity(here.x_s, s), flow_map.path.velocity(x_0, x_1, s), atol=1e-10)


def test_cross_entropy_trains_fisher_flow():
    """The velocity of the exact posterior is the mean velocity of the paths that meet in a state."""
    space = FisherSphere(3)
    path, generator = GeodesicPath(space), seeded()
    n, t = 400_000, 0.3
    x_1 = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), n, replacement=True, generator=generator)
    x_0 = path.start(path.noise((n,), generator))
    x_t, v = path(x_0, x_1, torch.full((n,), t)), path.velocity(x_0, x_1, torch.full((n,), t))
    here = torch.tensor([0.65, 0.6, 0.4663689])
    near = (x_t - here).norm(dim=-1) < 0.08
    mu = torch.bincount(x_1[near], minlength=3) / near.sum()
    assert near.sum() > 2000 and int((mu > 0.03).sum()) >= 2
    wanted = space.toward(x_t[near], mu) / (1 - t)
    error = v[near].std(0) / near.sum() ** 0.5
    assert ((v[near].mean(0) - wanted.mean(0)).abs() < 4 * error + 0.01).all()


@pytest.mark.parametrize("sampler", [Jumps(1), Jumps(3), Euler(8), Heun(8), Dopri5()])
@pytest.mark.parametrize("source", [None, Dirichlet])
def test_samples_of_a_certain_sequence_on_the_orthant(sampler, source):
    flow_map = EndpointMap(GeodesicPath(FisherSphere(3), source() if source else None), Certain(1e4)).float()
    x = generate(flow_map, sampler, (16, 2), seeded())
    assert torch.equal(x, torch.tensor([1, 0]).expand(16, 2))
