"""Published methods for continuous data against their published losses, and distillation of a Gaussian."""

from functools import partial

import pytest
import torch
from torch import nn

from flowmaps import objectives as O
from flowmaps.fields import Batch
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import MLP, PointNetwork
from flowmaps.objectives import named
from flowmaps.oracles import GaussianLaw, PointMass
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Euclidean, OneHot, Sphere
from identities.cases import randomised, seeded, times


def velocity_map(seed: int = 0) -> VelocityMap:
    return randomised(VelocityMap(GeodesicPath(Euclidean(2)), PointNetwork(2, 16, 2, frequencies=4)), seed)


def jump(flow_map: VelocityMap) -> O.Jump:
    x_0, x_1 = torch.randn(2, 6, 2, generator=seeded(1), dtype=torch.float64)
    s, t = times()
    r = torch.rand(6, generator=seeded(3), dtype=torch.float64)
    return O.Jump(flow_map.path(x_0, x_1, s), x_0, x_1, s, t, r)


STUDENT, TEACHER = velocity_map(1), velocity_map(2)
HERE = jump(STUDENT)
GAP = (HERE.t - HERE.s).unsqueeze(-1)
SLOPE = HERE.x_1 - HERE.x_0


def v(x, s, t, flow_map=STUDENT):
    return flow_map.network(x, s, t)


def along(dx):
    """The student's velocity and its derivative where the start of the jump moves by dx in a unit of time."""
    return torch.func.jvp(lambda x, s: v(x, s, HERE.t), (HERE.x_s, HERE.s), (dx, torch.ones_like(HERE.s)))


def in_time():
    """X, and dX/dt at the end of the jump."""
    value, dv = torch.func.jvp(lambda t: v(HERE.x_s, HERE.s, t), (HERE.t,), (torch.ones_like(HERE.t),))
    return HERE.x_s + GAP * value, value + GAP * dv


def mean_flow():
    value, Dv = along(SLOPE)
    return value - (SLOPE - GAP * -Dv).detach()


def two_halves(flow_map):
    middle = (HERE.s + HERE.t) / 2
    first = v(HERE.x_s, HERE.s, middle, flow_map)
    second = v(HERE.x_s + GAP / 2 * first, middle, HERE.t, flow_map)
    return v(HERE.x_s, HERE.s, HERE.t) - ((first + second) / 2).detach()


def end_velocity(flow_map):
    x_t, dx_t = in_time()
    return dx_t - v(x_t, HERE.t, HERE.t, flow_map).detach()


def start_velocity():
    b = v(HERE.x_s, HERE.s, HERE.s, TEACHER).detach()
    value, Dv = along(b)
    return value - b - GAP * Dv


def align_your_flow(rho: float):
    b = v(HERE.x_s, HERE.s, HERE.s, TEACHER).detach()
    value, Dv = along(b)
    g = value - b - rho * GAP * Dv
    return g / (g.norm(dim=-1, keepdim=True) + 0.1)


