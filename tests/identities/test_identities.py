"""What holds exactly, through the real objective code: residuals and gradients vanish on every exact map."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowmaps import objectives as O
from flowmaps.fields import across, fieldwise, leaves
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.spaces import Embedded, OneHot
from identities.cases import EXACT, LEARNED, SQUARED, UNBIASED, gaussian, jump, randomised, state, times

MAPS = {**EXACT, **{name: (lambda make=make: randomised(make())) for name, make in LEARNED.items()}}


class Perturbed(nn.Module):
    """An exact network plus a direction of change, so that a gradient at the truth can be taken."""

    def __init__(self, exact: nn.Module, like: torch.Tensor, K: int):
        super().__init__()
        self.exact = exact
        self.level = nn.Parameter(torch.zeros(*like.shape[:-1], K, dtype=torch.float64))
        self.slope = nn.Parameter(torch.zeros(*like.shape[:-1], K, dtype=torch.float64))

    def forward(self, x, s, t, condition=None):
        return self.exact(x, s, t, condition) + self.level + self.slope * across(t, self.level)


def gradient_at_truth(exact, objective) -> float:
    """Largest gradient of the loss in the predictions, the exact map being both student and teacher."""
    here = jump(exact)
    student = type(exact)(exact.path, Perturbed(exact.network, here.x_s, here.x_s.shape[-1]))
    objective(student, exact, here)["loss"].sum().backward()
    return max(float(p.grad.abs().max()) for p in student.network.parameters() if p.grad is not None)


@pytest.mark.parametrize("objective", UNBIASED)
@pytest.mark.parametrize("exact", EXACT)
def test_gradient_vanishes_at_the_truth(exact, objective):
    flow_map = EXACT[exact]()
    if isinstance(flow_map, VelocityMap) and objective not in SQUARED:
        pytest.skip("compares points of the simplex")
    if exact == "one category":
        assert gradient_at_truth(flow_map, UNBIASED[objective]()) == 0  # there is nothing to predict
    else:
        assert gradient_at_truth(flow_map, UNBIASED[objective]()) < 1e-10


@pytest.mark.parametrize("objective", SQUARED)
@pytest.mark.parametrize("exact", EXACT)
def test_squared_residual_vanishes_on_exact_maps(exact, objective):
    flow_map = EXACT[exact]()
    residual = UNBIASED[objective]()(flow_map, flow_map, jump(flow_map))["loss"].sqrt()
    assert float(residual.max()) < 1e-10


@pytest.mark.parametrize("objective", ["PSD-KL", "ESD-KL", "LSD-KL"])
def test_divergence_vanishes_on_exact_maps(objective):
    flow_map = EXACT["law of 3 letters at 3 places"]()
    values = UNBIASED[objective]()(flow_map, flow_map, jump(flow_map))
    assert float(values["loss"].abs().max()) < 1e-10
    if "clamp_rate" in values:
        assert float(values["clamp_rate"].max()) == 0


@pytest.mark.parametrize("objective", UNBIASED)
def test_gradient_does_not_vanish_away_from_the_truth(objective):
    """The test above can fail: the same gradient is large where the map is wrong."""
    flow_map = EXACT["law of 3 letters at 3 places"]()
    wrong = EndpointMap(flow_map.path, randomised(LEARNED["transformer"]()).network)
    here = jump(flow_map)
    UNBIASED[objective]()(wrong, flow_map, here)["loss"].sum().backward()
    assert max(float(p.grad.abs().max()) for p in wrong.parameters() if p.grad is not None) > 1e-3


def late_gradient(objective) -> float:
    """Largest gradient at the truth for jumps that end at any time up to .9, of one sample and position."""
    flow_map, n = EXACT["law of 3 letters at 3 places"](), 64
    here, (s, t) = jump(flow_map, n), times(n, 5, latest=0.9)
    here = here._replace(x_s=flow_map.path(here.x_0, here.x_1, s), s=s, t=t)
    student = EndpointMap(flow_map.path, Perturbed(flow_map.network, here.x_s, 3))
    objective(student, flow_map, here)["loss"].sum().backward()
    return float(student.network.level.grad.abs().max())


@pytest.mark.parametrize("floor", [0.1, 1e-3, 1e-6, 1e-14])
def test_the_gradient_of_lsd_kl_does_not_vanish_with_any_floor(floor):
    """Where the posterior has settled the argument of its logarithm is 0; the other losses have nothing like it."""
    assert late_gradient(O.LagrangianKL(floor)) > 1e-2


@pytest.mark.parametrize("objective", [n for n in UNBIASED if n != "LSD-KL"])
def test_other_gradients_vanish_at_late_jumps_too(objective):
    assert late_gradient(UNBIASED[objective]()) < 1e-6


def test_published_ecld_is_biased():
    """Its gradient does not vanish at the exact map: it shrinks temporal drift."""
    assert gradient_at_truth(EXACT["law of 3 letters at 3 places"](), O.EndpointConsistency()) > 1e-2


@pytest.mark.parametrize("objective", [O.Lagrangian, O.LagrangianCE, O.LagrangianKL, O.EndpointConsistency])
def test_jumps_to_time_1_teach_a_lagrangian_identity_nothing(objective):
    """An endpoint map is not made surer of whatever it says; a velocity map still learns there."""
    flow_map = EXACT["law of 3 letters at 3 places"]()
    wrong = EndpointMap(flow_map.path, randomised(LEARNED["transformer"]()).network)
    here = jump(flow_map)
    late = here._replace(t=torch.ones_like(here.t))
    objective()(wrong, flow_map, late)["loss"].sum().backward()
    assert not any(float(p.grad.abs().max()) for p in wrong.parameters() if p.grad is not None)
    if objective is O.Lagrangian:
        velocity = VelocityMap(flow_map.path, wrong.network)
        assert float(objective()(velocity, velocity, late)["loss"].min()) > 0


@pytest.mark.parametrize("name", MAPS)
def test_a_jump_of_no_time_is_the_identity_bit_for_bit(name):
    flow_map = MAPS[name]()
    x, _ = state(flow_map)
    s = times()[0]
    for here, there in leaves(x, flow_map(x, s, s)):
        assert torch.equal(here, there)


@pytest.mark.parametrize("name", [n for n in MAPS if n not in ("Gaussian", "velocity")])
def test_endpoints_are_on_the_simplex(name):
    flow_map = MAPS[name]()
    x, _ = state(flow_map)
    s, t = times()
    for (z,) in leaves(flow_map.prediction(flow_map.features(x, s, t))):
        pi = flow_map.mean(z)
        assert bool((pi >= 0).all())
        assert torch.allclose(pi.sum(-1), torch.ones_like(pi.sum(-1)), atol=1e-12)


@given(scale=st.sampled_from([1e-3, 1.0, 1e2, 1e4]), K=st.integers(1, 7), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_extreme_logits_stay_on_the_simplex(scale, K, seed):
    z = scale * torch.randn(5, K, generator=torch.Generator().manual_seed(seed))
    pi = EndpointMap.mean(None, z)  # type: ignore[arg-type]
    assert bool(pi.isfinite().all()) and bool((pi >= 0).all())
    assert torch.allclose(pi.sum(-1), torch.ones(5), atol=1e-5)
    assert bool(O.diagonal.cross_entropy(z, torch.zeros(5, 1, dtype=torch.long)).isfinite().all())


@pytest.mark.parametrize("name", EXACT)
def test_two_jumps_are_one(name):
    flow_map = EXACT[name]()
    x, _ = state(flow_map)
    s, t = times()
    u = (s + t) / 2
    assert torch.allclose(flow_map(flow_map(x, s, u), u, t), flow_map(x, s, t), atol=1e-10)


def test_lagrangian_equals_its_form_with_the_state():
    """x_s cancels: |π + κ∂π - sg π_tt|² = |(1-t) ∂_t X - sg π_tt(X) + X|²."""
    flow_map = randomised(LEARNED["perceptron"]())
    here = jump(flow_map)
    ours = O.Lagrangian()(flow_map, flow_map, here)["loss"]
    X, dX = torch.func.jvp(lambda t: flow_map(here.x_s, here.s, t), (here.t,), (torch.ones_like(here.t),))
    pi_tt = flow_map.mean(flow_map.prediction(flow_map.features(X, here.t, here.t)))
    theirs = ((1 - across(here.t, X)) * dX - pi_tt + X).square().sum(-1)
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_ecld_bounds_the_lagrangian_residual():
    """|r|² with r = (π_st - π_tt(X))/(1-t) + γ∂π is at most the weighted loss less the target's entropy."""
    flow_map = randomised(LEARNED["perceptron"](), scale=2.0)
    here = jump(flow_map)
    lsd = O.Lagrangian()(flow_map, flow_map, here)["loss"] / (1 - here.t).square().unsqueeze(-1)
    h = flow_map.features(flow_map(here.x_s, here.s, here.t), here.t, here.t)
    log_pi = h.log_softmax(-1)
    entropy = -(log_pi.exp() * log_pi).sum(-1) / (1 - here.t).square().unsqueeze(-1)
    for endpoint in (4.0, 2.0):
        bound = (
            O.EndpointConsistency(endpoint=endpoint, weighted=True)(flow_map, flow_map, here)["loss"]
            - endpoint * entropy
        )
        assert bool((lsd <= bound + 1e-12).all())


