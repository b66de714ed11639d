"""A toy learns its law in seconds; compiled training equals eager training."""

import pytest
import torch

from flowmaps import objectives as O
from flowmaps.autodiff import ForwardMode
from flowmaps.fields import Batch
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.metrics.two_sample import total_variation, total_variation_floor
from flowmaps.networks import MLP, Transformer
from flowmaps.objectives.self_distillation import evaluating
from flowmaps.oracles import FiniteLaw
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Jumps, generate
from flowmaps.spaces import OneHot
from identities.cases import seeded

TOYS = {"LSD": (O.Lagrangian, 0.15), "PSD-KL": (O.SemigroupKL, 0.15)}


def train(objective: O.SelfDistillation, law: FiniteLaw, steps: int) -> None:
    optimiser = torch.optim.Adam(objective.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = seeded(1)
    for _ in range(steps):
        batch = Batch(law.sample(128, generator))
        objective(batch, objective.draw(batch, generator))["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        objective.after_step()


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_learns_its_law_in_one_step(name):
    consistency, limit = TOYS[name]
    law = FiniteLaw.dependent(3, 2, generator=seeded(4), steps=1).float()
    torch.manual_seed(0)
    flow_map = EndpointMap(GeodesicPath(OneHot(3)), MLP((2, 3), width=64, depth=2))
    n, p = 8000, law.log_p.exp()
    before = total_variation(generate(flow_map, Jumps(1), (n, 2), seeded(2)), law.atoms, p)
    train(O.SelfDistillation(flow_map, consistency()), law, 500)
    with evaluating(flow_map):
        after = total_variation(generate(flow_map, Jumps(1), (n, 2), seeded(2)), law.atoms, p)
    assert after < limit < before
    assert after > 0.5 * total_variation_floor(p, n)  # no sampler can be better than the truth


def gradients(objective, batch, draw):
    values = objective(batch, draw)
    return values["loss"].detach(), torch.autograd.grad(values["loss"], list(objective.parameters()))


NETWORKS = {
    "perceptron": lambda: MLP((2, 3), width=8, depth=1),
    "transformer": lambda: Transformer(3, width=8, depth=1, heads=2, out=3),
}


def compilable(network, consistency):
    torch.manual_seed(0)
    flow_map = EndpointMap(GeodesicPath(OneHot(3)), NETWORKS[network]())
    with torch.no_grad():
        for p in flow_map.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    objective = O.SelfDistillation(flow_map, consistency)
    batch = Batch(torch.randint(3, (16, 2), generator=seeded()))
    return objective, batch, objective.draw(batch, seeded(1))


def compiled_equals_eager(network, consistency, backend):
    torch.compiler.reset()
    objective, batch, draw = compilable(network, consistency)
    eager = gradients(objective, batch, draw)
    compiled = gradients(torch.compile(objective, backend=backend), batch, draw)
    assert torch.allclose(eager[0], compiled[0], atol=1e-5)
    for a, b in zip(eager[1], compiled[1], strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("consistency", [O.Lagrangian, O.Eulerian, O.SemigroupKL])
@pytest.mark.parametrize("network", NETWORKS)
def test_compiled_training_equals_eager(network, consistency):
    """Traced and differentiated by the compiler, executed without code generation."""
    compiled_equals_eager(network, consistency(), "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_generated_code_equals_eager(network):
    compiled_equals_eager(network, O.Lagrangian(), "inductor")


@pytest.mark.slow
@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="PyTorch issue 177261: ZeroTensors are immutable")
def test_compiled_attention_without_weights_as_primals():
    """When a release mends this, ``through_weights`` can go."""
    compiled_equals_eager("transformer", O.Lagrangian(derivative=ForwardMode(through_weights=False)), "inductor")


def test_dropout_is_off_in_targets():
    """The teacher's pass runs in evaluation mode, the student's does not, and modes are restored."""
    seen = []

    class Noisy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.weight = torch.nn.Dropout(0.5), torch.nn.Parameter(torch.ones(3))

        def forward(self, x, s, t, condition=None):
            seen.append(self.training)
            return self.drop(x) * self.weight

    flow_map = EndpointMap(GeodesicPath(OneHot(3)), Noisy())
    objective = O.SelfDistillation(flow_map, O.SemigroupKL())
    batch = Batch(torch.randint(3, (8, 2), generator=seeded()))
    objective(batch, objective.draw(batch, seeded()))
    assert seen == [True, False, False, True]
    assert flow_map.training and flow_map.network.drop.training


def test_an_average_follows_by_name_and_a_frozen_teacher_stays():
    flow_map = EndpointMap(GeodesicPath(OneHot(3)), MLP((2, 3), width=8, depth=1))
    average, frozen = O.Average(flow_map, decay=0.9), O.Frozen(flow_map)
    before = {n: p.clone() for n, p in flow_map.named_parameters()}
    with torch.no_grad():
        for p in flow_map.parameters():
            p.add_(1)
    average.after_step(flow_map)
    frozen.after_step(flow_map)
    for name, p in average(flow_map).named_parameters():
        assert torch.allclose(p, before[name] + 0.9, atol=1e-6)  # d_0 = 1/10
    average.updates.fill_(1e6)
    average.after_step(flow_map)
    for name, p in average(flow_map).named_parameters():
        assert torch.allclose(p, before[name] + 0.91, atol=1e-6)  # d = 0.9 in the end
    for name, p in frozen(flow_map).named_parameters():
        assert torch.equal(p, before[name])
    assert average(flow_map).path is flow_map.path
    assert not any("path" in name for name in average.state_dict())


@pytest.mark.parametrize("weight", [O.LearnedWeight(), O.AdaptiveWeight()])
def test_weights_keep_the_loss_finite_and_trainable(weight):
    flow_map = VelocityMap(GeodesicPath(OneHot(3)), MLP((2, 3), width=8, depth=1))
    objective = O.SelfDistillation(flow_map, O.Lagrangian(), weight=weight)
    batch = Batch(torch.randint(3, (16, 2), generator=seeded()))
    values = objective(batch, objective.draw(batch, seeded()))
    values["loss"].backward()
    assert bool(values["loss"].isfinite()) and all(p.grad is not None for p in weight.parameters())


def test_adaptive_weight_has_its_formula():
    loss = torch.tensor([0.25, 4.0])
    expected = loss / (loss + 0.01).sqrt()
    assert torch.allclose(O.AdaptiveWeight()(loss, loss, loss), expected)


def test_the_learned_weight_is_homoscedastic():
    weight, loss = O.LearnedWeight(), torch.tensor([2.0, 3.0])
    assert torch.allclose(weight(loss, torch.zeros(2), torch.ones(2)), loss)  # w = 0 at first
    torch.nn.init.constant_(weight.out.bias, 1.0)
    expected = loss * torch.exp(torch.tensor(-1.0)) + 1
    assert torch.allclose(weight(loss, torch.zeros(2), torch.ones(2)), expected)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_an_impossible_share_is_named(share):
    flow_map = EndpointMap(GeodesicPath(OneHot(3)), MLP((2, 3), width=8, depth=1))
    with pytest.raises(ValueError, match=f"share is {share}"):
        O.SelfDistillation(flow_map, share=share)


def test_the_default_pair_and_a_consistency_of_ones_own():
    """Alone, the semigroup at the midpoint with an average; a named identity takes its targets from the map itself."""
    flow_map = EndpointMap(GeodesicPath(OneHot(3)), MLP((2, 3), width=8, depth=1))
    default = O.SelfDistillation(flow_map)
    assert isinstance(default.consistency, O.SemigroupKL) and default.consistency.fraction == 0.5
    assert isinstance(default.teacher, O.Average)
    assert O.SelfDistillation(flow_map, O.Lagrangian()).teacher(flow_map) is flow_map
    made = O.SelfDistillation(flow_map, O.Lagrangian(), teacher=lambda flow_map: O.Average(flow_map, 0.5))
    assert isinstance(made.teacher, O.Average) and made.teacher.decay == 0.5
    assert isinstance(O.SelfDistillation(flow_map, share=1.0).teacher, O.Itself)  # no targets, no copy


def test_a_batch_of_one_cannot_be_split():
    flow_map = EndpointMap(GeodesicPath(OneHot(3)), MLP((2, 3), width=8, depth=1))
    batch = Batch(torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="share=1"):
        O.SelfDistillation(flow_map).draw(batch, seeded())
    assert O.SelfDistillation(flow_map, share=1.0).on_diagonal(1) == 1
