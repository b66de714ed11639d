"""Why no network here reads its own previous estimate: along a flow it says nothing that the state does not."""

import pytest
import torch

from flowmaps.oracles import FiniteLaw
from identities.cases import EXACT, finite, seeded, state, times

LAWS = [name for name in EXACT if name != "Gaussian"]


@pytest.mark.parametrize("name", LAWS)
def test_a_mean_endpoint_is_the_same_from_both_ends(name):
    """π_{u,s}(X_{s,u}(x)) = π_{s,u}(x): the estimate of the last jump is a function of where it arrived."""
    truth = EXACT[name]()
    x = state(truth)[0]
    s, u = times()
    estimate = truth.mean(truth.features(x, s, u))
    arrived = truth(x, s, u)
    assert torch.allclose(truth.mean(truth.features(arrived, u, s)), estimate, atol=1e-9)
    assert torch.allclose(truth(arrived, u, s), x, atol=1e-9)


class Trusting(FiniteLaw):
    """The exact map, leaning on an estimate e where it jumps, π + c γ (e - π), but not on the diagonal."""

    trust, estimate = 0.0, None

    def forward(self, x, s, t, condition=None):
        log_pi = super().forward(x, s, t)
        if s is t or self.estimate is None:
            return log_pi
        lean = (self.trust * (t - s) / (1 - s)).view(-1, 1, 1)
        return log_pi.exp().lerp(self.estimate, lean).log()


@pytest.mark.parametrize("trust, breaks", [(0.0, False), (0.1, True)])
def test_a_map_that_leans_on_its_estimate_is_no_semigroup(trust, breaks):
    """Even with an exact diagonal, whichever estimate it starts from, and the first jump's passed on."""
    exact = finite(3, 2)
    law = Trusting(exact.atoms, exact.log_p, exact.K, steps=200)
    truth, law.trust = law.flow_map(), trust
    x = truth.path.start(truth.path.noise((6, 2), seeded())).double()
    s, u, t = (torch.full((6,), time).double() for time in (0.0, 0.3, 0.6))
    for first in (None, truth.mean(truth.features(x, s, s))):
        law.estimate = first
        once, between = truth(x, s, t), truth(x, s, u)
        law.estimate = truth.mean(truth.features(x, s, u))
        gap = (truth(between, u, t) - once).abs().max()
        assert gap > 1e-3 if breaks else gap < 1e-9