def test_eulerian_with_the_datum_is_unbiased():
    """Averaged over the posterior, the datum's target gives the gradient of the exact diagonal."""
    law = EXACT["law of 2 letters at 1 place"]()
    student = EndpointMap(law.path, randomised(LEARNED["perceptron"]()).network)
    student.network = randomised(type(student.network)((1, 2), width=8, depth=1))
    x = torch.tensor([[[0.3, -0.8]]], dtype=torch.float64)
    s, t = torch.tensor([0.4], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)

    def gradient(objective, x_0, x_1):
        student.zero_grad()
        here = O.Jump(x, x_0, x_1, s, t, s)
        objective(student, law, here)["loss"].sum().backward()
        return torch.cat([p.grad.flatten() for p in student.parameters()])

    exact = gradient(O.Eulerian(), x, torch.zeros(1, 1, dtype=torch.long))
    posterior = law.network(x, s, s).exp().flatten()
    mixed = 0
    for k in range(2):
        x_1 = torch.tensor([[k]])
        x_0 = (x - 0.4 * law.space.encode(x_1)) / 0.6
        mixed = mixed + posterior[k] * gradient(O.Eulerian(from_data=True), x_0, x_1)
    assert torch.allclose(mixed, exact, atol=1e-10)


@pytest.mark.parametrize("objective", ["LSD", "LSD-CE", "LSD-KL", "ESD", "ESD-KL", "PSD", "PSD-KL"])
def test_embedded_states_give_the_same_loss(objective):
    """With h = Wᵀx the losses contain no x: both spaces give one value and one gradient."""
    narrow = randomised(LEARNED["embedded, chunked"](), scale=1.0)
    W = narrow.space.weight

    class Dense(nn.Module):
        def forward(self, x, s, t, condition=None):
            return narrow.network(x @ W, s, t, condition)

    dense = EndpointMap(type(narrow.path)(OneHot(3)), Dense(), narrow.head)
    here = jump(dense_like(dense))
    there = here._replace(x_s=here.x_s @ W.detach(), x_0=here.x_0 @ W.detach())
    results = []
    for flow_map, place in ((dense, here), (narrow, there)):
        narrow.zero_grad()
        loss = UNBIASED[objective]()(flow_map, flow_map, place)["loss"].sum()
        loss.backward()
        results.append((loss.detach(), torch.cat([p.grad.flatten() for p in narrow.network.parameters()])))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-12)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-12)


