"""Laws of times and the decode-rate clock."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps import times as T
from identities.cases import seeded

PAIRS = {
    "triangle": T.Triangle(),
    "logit-normal": T.Sorted(T.LogitNormal()),
    "below": T.UniformBelow(),
    "gap": T.UniformGap(),
    "to data": T.ToData(),
    "full jump": T.FullJump(T.UniformGap(), 0.2),
    "on a grid": T.OnGrid((0.0, 0.6, 0.8, 1.0), T.UniformGap(), 0.3, overshoot=0.5),
    "on the clock": T.PairOnClock(T.DecodeRateClock(27)),
}


@pytest.mark.parametrize("name", PAIRS)
@given(n=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_pairs_are_ordered_and_leave_room(name, n, seed):
    s, t = PAIRS[name](T.stratified(n, 2, generator=seeded(seed)))
    assert s.shape == t.shape == (n,)
    assert bool((s >= 0).all()) and bool((s <= t).all()) and bool((t <= 1).all()) and bool((s < 1).all())


@pytest.mark.parametrize("name", PAIRS)
def test_the_largest_uniform_stays_below_one(name):
    corner = torch.full((1, 2), T.LAST)
    s, _ = PAIRS[name](corner)
    assert float(s) < 1


def test_stratification_puts_one_point_in_each_cell():
    u = T.stratified(64, 3, generator=seeded())
    assert torch.equal((u * 64).floor().long().sort(0).values, torch.arange(64).unsqueeze(1).expand(-1, 3))


def test_means_of_the_laws():
    u = T.stratified(200_000, 2, generator=seeded())
    means = {name: tuple(float(v.mean()) for v in law(u)) for name, law in PAIRS.items()}
    assert means["triangle"] == pytest.approx((1 / 3, 2 / 3), abs=2e-3)
    assert means["below"] == pytest.approx((1 / 4, 1 / 2), abs=2e-3)
    assert means["gap"] == pytest.approx((1 / 4, 3 / 4), abs=2e-3)
    s, t = PAIRS["full jump"](u)
    assert float(((s == 0) & (t == 1)).float().mean()) == pytest.approx(0.2, abs=1e-3)
    t = T.LogitNormal(-0.4, 1.0)(u[:, 0])
    assert float(torch.logit(t).mean()) == pytest.approx(-0.4, abs=1e-2)


def test_jumps_of_a_grid_come_equally_often_and_the_rest_as_before():
    grid, law = (0.0, 0.6, 0.8, 1.0), T.UniformGap()
    u = T.stratified(30_000, 2, generator=seeded())
    s, t = T.OnGrid(grid, law, 0.3, overshoot=0.5)(u)
    share = [float(torch.isclose(s, torch.tensor(a)).logical_and(torch.isclose(t, torch.tensor(b))).float().mean())
             for a, b in ((0.0, 0.8), (0.6, 0.9), (0.8, 1.0))]  # fmt: skip
    assert share == pytest.approx([0.1] * 3, abs=1e-3)
    rest = u[:, 0] >= 0.3
    exact = law(torch.stack([((u[rest, 0] - 0.3) / 0.7).clamp(0, T.LAST), u[rest, 1]], dim=-1))
    assert torch.equal(s[rest], exact[0]) and torch.equal(t[rest], exact[1])
    s, t = T.OnGrid(grid, law, 1.0)(u)
    assert {(round(float(a), 3), round(float(b), 3)) for a, b in zip(s, t, strict=True)} == {
        (0.0, 0.6), (0.6, 0.8), (0.8, 1.0),
    }  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(T.OnGrid(grid, law, 0.0)(u), law(u), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": (0.0, 0.6, 0.6, 1.0)}, "expected increasing times"),
        ({"times": (0.0, 1.0), "probability": 2}, "probability is 2, expected a number in"),
        ({"times": (0.0, 1.0), "overshoot": -1}, "overshoot is -1, expected a number in"),
    ],
)
def test_pairs_of_no_grid(arguments, message):
    with pytest.raises(ValueError, match=message):
        T.OnGrid(**arguments)


@pytest.mark.parametrize("K", [2, 27, 50_257])
def test_decode_rate_is_the_share_of_right_argmaxes(K):
    """Against simulation: P(argmax of x_t is the datum)."""
    clock = T.DecodeRateClock(K)
    n = 2000 if K > 1000 else 50_000
    for t in (0.3, 0.6, 0.82):
        generator = seeded(1)
        right = 0.0
        for _ in range(n // 1000):
            x = (1 - t) * torch.randn(1000, K, generator=generator)
            x[:, 0] += t
            right += float((x.argmax(1) == 0).sum())
        exact = float(clock.decode_rate(torch.tensor(t, dtype=torch.float64)))
        assert right / n == pytest.approx(exact, abs=4 * math.sqrt(max(exact * (1 - exact), 1e-4) / n))


@pytest.mark.parametrize("K", [2, 27, 50_257])
def test_the_clock_is_monotone_and_inverts(K):
    clock = T.DecodeRateClock(K)
    t = torch.linspace(0, 1, 999, dtype=torch.float64)
    c = clock(t)
    assert bool((c.diff() > 0).all()) and float(c[0]) == pytest.approx(0, abs=1e-9)
    assert float(c[-1]) == pytest.approx(1, abs=1e-9)
    assert torch.allclose(clock.inverse(c), t, atol=1e-5)
    assert float(clock.inverse(torch.ones(1))) < 1
    half = clock.inverse(torch.tensor([0.5]))
    assert abs(float(half) - T.half_decoded(K)) < 0.15


def test_the_clock_has_finite_slopes_in_both_modes():
    clock = T.DecodeRateClock(27)
    t = torch.tensor([0.0, 0.5, 0.9, 1 - 2**-24, 1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(clock(t).sum(), t)
    tangent = torch.func.jvp(clock, (t.detach(),), (torch.ones(5),))[1]
    assert bool(gradient.isfinite().all())
    assert torch.allclose(gradient, tangent, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T.DecodeRateClock(1), "K is 1"),
        (lambda: T.DecodeRateClock(5, temper=2.0), "temper is 2"),
        (lambda: T.FullJump(probability=1.5), "probability is 1.5"),
        (lambda: T.grid(0), "steps is 0"),
        (lambda: T.check_grid(torch.tensor([0.5])), "at least two"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_law_without_a_clock_takes_that_of_the_alphabet_and_stays_free_for_others():
    u = T.stratified(64, 2, generator=seeded())
    bare = T.FullJump(T.PairOnClock(law=T.UniformGap()), 0.1)
    for K in (3, 27):
        named = T.FullJump(T.PairOnClock(T.DecodeRateClock(K), T.UniformGap()), 0.1)
        for mine, its in zip(T.on_alphabet(bare, [K])(u), named(u), strict=True):
            assert torch.equal(mine, its)
    assert torch.equal(T.on_alphabet(T.OnClock(), [5, 5])(u[:, 0]), T.OnClock(T.DecodeRateClock(5))(u[:, 0]))
    plain = T.Triangle()
    assert T.on_alphabet(plain, [3, 4]) is plain


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T.OnClock()(torch.rand(3)), "has none yet"),
        (lambda: T.on_alphabet(T.OnClock(T.DecodeRateClock(27)), [256]), "is of K = 27 categories and the map of 256"),
        (lambda: T.on_alphabet(T.Sorted(T.OnClock()), [4, 9]), "may be of K = 4 or 9 categories"),
        (lambda: T.DecodeRateClock(5, table=10**12), "table is 1000000000000, expected 2 to 1,048,576 points"),
    ],
)
def test_a_clock_of_another_alphabet_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