PUBLISHED = {
    "mean flow": (lambda: named.mean_flow(STUDENT), mean_flow),
    "shortcut": (lambda: named.shortcut(STUDENT), lambda: two_halves(STUDENT)),
    "progressive": (lambda: named.progressive_distillation(STUDENT, TEACHER), lambda: two_halves(TEACHER)),
    "terminal velocity": (lambda: named.terminal_velocity_matching(STUDENT), lambda: end_velocity(STUDENT)),
    "LMD": (lambda: named.lagrangian_map_distillation(STUDENT, TEACHER), lambda: end_velocity(TEACHER)),
    "EMD": (lambda: named.eulerian_map_distillation(STUDENT, TEACHER), start_velocity),
    "AYF-LMD": (lambda: named.align_your_flow_lagrangian(STUDENT, TEACHER), lambda: end_velocity(TEACHER)),
    "AYF-EMD": (lambda: named.align_your_flow_eulerian(STUDENT, TEACHER, warm_up=0), lambda: align_your_flow(0.99)),
    "AYF-EMD at first": (lambda: named.align_your_flow_eulerian(STUDENT, TEACHER), lambda: align_your_flow(0.0)),
    "consistency": (lambda: named.consistency_training(STUDENT), mean_flow),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_loss_is_the_published_one(name):
    make, residual = PUBLISHED[name]
    objective = make()
    ours = objective.consistency(STUDENT, objective.teacher(STUDENT), HERE)["loss"]
    assert torch.allclose(ours, residual().square().sum(-1), atol=1e-12)


def test_consistency_training_has_its_gradient():
    """At t = 1 with f = X_{s,1}: the gradient is that of -2 <f, sg df/ds>/(1 - s)."""
    here = HERE._replace(t=torch.ones_like(HERE.t))
    named.consistency_training(STUDENT).consistency(STUDENT, STUDENT, here)["loss"].sum().backward()
    ours = [p.grad.clone() for p in STUDENT.parameters()]
    STUDENT.zero_grad()
    f = lambda x, s: x + (1 - s).unsqueeze(-1) * v(x, s, here.t)  # noqa: E731
    value, df = torch.func.jvp(f, (here.x_s, here.s), (SLOPE, torch.ones_like(here.s)))
    (-2 * df.detach() * value / (1 - here.s).unsqueeze(-1)).sum().backward()
    for mine, p in zip(ours, STUDENT.parameters(), strict=True):
        assert torch.allclose(mine, p.grad, atol=1e-10)
    STUDENT.zero_grad()


def test_the_diagonal_is_flow_matching():
    loss = O.SquaredError()(STUDENT, HERE)
    assert torch.allclose(loss, (v(HERE.x_s, HERE.s, HERE.s) - SLOPE).square().sum(-1), atol=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_method_trains_on_float_data(name):
    objective = PUBLISHED[name][0]()
    STUDENT.zero_grad()
    batch = Batch(torch.randn(16, 2, generator=seeded(), dtype=torch.float64))
    loss = objective(batch, objective.draw(batch, seeded(1)))["loss"]
    loss.backward()
    objective.after_step()
    assert bool(loss.isfinite()) and all(p.grad is not None and p.grad.any() for p in STUDENT.network.parameters())
    assert all(p.grad is None for p in TEACHER.parameters())
    STUDENT.zero_grad()


def test_without_a_choice_a_velocity_map_trains_by_the_semigroup():
    objective = O.SelfDistillation(STUDENT)
    assert type(objective.consistency) is O.Semigroup and isinstance(objective.teacher, O.Average)


# -- the options of Align Your Flow ---------------------------------------------------------------------------------


def test_the_derivative_is_warmed_up_and_the_count_is_kept():
    eulerian = O.Eulerian(warm_up=4, limit=0.8)
    plain = O.Eulerian()
    values = []
    for _ in range(6):
        values.append(float(eulerian.rho))
        eulerian.after_step()
    assert values == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    again = O.Eulerian(warm_up=4, limit=0.8)
    again.load_state_dict(eulerian.state_dict())
    assert float(again.rho) == pytest.approx(0.8)
    assert not plain.state_dict(), "without warm-up nothing is added to a checkpoint"
    objective = O.SelfDistillation(STUDENT, O.Eulerian(warm_up=4))
    objective.after_step()
    assert float(objective.consistency.rho) == 0.25


def test_at_the_start_of_the_warm_up_the_loss_is_flow_matching():
    first = O.Eulerian(from_data=True, warm_up=10)(STUDENT, STUDENT, HERE)["loss"]
    assert torch.allclose(first, (v(HERE.x_s, HERE.s, HERE.t) - SLOPE).square().sum(-1), atol=1e-12)


def test_a_normalised_residual_weighs_at_most_one():
    far = HERE._replace(x_1=HERE.x_1 * 1e6)
    wild, tame = (O.Eulerian(from_data=True, normalise=c)(STUDENT, STUDENT, far)["loss"] for c in (None, 0.1))
    assert float(wild.detach().min()) > 1e6 and 0.99 < float(tame.detach().min()) <= float(tame.detach().max()) < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normalise": 0.0}, "normalise is 0.0"),
        ({"warm_up": -1}, "warm_up is -1"),
        ({"limit": 1.5}, "limit 1.5"),
        ({"normalise": 0.1, "in_state": True}, "in_state is True"),
    ],
)
def test_impossible_options(options, said):
    with pytest.raises(ValueError, match=said):
        O.Eulerian(**options)


def test_the_options_are_refused_on_curved_spaces():
    pole = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    flow_map = PointMass(Sphere(3), pole).flow_map()
    x_0, x_1 = (flow_map.path.start(torch.randn(6, 3, generator=seeded(i), dtype=torch.float64)) for i in (0, 1))
    s, t = times()
    here = O.Jump(flow_map.path(x_0, x_1, s), x_0, x_1, s, t, t)
    with pytest.raises(ValueError, match="the space is Sphere"):
        O.Eulerian(warm_up=10)(flow_map, flow_map, here)


