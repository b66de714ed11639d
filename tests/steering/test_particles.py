import math

import pytest
import torch

from flowmaps.fields import Condition
from flowmaps.maps import EndpointMap
from flowmaps.oracles import FiniteLaw, GaussianLaw
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Categorical, Decoder, EulerMaruyama, Jumps, Renoise, generate
from flowmaps.spaces import OneHot, Product
from flowmaps.steering import (
    BestOf,
    FeynmanKac,
    Hard,
    Langevin,
    LookAhead,
    Reward,
    Soft,
    Tilted,
    average,
    difference,
    maximum,
)
from steering.laws import assert_exact, distance, floor, generator, linear_reward, small_law, tilted

PLAIN = {
    "narrower noise": FeynmanKac(Renoise(4, 0.5, spread=0.7)),
    "best of n": BestOf(3, Renoise(4, 0.5)),
    "look-ahead": LookAhead(4),
    "renoise": FeynmanKac(Renoise(4, 0.5)),
    "maximum": FeynmanKac(Langevin(4), maximum),
    "average": FeynmanKac(EulerMaruyama(4), average),
    "tilted": Tilted(Renoise(4, 0.5)),
    "tilted Langevin": Tilted(Langevin(4)),
    "importance": Tilted(Renoise(4, 0.0)),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("decoder", [None, Categorical()])
def test_strength_0_is_the_plain_sampler_bit_for_bit(name, decoder):
    law, method = small_law(), PLAIN[name]
    result = method(law.flow_map(), linear_reward(law), (3,), 200, generator(4), strength=0.0, decoder=decoder)
    assert torch.equal(
        result.samples, generate(law.flow_map(), method.sampler, (200, 3), generator(4), decoder=decoder)
    )
    assert torch.allclose(result.weights, torch.full_like(result.weights, 1 / 200))
    assert result.resampled == 0 and float(result.ess.min()) == pytest.approx(1)


EXACT = {
    "importance": Tilted(Renoise(2, 0.0)),
    "tilted": Tilted(Renoise(6, 0.5)),
    "tilted Langevin": Tilted(Langevin(16), threshold=0.8),
    "gradient-free": FeynmanKac(Renoise(4, 0.5)),
    "maximum": FeynmanKac(Renoise(8, 0.5), maximum),
    "average": FeynmanKac(Renoise(8, 0.5), average),
}


@pytest.mark.parametrize("name", EXACT)
def test_weighted_samples_follow_the_tilted_law(name):
    law = small_law()
    reward = linear_reward(law)
    target, log_z = tilted(law, reward, 0.7)
    result = EXACT[name](law.flow_map(), reward, (3,), 4000, generator(5), strength=0.7)
    assert_exact(result, target, log_z)
    assert distance(law, result.samples, result.weights) > 3 * distance(target, result.samples, result.weights)


SLOW = ("tilted Langevin", "maximum", "average")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in EXACT])
def test_at_20000_particles(name):
    law = small_law()
    reward = linear_reward(law)
    target, log_z = tilted(law, reward, 0.7)
    result = EXACT[name](law.flow_map(), reward, (3,), 20_000, generator(6), strength=0.7, population=5000)
    assert_exact(result, target, log_z)


@pytest.mark.parametrize("name", ["tilted", "gradient-free", "importance"])
def test_total_variation_falls_with_the_number_of_particles(name):
    law = small_law()
    reward = linear_reward(law)
    target, _ = tilted(law, reward, 0.7)

    def error(n: int, repeats: int) -> float:
        runs = (EXACT[name](law.flow_map(), reward, (3,), n, generator(k), strength=0.7) for k in range(repeats))
        return sum(distance(target, r.samples, r.weights) for r in runs) / repeats

    few, more = error(60, 8), error(960, 2)
    assert more < 0.45 * few  # a quarter if errors fall with the root


def test_resampling_happens_and_is_counted():
    law = small_law()
    result = FeynmanKac(Renoise(8, 0.5))(law.flow_map(), linear_reward(law), (3,), 1000, generator(), strength=2.0)
    assert result.resampled >= 1 and result.effective_size < 1000
    assert len(result.ess) == 8 and 0 < float(result.ess.min()) < 0.5


