"""Published methods are the special cases their names say."""

import pytest
import torch

from flowmaps import objectives as O
from flowmaps.fields import Batch, across
from flowmaps.objectives import named
from identities.cases import LEARNED, jump, randomised


@pytest.fixture
def velocity():
    return randomised(LEARNED["velocity"]())


def test_mean_flow_is_its_published_loss(velocity):
    """|v_st - sg(e - x_0 + (t - s) D v_st)|², D along the datum's velocity; here s < t and the end t is fixed."""
    here = jump(velocity)
    slope = velocity.path.velocity(here.x_0, here.x_1, here.s)
    v, Dv = torch.func.jvp(
        lambda x, s: velocity.network(x, s, here.t), (here.x_s, here.s), (slope, torch.ones_like(here.s))
    )
    published = (v - slope - across(here.t - here.s, v) * Dv).square().sum(-1)
    ours = named.mean_flow(velocity).consistency(velocity, velocity, here)["loss"]
    assert torch.allclose(ours, published, atol=1e-12)


def test_shortcut_bisects_the_jump(velocity):
    """v_st against the mean of two half jumps."""
    here = jump(velocity)
    middle = (here.s + here.t) / 2
    first = velocity.network(here.x_s, here.s, middle)
    second = velocity.network(velocity(here.x_s, here.s, middle), middle, here.t)
    published = (velocity.network(here.x_s, here.s, here.t) - (first + second) / 2).square().sum(-1)
    ours = named.shortcut(velocity).consistency(velocity, velocity, here)["loss"]
    assert torch.allclose(ours, published, atol=1e-12)


def test_consistency_training_moves_along_the_datum_at_the_data_end():
    """At t = 1 the gradient is that of <π, sg D X_{s,1}>: the continuous-time consistency gradient."""
    flow_map = randomised(LEARNED["perceptron"]())
    objective = named.consistency_training(flow_map)
    here = jump(flow_map)
    here = here._replace(t=torch.ones_like(here.t))
    assert torch.equal(objective.pairs(torch.rand(6, 2))[1], torch.ones(6))
    objective.consistency(flow_map, flow_map, here)["loss"].sum().backward()
    ours = [p.grad.clone() for p in flow_map.parameters()]
    slope = flow_map.path.velocity(here.x_0, here.x_1, here.s)
    endpoint = lambda x, s: flow_map.network(x, s, here.t).softmax(-1)  # noqa: E731
    pi, D = torch.func.jvp(endpoint, (here.x_s, here.s), (slope, torch.ones_like(here.s)))
    flow_map.zero_grad()
    scale = across(1 - here.s, pi)
    (-2 * scale * scale * D.detach() * pi).sum().backward()
    for mine, theirs in zip(ours, (p.grad for p in flow_map.parameters()), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)


def test_distillation_takes_targets_from_the_frozen_map():
    student, teacher = randomised(LEARNED["perceptron"](), seed=1), randomised(LEARNED["perceptron"](), seed=2)
    here = jump(student)
    for make in (named.progressive_distillation, named.align_your_flow_eulerian, named.align_your_flow_lagrangian):
        objective = make(student, teacher)
        target = objective.teacher(student)
        assert not any(p.requires_grad for p in target.parameters(recurse=True) if p is not student)
        ours = objective.consistency(student, target, here)["loss"]
        assert torch.allclose(ours, objective.consistency(student, teacher, here)["loss"])
        assert not torch.allclose(ours, objective.consistency(student, student, here)["loss"])


def test_a_categorical_flow_map_has_no_full_jumps_and_may_average_over_examples():
    """The published code for graphs takes the mean over the batch, whichever side of it an example is on."""
    flow_map = randomised(LEARNED["perceptron"]())
    objective = named.categorical_flow_map(flow_map, strength=(1 - 0.75) / 0.75)
    batch = Batch(torch.randint(3, (8, 4), generator=torch.Generator().manual_seed(0)))
    draw = objective.draw(batch, torch.Generator().manual_seed(1))
    assert draw.m == 6 and bool((draw.t < 1).all())
    told = objective(batch, draw)
    assert torch.allclose(0.75 * told["loss"], (6 * told["diagonal"] + 2 * told["off_diagonal"]) / 8, atol=1e-12)


def test_detached_lagrangian_has_no_gradient_through_the_tangent():
    flow_map = randomised(LEARNED["perceptron"]())
    here = jump(flow_map)
    gradients = []
    for through in (True, False):
        flow_map.zero_grad()
        O.Lagrangian(through_tangent=through)(flow_map, flow_map, here)["loss"].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in flow_map.parameters()]))
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize(
    "make", [named.categorical_flow_map, named.terminal_velocity_matching, named.shortcut, named.consistency_training]
)
def test_each_name_trains(make):
    flow_map = LEARNED["perceptron"]()
    objective = make(flow_map)
    batch = Batch(torch.randint(3, (8, 4), generator=torch.Generator().manual_seed(0)))
    loss = objective(batch, objective.draw(batch, torch.Generator().manual_seed(1)))["loss"]
    loss.backward()
    objective.after_step()
    assert bool(loss.isfinite()) and all(p.grad is not None for p in flow_map.network.parameters())
