"""Exact laws against brute force."""

import pytest
import torch
from torchdiffeq import odeint

from flowmaps.fields import Condition, across
from flowmaps.oracles import FiniteLaw, GaussianLaw, OrthantLaw
from flowmaps.samplers import Euler, generate
from identities.cases import finite, seeded, state, times


def test_posterior_is_bayes_rule():
    law = finite()
    x, _ = state(law.flow_map())
    t = times()[1]
    e = law.one_hot.unflatten(1, (3, 3))
    distance = (x.unsqueeze(1) - across(t, x).unsqueeze(1) * e).flatten(2).square().sum(-1)
    w = (law.log_p - distance / (2 * (1 - t).square().unsqueeze(-1))).softmax(-1)
    mu = torch.einsum("bn,nlk->blk", w, e)
    assert torch.allclose(law(x, t, t).exp(), mu, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_late_posteriors_are_bayes_rule_off_the_path_too(dtype):
    """States far from every atom, at times where those of the path are settled."""
    law = finite().to(dtype)
    x = torch.randn(400, 3, 3, generator=seeded(4), dtype=torch.float64)
    e = law.one_hot.double().unflatten(1, (3, 3))
    for time in (0.93, 0.99, 0.9999):
        t = torch.full((400,), time, dtype=dtype)
        square = (x.unsqueeze(1) - t[0].double() * e).flatten(2).square().sum(-1)
        w = (law.log_p.double() - square / (2 * (1 - t[0].double()).square())).softmax(-1)
        mu = torch.einsum("bn,nlk->blk", w, e)
        near = torch.isclose(law(x.to(dtype), t, t).exp().double(), mu, atol=1e-9 if dtype == torch.float64 else 1e-3)
        assert float(near.double().mean()) > (1 - 1e-9 if dtype == torch.float64 else 0.99)


def test_late_jumps_follow_the_flow_off_the_path_too():
    """Midway between atoms at U = 13 and more, against an adaptive solver in (y, U)."""
    law = finite(steps=64)
    x = law.one_hot.unflatten(1, (3, 3))[torch.randint(27, (2, 64), generator=seeded())].mean(0)
    x = x + 0.01 * torch.randn(64, 3, 3, generator=seeded(1)).double()
    for start, end in ((0.93, 0.98), (0.93, 0.999), (0.5, 0.99), (0.97, 1 - 1e-6)):
        s, t = (torch.full((64,), time).double() for time in (start, end))
        U, V = start / (1 - start), end / (1 - end)
        slope = lambda U, y: law.weights(y, U.expand(64)) @ law.one_hot  # noqa: E731
        grid = torch.tensor([U, min(V, U + 5), V]).double()  # what is undecided decides itself early
        y = odeint(slope, x.flatten(1) / (1 - start), grid, rtol=1e-9, atol=1e-9)
        moved = law.flow_map()(x, s, t).flatten(1)
        assert torch.allclose(moved, y[-1] * (1 - end), atol=2e-3)
        half = torch.full((64,), (start + end) / 2).double()
        assert torch.allclose(law.flow_map()(law.flow_map()(x, s, half), half, t).flatten(1), moved, atol=2e-3)


def test_one_position_has_its_closed_form():
    law = finite(2, 1)
    x, _ = state(law.flow_map())
    t = times()[1]
    mu = (law.log_p + across(t / (1 - t).square(), x) * x).softmax(-1)
    assert torch.allclose(law(x, t, t).exp(), mu, atol=1e-12)


def test_flow_agrees_with_an_independent_solver():
    law = finite()
    flow_map = law.flow_map()
    x, _ = state(flow_map)
    s, t = torch.full((6,), 0.2).double(), torch.full((6,), 0.7).double()
    velocity = lambda time, x: flow_map.velocity(x, time.expand(6))  # noqa: E731
    end = odeint(velocity, x, torch.stack([s[0], t[0]]), rtol=1e-11, atol=1e-11)[-1]
    assert torch.allclose(flow_map(x, s, t), end, atol=1e-9)


def test_mean_endpoint_is_the_weighted_posterior():
    """π_st = ∫ w(u) μ_u(x_u) du with w(u) = (1-s)(1-t)/((t-s)(1-u)²), by Simpson's rule along the flow."""
    law = finite()
    flow_map = law.flow_map()
    x, _ = state(flow_map)
    s, t = torch.full((6,), 0.2).double(), torch.full((6,), 0.7).double()
    n = 60
    total = 0.0
    for i in range(n + 1):
        u = s + (t - s) * i / n
        weight = (1 - s) * (1 - t) / ((t - s) * (1 - u).square())
        simpson = (1 if i in (0, n) else 4 if i % 2 else 2) / (3 * n)
        total = total + across((t - s) * simpson * weight, x) * law(flow_map(x, s, u), u, u).exp()
    assert torch.allclose(law(x, s, t).exp(), total, atol=1e-8)


def test_jump_to_the_data_ends_at_a_vertex_with_the_law():
    law = FiniteLaw.dependent(3, 3, generator=seeded(), steps=64)
    x = torch.randn(20_000, 3, 3, generator=seeded(1)).double()
    pi = law(x, torch.zeros(len(x)).double(), torch.ones(len(x)).double()).exp()
    assert float((pi.max(-1).values < 0.99).double().mean()) < 0.01
    share = torch.bincount(law.index(pi.argmax(-1)), minlength=27) / len(x)
    assert float((share - law.log_p.exp()).abs().sum() / 2) < 0.03


def test_known_positions_give_the_conditional_law():
    """Given the first letter, posterior and flow are those of the atoms that start with it."""
    law = finite()
    keep = law.atoms[:, 0] == 2
    narrow = FiniteLaw(law.atoms[keep], law.log_p[keep], 3, steps=200)
    x, _ = state(law.flow_map())
    known = torch.zeros(6, 3, dtype=torch.bool)
    known[:, 0] = True
    clean = law.flow_map().space.encode(torch.full((6, 3), 2)).double()
    condition = Condition(known=known)
    x = law.flow_map().path.clamp(x, clean, condition)
    s, t = times()
    free = x.clone()
    assert torch.allclose(law(x, s, t, condition).exp()[:, 1:], narrow(free, s, t).exp()[:, 1:], atol=1e-12)
    assert torch.equal(law.flow_map()(x, s, t, condition)[:, 0], clean[:, 0])


def test_tilt_and_entropy_are_sums_over_atoms():
    law = finite()
    tilted = law.tilt(lambda e: e[:, 0, 1] + 2 * e[:, 2, 0], 1.5)
    p = law.log_p.exp()
    r = (law.atoms[:, 0] == 1).double() + 2 * (law.atoms[:, 2] == 0)
    expected = p * (1.5 * r).exp()
    assert torch.allclose(tilted.log_p.exp(), expected / expected.sum(), atol=1e-12)
    assert float(law.entropy()) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-12)