class Raw(Decoder):
    """States instead of categories, for laws that are not categorical."""

    def choose(self, z, generator):
        return z


class Slope(Reward):
    """⟨g, x⟩ of states."""

    differentiable = True

    def of_endpoint(self, pi, first=0):
        return self._values(pi, first)

    def of_sample(self, x_1, sizes, first=0):
        return self._values(x_1, first)


GAUSSIAN = GaussianLaw(torch.tensor([0.5, -0.2]), 0.7)
SLOPE = torch.tensor([1.0, 2.0])
TOWARDS = Slope(lambda x: (x * SLOPE).flatten(1).sum(1), "slope")


@pytest.mark.parametrize(
    "method",
    [
        Tilted(),
        Tilted(longest=0.2),
        Tilted(pull=0.5),
        Tilted(Renoise(16, 0.2), threshold=0.9),
        Tilted(Langevin(64)),
        FeynmanKac(),
    ],
    ids=["full", "short", "half", "many", "Langevin", "none"],
)
def test_a_tilted_gaussian_is_exact_whatever_the_gradient(method):
    """N(m, a²) tilted by exp(λ⟨g, x⟩) is N(m + λ a² g, a²); here the gradient of the look-ahead never vanishes."""
    m, a, lam = GAUSSIAN.m, GAUSSIAN.a, 1.0
    result = method(GAUSSIAN.flow_map(), TOWARDS, (1,), 8000, generator(3), strength=lam, decoder=Raw())
    samples = result.samples.flatten(1).double()
    mean = (result.weights[:, None] * samples).sum(0)
    deviation = (result.weights[:, None] * (samples - mean).square()).sum(0).sqrt()
    one = a / result.effective_size**0.5
    assert one < 0.04
    assert torch.allclose(mean, (m + lam * a**2 * SLOPE).double(), atol=3.5 * one)
    assert torch.allclose(deviation, torch.full((2,), a).double(), atol=3.5 * one)
    log_z = lam * float(SLOPE @ m) + 0.5 * lam**2 * a**2 * float(SLOPE @ SLOPE)
    assert abs(result.log_normaliser - log_z) <= 3.5 * result.error


def test_the_gradient_raises_the_effective_size():
    methods = (Tilted(), Tilted(pull=0.0), Tilted(Renoise(8, 0.0)))
    flow_map = GAUSSIAN.flow_map()
    sizes = [
        m(flow_map, TOWARDS, (1,), 2000, generator(3), strength=1.5, decoder=Raw()).effective_size for m in methods
    ]
    assert sizes[0] > 5 * max(sizes[1:])


def test_look_ahead_raises_the_reward_without_weights():
    torch.manual_seed(0)
    flow_map = EndpointMap(GeodesicPath(OneHot(4)), torch.nn.Identity())

    class Smooth(torch.nn.Module):
        def forward(self, x, s, t, condition):
            return 2 * x

    flow_map.network = Smooth()
    reward = Soft(lambda pi: pi[..., 0].sum(1), "zeros")
    plain, pulled = (LookAhead(6)(flow_map, reward, (3,), 1000, generator(), strength=k) for k in (0.0, 30.0))
    assert pulled.mean_reward > plain.mean_reward + 0.3
    assert math.isnan(pulled.log_normaliser) and pulled.effective_size == pytest.approx(1000)
    assert pulled.evaluations == 1000 * (6 + 2 * 5)


def test_best_of_n_takes_the_best_and_estimates_the_normaliser():
    law = small_law()
    reward = linear_reward(law)
    target, log_z = tilted(law, reward, 1.0)
    one, many = (BestOf(n)(law.flow_map(), reward, (3,), 1500, generator(2)) for n in (1, 6))
    assert many.mean_reward > one.mean_reward + 0.5
    assert one.evaluations == 1500 and many.evaluations == 9000
    assert abs(many.log_normaliser - log_z) < 3 * many.error and many.error < one.error
    # The law of the best of n is known: P(r <= v)^n at the values v.
    r = reward.of_sample(law.atoms, law.K)
    order = r.argsort()
    below = law.log_p.exp()[order].cumsum(0).clamp(max=1)
    best = torch.diff(below**6, prepend=torch.zeros(1))
    p = torch.zeros(64).index_add_(0, order, best)
    assert distance(FiniteLaw(law.atoms, p.clamp(min=1e-30).log(), 4), many.samples) < 1.5 * floor(law, 1500)