def dense_like(flow_map):
    """A map of the same positions whose states ``jump`` can draw."""
    return EndpointMap(flow_map.path, randomised(LEARNED["perceptron"]()).network)


def test_embedded_noise_has_the_law_of_projected_noise():
    space = Embedded(7, 4).double()
    gram = space.gram()
    C = space.random(torch.eye(4, dtype=torch.float64))
    assert torch.allclose(C.mT @ C, gram, atol=1e-12)
    wide = Embedded(3, 5).double()
    assert wide.noise_shape((2,)) == (2, 3)
    C = wide.random(torch.eye(3, dtype=torch.float64))
    assert torch.allclose(C.mT @ C, wide.gram(), atol=1e-12)


def test_embedded_and_one_hot_agree_in_expectation():
    """Independent draws, one network: mean losses agree within four standard errors."""
    narrow = randomised(LEARNED["embedded, chunked"](), scale=1.0)
    narrow.chunk = None
    W = narrow.space.weight.detach()

    class Dense(nn.Module):
        def forward(self, x, s, t, condition=None):
            return narrow.network(x @ W, s, t, condition)

    dense = EndpointMap(type(narrow.path)(OneHot(3)), Dense(), narrow.head)
    n = 20_000
    x_1 = torch.randint(3, (n, 4), generator=torch.Generator().manual_seed(0))
    s, t = torch.full((n,), 0.3, dtype=torch.float64), torch.full((n,), 0.7, dtype=torch.float64)
    means = []
    with torch.no_grad():
        for seed, flow_map in enumerate((dense, narrow)):
            generator = torch.Generator().manual_seed(seed)
            x_0 = flow_map.path.start(flow_map.path.noise((n, 4), generator).double())
            here = O.Jump(flow_map.path(x_0, x_1, s), x_0, x_1, s, t, s)
            loss = O.Lagrangian()(flow_map, flow_map, here)["loss"].mean(1)
            means.append((loss.mean(), loss.var() / n))
    difference = (means[0][0] - means[1][0]).abs()
    assert float(difference) < 4 * float(means[0][1] + means[1][1]) ** 0.5


def test_gaussian_map_is_a_line():
    """X_{s,t}(x) = t m + (σ_t/σ_s)(x - s m)."""
    law = gaussian()
    x, _ = state(law.flow_map())
    s, t = (across(v, x) for v in times())
    deviation = lambda t: ((1 - t) ** 2 + (0.7 * t) ** 2).sqrt()  # noqa: E731
    exact = t * law.m + deviation(t) / deviation(s) * (x - s * law.m)
    assert torch.allclose(law.flow_map()(x, *times()), exact, atol=1e-12)


def test_a_product_of_fields_moves_as_each_field_does():
    flow_map = randomised(LEARNED["two fields"]())
    x, _ = state(flow_map)
    s, t = times()
    h = flow_map.features(x, s, t)
    moved = flow_map.move(x, h, s, t)
    for name, space in flow_map.space.spaces.items():
        alone = space.approach(x[name], flow_map.mean(h[name]), (t - s) / (1 - s))
        assert torch.equal(moved[name], alone)
    assert torch.equal(fieldwise(lambda v: v, moved)["b"], moved["b"])


@pytest.mark.parametrize("fraction", [0, 1.0, [], [0.5, 0.5], [0.7, 0.3], [0.2, 1.0]])
def test_semigroup_refuses_places_that_are_no_path(fraction):
    with pytest.raises(ValueError, match="increase strictly between 0 and 1"):
        O.Semigroup(fraction=fraction)