def test_an_autoguided_teacher_extrapolates_velocities():
    weak = velocity_map(3)
    for scale in (0.0, 1.0, 2.5):
        guided = O.Autoguided(TEACHER, weak, scale)(STUDENT)
        a, b = (v(HERE.x_s, HERE.s, HERE.s, each) for each in (TEACHER, weak))
        assert torch.allclose(guided.velocity(HERE.x_s, HERE.s), b + scale * (a - b), atol=1e-12)
    assert guided.path is STUDENT.path and not any(
        p.requires_grad for p in O.Autoguided(TEACHER, weak, 2.0).parameters()
    )
    ours, plain = (
        named.align_your_flow_eulerian(STUDENT, teacher, warm_up=0)
        for teacher in (O.Autoguided(TEACHER, weak, 1.0), TEACHER)
    )
    losses = [each.consistency(STUDENT, each.teacher(STUDENT), HERE)["loss"] for each in (ours, plain)]
    assert torch.allclose(*losses, atol=1e-12)


def test_two_gaussians_extrapolate_to_a_third():
    """With unit variances velocities are linear in the mean, so the guided teacher is the exact map of its mean."""
    laws = [GaussianLaw(torch.tensor([m, 0.0], dtype=torch.float64), 1.0).flow_map() for m in (1.0, 0.5, 2.0)]
    guided = O.Autoguided(laws[0], laws[1], 3.0)(laws[0])
    assert torch.allclose(guided(HERE.x_s, HERE.s, HERE.t), laws[2](HERE.x_s, HERE.s, HERE.t), atol=1e-12)


def test_what_cannot_be_autoguided_is_named():
    endpoint = EndpointMap(GeodesicPath(OneHot(3)), MLP((4, 3), width=8, depth=1))
    with pytest.raises(ValueError, match="EndpointMap; use Frozen"):
        O.Autoguided(TEACHER, endpoint, 2.0)
    with pytest.raises(ValueError, match="scale is nan"):
        O.Autoguided(TEACHER, TEACHER, float("nan"))


# -- distillation -----------------------------------------------------------------------------------------------------


class VelocityAlone(nn.Module):
    """A velocity that is given: it knows the diagonal and nothing else."""

    def __init__(self, law: GaussianLaw):
        super().__init__()
        self.law = law

    def forward(self, x, s, t, condition=None):
        assert torch.equal(s, t), "distillation from a velocity asks for the diagonal alone"
        return self.law(x, s, t)


LAW = GaussianLaw(torch.tensor([1.0, -2.0]), 0.5)
DISTILLED = {  # the recipe, what it is told, and the error that 200 updates leave
    "Lagrangian": (named.lagrangian_map_distillation, VelocityAlone(LAW), 0.4),
    "Eulerian": (named.eulerian_map_distillation, VelocityAlone(LAW), 0.8),
    "progressive": (named.progressive_distillation, LAW, 0.4),
    "Align Your Flow, Eulerian": (partial(named.align_your_flow_eulerian, warm_up=50), VelocityAlone(LAW), 0.8),
    "Align Your Flow, Lagrangian": (named.align_your_flow_lagrangian, VelocityAlone(LAW), 1.0),
}


@pytest.mark.parametrize("name", DISTILLED)
def test_a_distilled_map_approaches_the_exact_one(name):
    """From the velocity (or from the map) of a Gaussian: one jump, and two, end where the exact map does."""
    make, teacher, limit = DISTILLED[name]
    torch.manual_seed(0)
    path = GeodesicPath(Euclidean(2))
    student = VelocityMap(path, PointNetwork(2, width=32, depth=2, frequencies=0))
    objective = make(student, VelocityMap(path, teacher), share=0.3)
    before = error(student)
    optimiser, generator = torch.optim.Adam(student.parameters(), lr=1e-2), seeded(1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 200)
    for _ in range(200):
        batch = Batch(LAW.m + LAW.a * torch.randn(128, 2, generator=generator))
        objective(batch, objective.draw(batch, generator))["loss"].backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        objective.after_step()
    assert error(student) < limit < 4 < before


@torch.no_grad()
def error(student: VelocityMap) -> float:
    """How far one jump and two of a map end from the end of the exact one, together."""
    noise = torch.randn(500, 2, generator=seeded(9))
    zero, one = torch.zeros(500), torch.ones(500)
    end, half = LAW.flow_map()(noise, zero, one), student(noise, zero, one / 2)
    return sum(float((x - end).norm(dim=1).mean()) for x in (student(noise, zero, one), student(half, one / 2, one)))