def test_populations_stream_and_agree():
    law = small_law()
    reward = linear_reward(law)
    target, log_z = tilted(law, reward, 0.7)
    seen = []

    def watched(x_1):
        seen.append(len(x_1))
        return reward.of_sample(x_1, 4)

    result = FeynmanKac(Renoise(3, 0.5))(
        law.flow_map(), Hard(watched), (3,), 4000, generator(), strength=0.7, population=300
    )
    assert max(seen) == 300 and len(result.weights) == 4000
    assert_exact(result, target, log_z)


def test_a_collapse_is_reported():
    law = small_law()
    result = FeynmanKac(Renoise(4, 0.5))(law.flow_map(), linear_reward(law), (3,), 300, generator(), strength=1e4)
    assert result.collapsed and "COLLAPSED" in result.describe() and result.effective_size < 1.5
    mild = FeynmanKac(Renoise(4, 0.5))(law.flow_map(), linear_reward(law), (3,), 300, generator(), strength=0.1)
    assert not mild.collapsed and "COLLAPSED" not in mild.describe()


def test_a_seed_reproduces_everything():
    law = small_law()
    a, b = (
        Tilted(Renoise(4))(law.flow_map(), linear_reward(law), (3,), 100, generator(9), strength=2.0) for _ in range(2)
    )
    assert torch.equal(a.samples, b.samples) and torch.equal(a.weights, b.weights)
    assert (a.log_normaliser, a.error) == (b.log_normaliser, b.error)


@pytest.mark.parametrize("method", [FeynmanKac(Renoise(4)), Tilted(Renoise(4))], ids=["gradient-free", "tilted"])
def test_steering_fills_in_what_is_missing(method):
    """With the first position known, the target is the tilted conditional law."""
    law = small_law()
    reward = linear_reward(law)
    keep = law.atoms[:, 0] == 2
    inside = FiniteLaw(law.atoms[keep], law.log_p[keep], 4)
    log_q = inside.log_p + 0.7 * reward.of_sample(inside.atoms, 4)
    known, given = torch.tensor([[True, False, False]]), torch.tensor([[2, 0, 0]])
    result = method(
        law.flow_map(), reward, (3,), 4000, generator(), strength=0.7, condition=Condition(known=known), given=given
    )
    assert bool((result.samples[:, 0] == 2).all())
    assert_exact(result, FiniteLaw(inside.atoms, log_q, 4), float(log_q.logsumexp(0)))


def test_several_fields():
    a, b = small_law(4, 2), small_law(3, 2, seed=1)

    class Two(torch.nn.Module):
        def forward(self, x, s, t, condition):
            return {"a": a(x["a"], s, t), "b": b(x["b"], s, t)}

    flow_map = EndpointMap(GeodesicPath(Product({"a": OneHot(4), "b": OneHot(3)})), Two())
    reward = Soft(lambda pi: pi["a"][:, 0, 0] - pi["b"][:, 1, 2], "both")
    result = Tilted(Renoise(4))(flow_map, reward, {"a": (2,), "b": (2,)}, 4000, generator(), strength=1.0)
    for law, name, r in ((a, "a", a.atoms[:, 0] == 0), (b, "b", -1.0 * (b.atoms[:, 1] == 2))):
        target = FiniteLaw(law.atoms, law.log_p + r.float(), law.K)
        assert distance(target, result.samples[name], result.weights) < 1.5 * floor(target, result.effective_size)


