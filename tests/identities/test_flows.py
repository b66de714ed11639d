"""Objectives of bijections: their minima are the known ones."""

import pytest
import torch

from flowmaps.data.pairs import Pairs, pushed
from flowmaps.fields import Batch
from flowmaps.maps import Affine, Oscillating
from flowmaps.objectives import ForwardBackward, LogDeterminant, MaximumLikelihood, RegFlow, SelfDistillation
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Euclidean
from identities.cases import gaussian, seeded
from maps.flows import affine, built, plane, states


def test_the_likeliest_gaussian_has_no_gradient():
    x = torch.randn(300, 2, generator=seeded(), dtype=torch.float64) @ torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double()
    objective = MaximumLikelihood(Affine.fit(plane(), x))
    batch = Batch(x)
    loss = objective(batch, objective.draw(batch, seeded()))["loss"]
    entropy = 1 + torch.tensor(2 * torch.pi).log() + torch.linalg.slogdet(torch.cov(x.mT, correction=0))[1] / 2
    assert torch.allclose(loss, entropy.double(), atol=1e-7)
    loss.backward()
    factor = objective.flow_map.factor.grad.tril()  # of the entries that are weights
    assert max(objective.flow_map.mean.grad.abs().max(), factor.abs().max()) < 1e-10


def test_the_likelihood_is_that_of_the_density():
    f = built("torus")
    x = f.path.start(torch.randn(40, 2, generator=seeded(), dtype=torch.float64))
    objective = MaximumLikelihood(f)
    assert torch.allclose(objective(Batch(x), None)["nll"], -f.log_prob(x).mean())


@pytest.mark.parametrize("name", ["nsf", "torus", "particles"])
@pytest.mark.parametrize("regularizer", [None, ForwardBackward()])
def test_regression_on_ones_own_values_is_at_its_minimum(name, regularizer):
    f = built(name)
    draw = pushed(f.path, lambda x: f.push(x.double()), tuple(states(f, 1).shape[1:-1]))
    x_0, x_1 = draw(0, 30, seeded())
    batch = Pairs(x_0.double(), x_1, {}).batch(torch.arange(30))
    objective = RegFlow(f, regularizer, strength=1.0)
    loss = objective(batch, objective.draw(batch, seeded()))["loss"]
    loss.backward()
    assert float(loss) < 1e-15 and max(float(p.grad.abs().max()) for p in f.parameters()) < 1e-7


def test_the_loss_is_the_squared_distance_to_jittered_targets_and_the_penalty():
    f = built("nsf")
    x_0, x_1 = states(f, 9), states(f, 9).flip(0)
    batch = Pairs(x_0, x_1, {}).batch(torch.arange(9))
    objective = RegFlow(f, LogDeterminant(), strength=0.1, jitter=0.5)
    draw = objective.draw(batch, seeded())
    y, log_det = f(x_0)
    target = x_1 + 0.5 * draw.epsilon
    expected = (y - target).square().sum(1).mean() + 0.1 * log_det.square().mean()
    assert torch.allclose(objective(batch, draw)["loss"], expected)
    clean = objective.eval()(batch, draw)  # held-out loss: without jitter
    assert torch.allclose(clean["distance"], (y - x_1).square().sum(1).mean())


def oscillating(m: float) -> Oscillating:
    return Oscillating(GeodesicPath(Euclidean(1)), m, 0.95).double()


def test_values_converge_and_densities_do_not():
    """f_m(x) = x + a sin(mx)/m: the regression on the identity vanishes as 1/m², the log-density stays wrong."""
    x = torch.randn(4000, 1, generator=seeded(), dtype=torch.float64)
    batch = Pairs(x, x, {}).batch(torch.arange(4000))
    losses, errors = [], []
    for m in (10.0, 100.0, 1000.0):
        f = oscillating(m)
        losses.append(float(RegFlow(f)(batch, None)["loss"].detach()))
        errors.append(float((f.log_prob(x) - f.log_source(x)).abs().mean().detach()))
        assert float((f.inverse(f(x)[0])[0] - x).abs().max()) < 1e-10
    assert all(abs(loss * m**2 - 0.95**2 / 2) < 0.05 for loss, m in zip(losses, (10, 100, 1000), strict=True))
    assert min(errors) > 0.5 and max(errors) < min(errors) + 0.1


@pytest.mark.parametrize(
    ("regularizer", "low", "high"),
    [(None, 0.94, 0.95), (LogDeterminant(), 0.0, 0.02), (ForwardBackward(), 0.94, 0.95)],
    ids=["none", "log-determinant", "forward-backward"],
)
def test_the_log_determinant_mends_densities_where_values_are_right(regularizer, low, high):
    """In as many steps, with the printed strength; the forward-backward term of an exact inverse is 0 and mends
    nothing."""
    f = oscillating(1e4)
    x = torch.randn(512, 1, generator=seeded(), dtype=torch.float64)
    batch = Pairs(x, x, {}).batch(torch.arange(512))
    objective, optimiser = RegFlow(f, regularizer, strength=1e-5), torch.optim.SGD(f.parameters(), 1e3)
    for _ in range(400):
        optimiser.zero_grad()
        objective(batch, None)["loss"].backward()
        optimiser.step()
    assert low <= abs(float(f.a.detach())) <= high


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfDistillation(affine()), "trains jumps, but the map is a Affine; use MaximumLikelihood"),
        (lambda: MaximumLikelihood(gaussian().flow_map()), "the map is a VelocityMap; use a bijection such as NSF"),
        (
            lambda: MaximumLikelihood(affine()).draw(Batch(torch.tensor([[1.0, float("nan")]])), seeded()),
            "data hold numbers that are not finite; leave those rows out",
        ),
        (lambda: MaximumLikelihood(affine()).draw(Batch(torch.zeros(2, 3)), seeded()), r"shape \(2, 3\) .* with 2"),
        (lambda: RegFlow(gaussian().flow_map()), "the map is a VelocityMap; use a bijection"),
        (lambda: RegFlow(affine()).draw(Batch(torch.zeros(2, 2)), seeded()), "the data are points; make pairs first"),
        (lambda: RegFlow(affine(), jitter=-1.0), "jitter -1.0, expected no negative numbers"),
        (lambda: Oscillating(plane(), 3.0, 1.0), "a is 1.0, expected a positive frequency and an amplitude"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
