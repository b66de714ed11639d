"""Objectives of bijections: their minima are the known ones."""

import pytest
import torch

from flowmaps.fields import Batch
from flowmaps.maps import Affine
from flowmaps.objectives import MaximumLikelihood, SelfDistillation
from identities.cases import gaussian, seeded
from maps.flows import affine, built, plane


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
    ],
)
def test_what_does_not_fit_is_told_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