@pytest.mark.parametrize(
    "method", [FeynmanKac(Renoise(4)), Tilted(Renoise(4)), BestOf(1)], ids=["fk", "tilted", "best"]
)
def test_conditions_travel_with_their_particles(method):
    """Two laws told apart by a mask: the target is over mask and sample together."""
    law = small_law(3, 2)
    mask = torch.ones(2000, 2, dtype=torch.bool)
    mask[::2, 1] = False
    reward = Soft(lambda pi: pi[:, 1].sum(-1) + pi[:, 0, 2], "length and a two")  # 1 for samples of two positions
    result = method(
        law.flow_map(), reward, (2,), 2000, generator(), strength=1.5, condition=Condition(mask=mask), population=500
    )
    long = result.condition.mask[:, 1]
    expected = long.float() + (result.samples[:, 0] == 2).float()
    assert torch.allclose(result.rewards, expected)
    if not isinstance(method, BestOf):
        assert float(result.weights[long].sum()) == pytest.approx(math.exp(1.5) / (1 + math.exp(1.5)), abs=0.03)


def test_black_boxes_see_no_padding():
    law, seen = small_law(3, 2), []

    def reward(x_1):
        seen.append(x_1)
        return (x_1 == 2).sum(1)

    mask = torch.tensor([[True, False]])
    FeynmanKac(Renoise(3))(law.flow_map(), reward, (2,), 50, generator(), condition=Condition(mask=mask))
    assert len(seen) == 3 and all(bool((x[:, 1] == -1).all()) and bool((x[:, 0] >= 0).all()) for x in seen)


def test_potentials():
    history = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0]])
    assert difference(history).tolist() == [2.0, 5.0]
    assert maximum(history).tolist() == [3.0, 5.0]
    assert average(history).tolist() == [2.0, pytest.approx(4 / 3)]


@pytest.mark.parametrize("potential", [difference, maximum, average])
def test_every_potential_keeps_enough_particles_for_a_true_error_bar(potential):
    """At eight steps, where a tilt that grows with every step would leave a handful of ancestors."""
    law = small_law()
    reward = linear_reward(law)
    z, method = [], FeynmanKac(Renoise(8, 0.5), potential)
    for strength in (0.3, 1.0):
        target, log_z = tilted(law, reward, strength)
        for seed in range(3):
            result = method(law.flow_map(), reward, (3,), 1000, generator(seed), strength=strength)
            assert result.trusted and "FEW" not in result.describe()
            assert distance(target, result.samples, result.weights) < 1.5 * floor(target, result.effective_size)
            z.append((result.log_normaliser - log_z) / result.error)
    assert max(map(abs, z)) < 3.5 and sum(v * v for v in z) < 3 * len(z)


def test_error_bars_of_few_ancestors_are_not_trusted():
    """Of runs at strengths that no thousand particles can bear, every one that misses by five bars says so."""
    law = small_law()
    reward, missed = linear_reward(law), 0
    for strength in (2.0, 4.0):
        _, log_z = tilted(law, reward, strength)
        for seed in range(4):
            result = FeynmanKac(Renoise(8, 0.5))(law.flow_map(), reward, (3,), 500, generator(seed), strength=strength)
            far = abs(result.log_normaliser - log_z) > 5 * result.error
            missed += far
            assert not (far and result.trusted)
            assert result.trusted or "FEW" in result.describe() or "COLLAPSED" in result.describe()
    assert missed > 0


@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan])
def test_a_bad_strength_is_refused(strength):
    law = small_law()
    with pytest.raises(ValueError, match=f"strength is {strength}"):
        BestOf(2)(law.flow_map(), linear_reward(law), (3,), 5, generator(), strength=strength)


def test_bad_settings_are_refused():
    law = small_law()
    for build, message in (
        (lambda: BestOf(0), "n is 0"),
        (lambda: LookAhead(4, c=-1.0), "c is -1"),
        (lambda: Tilted(longest=-1.0), "longest is -1"),
        (lambda: Tilted(Jumps(4)), "Gaussian steps"),
        (lambda: FeynmanKac(Jumps(4), threshold=2.0), "threshold is 2"),
        (lambda: Tilted()(law.flow_map(), lambda x: x.sum(1), (3,), 5, generator()), "black box"),
        (lambda: BestOf(2)(law.flow_map(), linear_reward(law), (3,), 0, generator()), "particles is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
