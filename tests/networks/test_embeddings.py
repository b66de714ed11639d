"""Time features, input scale, labels, modulation."""

import pytest
import torch

from flowmaps.networks import Context, Label, Modulation, TimeFeatures, input_scale, own_time
from flowmaps.times import DecodeRateClock


@pytest.mark.parametrize("K", [1, 2, 500])
@pytest.mark.parametrize("s", [0.0, 0.4, 0.95, 1.0])
def test_input_scale_gives_unit_norm(K, s):
    generator = torch.Generator().manual_seed(0)
    x = (1 - s) * torch.randn(20_000, K, generator=generator)
    x[:, 0] += s
    norm = (input_scale(torch.tensor(s), K) * x).square().sum(-1).mean().sqrt()
    assert abs(norm - 1) < 0.02


def test_own_time_of_known_positions_is_one():
    known = torch.tensor([[[True, False]], [[False, False]]])
    s = torch.tensor([0.25, 0.5])
    assert own_time(s, None) is s
    assert own_time(s, known).tolist() == [[[1.0, 0.25]], [[0.5, 0.5]]]


def fit(features: TimeFeatures) -> float:
    """Worst error of the best linear read-out for bumps as narrow as the decoding of an alphabet."""
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    bumps = torch.exp(-((t[:, None] - torch.linspace(0.1, 0.9, 9)) / 0.15).square())
    phi = features.double()(t, t)
    gain = torch.linalg.solve(phi.T @ phi + 1e-3 * torch.eye(phi.shape[1]), phi.T @ bumps)
    return float((phi @ gain - bumps).abs().max())


def test_features_resolve_time_where_raw_times_would_not():
    assert fit(TimeFeatures()) < 0.1
    assert fit(TimeFeatures(band=(0.1, 1.0))) > 0.3


def test_features_take_times_of_any_shape_and_are_constant_on_the_diagonal_in_the_jump():
    features = TimeFeatures(4)
    s = torch.rand(2, 3, 5)
    assert features(s, s).shape == (2, 3, 5, features.dim)
    torch.testing.assert_close(features(s, s)[1, 2, 3], features(s[1, 2, 3], s[1, 2, 3]))
    jump = features(s, s).unflatten(-1, (2, 2, 4))[..., :, 1, :]
    assert torch.equal(jump, jump[:1, :1, :1].expand_as(jump))


@pytest.mark.parametrize("clock", [None, DecodeRateClock(5, table=65)], ids=["time", "clock"])
def test_features_are_twice_differentiable(clock):
    features = TimeFeatures(4, clock=clock).double()
    pair = torch.tensor([0.3, 0.6], dtype=torch.float64)
    f = lambda pair: features(pair[0], pair[1])  # noqa: E731
    hessian = torch.func.jacfwd(torch.func.jacfwd(f))(pair)
    h = 1e-4 * torch.eye(2, dtype=torch.float64)
    for i in range(2):
        difference = (torch.func.jacfwd(f)(pair + h[i]) - torch.func.jacfwd(f)(pair - h[i])) / 2e-4
        torch.testing.assert_close(hessian[..., i], difference, rtol=1e-4, atol=1e-3)


def test_a_clock_replaces_both_times():
    clock = DecodeRateClock(5, table=65)
    s, t = torch.tensor(0.3), torch.tensor(0.6)
    torch.testing.assert_close(TimeFeatures(4, clock=clock)(s, t), TimeFeatures(4)(clock(s), clock(t)))


def test_modulation_mixes_by_share_and_starts_at_zero():
    c = torch.randn(2, 2, 6)
    modulation = Modulation(6, 4, parts=3)
    assert all((part == 0).all() for part in modulation(c[:, :1]))
    torch.nn.init.normal_(modulation.linear.weight)
    share = torch.tensor([[0.0, 1.0, 0.25]]).expand(2, 3)
    (noisy, *_), (clean, *_), (mixed, *_) = modulation(c[:, :1]), modulation(c[:, 1:]), modulation(c, share)
    torch.testing.assert_close(mixed, torch.cat([noisy, clean, 0.75 * noisy + 0.25 * clean], dim=1))


def test_unusable_arguments_are_explained():
    with pytest.raises(ValueError, match="0 < low <= high"):
        TimeFeatures(band=(4.0, 2.0))
    with pytest.raises(ValueError, match="one or the other"):
        Label(4, classes=2, properties=1)
    with pytest.raises(ValueError, match="one or the other"):
        Context(4, classes=2, properties=1)
    with pytest.raises(ValueError, match="integer classes"):
        Label(4, classes=2)(torch.tensor([0.5]), 1)