def test_index_names_every_atom_and_no_stranger():
    atoms = torch.tensor([[0, 1], [2, 2], [1, 0]])
    law = FiniteLaw(atoms, torch.zeros(3), 3)
    assert law.index(atoms).tolist() == [0, 1, 2]
    assert law.index(torch.tensor([[0, 0]])).tolist() == [-1]


def test_samples_have_the_law():
    law = finite()
    share = torch.bincount(law.index(law.sample(50_000, seeded())), minlength=27) / 50_000
    assert float((share - law.log_p.exp()).abs().sum() / 2) < 0.02


def test_gaussian_transports_its_source():
    law = GaussianLaw(torch.tensor([2.0]).double(), 0.5)
    x = torch.randn(50_000, 1, 1, generator=seeded()).double()
    zero, one = torch.zeros(len(x)).double(), torch.ones(len(x)).double()
    y = law.flow_map()(x, zero, one)
    assert float(y.mean()) == pytest.approx(2.0, abs=0.01)
    assert float(y.std()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FiniteLaw(torch.zeros(2, dtype=torch.long), torch.zeros(2), 2),
        lambda: FiniteLaw(torch.full((2, 2), 5), torch.zeros(2), 3),
        lambda: GaussianLaw(torch.zeros(1), 0.0),
    ],
)
def test_impossible_laws_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_the_exact_flow_on_the_orthant_has_its_law():
    """Euler steps of the exact diagonal give every category its probability, at each position."""
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
    n = 20_000
    x = generate(OrthantLaw(p).flow_map(), Euler(100), (n, 2), torch.Generator().manual_seed(0))
    for column, truth in zip(x.mT, p, strict=True):
        share = torch.bincount(column, minlength=4) / n
        assert ((share - truth).abs() < 4 * (truth * (1 - truth) / n).sqrt() + 0.01).all()


def test_the_posterior_on_the_orthant_is_that_of_draws():
    p, t = torch.tensor([0.5, 0.3, 0.2]), 0.3
    law, generator = OrthantLaw(p), torch.Generator().manual_seed(1)
    path = law.flow_map().path
    x_1 = torch.multinomial(p, 400_000, replacement=True, generator=generator)
    x_t = path(path.start(path.noise((400_000,), generator)), x_1, torch.full((400_000,), t))
    w = law(x_t, torch.tensor(t), torch.tensor(t)).softmax(-1)
    hot = torch.nn.functional.one_hot(x_1, 3).float()
    assert torch.allclose(w.mean(0), p, atol=3e-3)
    bins = 0
    for k in range(3):  # calibrated: where the posterior says q, a share q of the draws is of that category
        for low in (0.1, 0.4, 0.7):
            some = (w[:, k] > low) & (w[:, k] < low + 0.2)
            if some.sum() < 1000:
                continue
            bins += 1
            error = (hot[some, k].var() / some.sum()).sqrt()
            assert abs(float(hot[some, k].mean() - w[some, k].mean())) < 4 * error + 2e-3
    assert bins >= 5
    with pytest.raises(ValueError, match="sum to 1"):
        OrthantLaw(torch.tensor([0.5, 0.2]))
