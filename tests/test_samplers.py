"""Solver order, equality of jumps, marginals and determinism, on exact maps."""

import math

import pytest
import torch

from flowmaps.fields import FREE, Batch, Condition, fieldwise
from flowmaps.likelihood import Averaged, CrossEntropyOnly, CutOff, Grid
from flowmaps.maps import EndpointMap
from flowmaps.metrics.two_sample import total_variation, total_variation_floor
from flowmaps.oracles import FiniteLaw, GaussianLaw
from flowmaps.paths import Dirichlet, Gaussian, GeodesicPath
from flowmaps.samplers import Argmax, Categorical, Dopri5, Euler, EulerMaruyama, Heun, Jumps, Renoise, generate
from flowmaps.spaces import OneHot, Product
from flowmaps.steering import BestOf, Corrector, Expert, FeynmanKac, Langevin, LookAhead, Soft, Tilted
from flowmaps.times import DecodeRateClock, grid
from identities.cases import LEARNED, finite, randomised, seeded, state

SAMPLERS = {
    "one jump": lambda: Jumps(1),
    "eight jumps": lambda: Jumps(8),
    "re-noised": lambda: Renoise(8, 0.7),
    "Euler": lambda: Euler(64),
    "Heun": lambda: Heun(32),
    "dopri5": lambda: Dopri5(),
    "SDE": lambda: EulerMaruyama(96),
}


def advance(sampler, flow_map, x, end: float, steps: int):
    """The state at ``end`` by equal steps of a sampler."""
    times = [torch.full((len(x),), end * i / steps, dtype=x.dtype) for i in range(steps + 1)]
    for s, t in zip(times[:-1], times[1:], strict=True):
        x = sampler.step(flow_map, x, s, t, FREE, None)
    return x


@pytest.mark.parametrize(("sampler", "order"), [(Euler(1), 1), (Heun(1), 2)])
def test_order_of_convergence(sampler, order):
    law = finite(steps=200)
    flow_map = law.flow_map()
    x, _ = state(flow_map, 32)
    exact = flow_map(x, torch.zeros(32).double(), torch.full((32,), 0.6).double())
    coarse, fine = (float((advance(sampler, flow_map, x, 0.6, n) - exact).abs().mean()) for n in (32, 64))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_dopri5_reaches_its_tolerance():
    law = finite()
    flow_map = law.flow_map()
    x, _ = state(flow_map, 8)
    sampler = Dopri5(T=0.6, rtol=1e-8, atol=1e-8)
    s, t = torch.zeros(8).double(), torch.full((8,), 0.6).double()
    assert torch.allclose(sampler.step(flow_map, x, s, t, FREE, None), flow_map(x, s, t), atol=1e-6)
    assert sampler.evaluations > 5


def test_many_exact_jumps_are_one():
    law = finite()
    flow_map = law.flow_map()
    x, _ = state(flow_map)
    one = advance(Jumps(1), flow_map, x, 0.6, 1)
    assert torch.allclose(advance(Jumps(1), flow_map, x, 0.6, 5), one, atol=1e-10)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_law(name):
    """Total variation within what as many true samples would show, plus discretisation."""
    law = FiniteLaw.dependent(3, 3, generator=seeded(), steps=48, coupling=1.0).float()
    n = 6000
    samples = generate(law.flow_map(), SAMPLERS[name](), (n, 3), seeded(5))
    p = law.log_p.exp()
    assert total_variation(samples, law.atoms, p) < total_variation_floor(p, n) + 0.015


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_seed_reproduces_samples_and_another_does_not(name):
    flow_map = randomised(LEARNED["transformer"]()).float()
    draw = lambda seed: generate(flow_map, SAMPLERS[name](), (16, 4), seeded(seed), decoder=Categorical(0.7))  # noqa: E731
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_no_renoising_and_no_diffusion_are_the_plain_samplers_bit_for_bit():
    flow_map = randomised(LEARNED["transformer"]()).float()
    x = flow_map.path.start(flow_map.path.noise((16, 4), seeded()))
    plain = [r.h for r in (Jumps(4)(flow_map, x), Euler(4)(flow_map, x))]
    assert torch.equal(Renoise(4, 0.0)(flow_map, x, generator=seeded()).h, plain[0])
    assert torch.equal(EulerMaruyama(4, c=0.0)(flow_map, x, generator=seeded()).h, plain[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_positions_stay_and_the_rest_has_the_conditional_law(name):
    law = FiniteLaw.dependent(3, 3, generator=seeded(), steps=48, coupling=1.0).float()
    n = 4000
    known = torch.zeros(n, 3, dtype=torch.bool)
    known[:, 1] = True
    given = torch.full((n, 3), 2)
    condition = Condition(known=known)
    samples = generate(law.flow_map(), SAMPLERS[name](), (n, 3), seeded(6), condition=condition, given=given)
    assert bool((samples[:, 1] == 2).all())
    keep = law.atoms[:, 1] == 2
    p = law.log_p.exp() * keep
    p = p / p.sum()
    assert total_variation(samples, law.atoms, p) < total_variation_floor(p, n) + 0.02


def test_embedded_and_one_hot_samples_are_the_same():
    """From the same source point, state by state: h = Wᵀx all along."""
    from torch import nn

    narrow = randomised(LEARNED["embedded, chunked"](), scale=2.0)
    W = narrow.space.weight.detach()

    class Dense(nn.Module):
        def forward(self, x, s, t, condition=None):
            return narrow.network(x @ W, s, t, condition)

    dense = EndpointMap(type(narrow.path)(OneHot(3)), Dense(), narrow.head)
    x = torch.randn(64, 4, 3, generator=seeded()).double()
    for sampler in (Jumps(4), Euler(8), Heun(6)):
        a = Argmax()(sampler(dense, x), None)
        b = Argmax()(sampler(narrow, x @ W), None, chunk=5)
        assert torch.equal(a, b)


def test_categorical_decoding_follows_the_temperature():
    z = torch.tensor([0.0, 1.0, 2.0]).expand(60_000, 1, 3)
    from flowmaps.evaluation import Readout

    for temperature in (0.5, 1.0, 3.0):
        k = Categorical(temperature)(Readout(lambda h: h, z), seeded())
        share = torch.bincount(k.flatten(), minlength=3) / len(z)
        assert torch.allclose(share, (z[0, 0] / temperature).softmax(-1), atol=0.01)


def test_several_fields_are_sampled_together():
    flow_map = randomised(LEARNED["two fields"]()).float()
    shape = {"a": (5, 4), "b": (5, 4, 4)}
    samples = generate(flow_map, Dopri5(), shape, seeded())
    assert {name: tuple(v.shape) for name, v in samples.items()} == shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Jumps(0), "steps is 0"),
        (lambda: Jumps(torch.tensor([0.0, 0.6, 0.4, 1.0])), "increasing"),
        (lambda: Jumps(torch.tensor([0.0, 1.2])), "within"),
        (lambda: Jumps(torch.tensor([0.0, 0.5])), "ends at 0.5"),
        (lambda: Jumps(torch.tensor([0.0, math.nan, 1.0])), "nan"),
        (lambda: Jumps(torch.tensor([0.0, math.inf])), "inf"),
        (lambda: Jumps(torch.tensor([-0.1, 1.0])), "within"),
        (lambda: Jumps(torch.tensor([0.0, 0.5, 0.5, 1.0])), "increasing"),
        (lambda: Euler(torch.tensor([0.0, 1 - 1e-12, 1.0], dtype=torch.float64)), "single precision"),
        (lambda: Jumps(torch.tensor([1.0])), "at least two times"),
        (lambda: Jumps(torch.tensor([])), "at least two times"),
        (lambda: Jumps(torch.tensor(0.5)), "at least two times"),
        (lambda: Jumps("uniform"), "no time grid"),
        (lambda: Renoise(4, 1.5), "eta is 1.5"),
        (lambda: EulerMaruyama(4, a=1.0), "a is 1.0"),
        (lambda: Dopri5(T=1.0), "T is 1.0"),
        (lambda: Categorical(0.0), "temperature is 0"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


LATE = [0.5, 1.0]


def test_grids_from_noise_start_at_0():
    """The sampler itself may carry a state of a later time; nothing else starts there."""
    law = finite().float()
    for make in (Jumps, Renoise, Euler, Heun, EulerMaruyama, Langevin):
        with pytest.raises(ValueError, match=r"starts at 0.5 but sampling starts from noise"):
            generate(law.flow_map(), make(torch.tensor(LATE)), (4, 3), seeded())
    methods = (BestOf(2, Jumps(LATE)), LookAhead(LATE), FeynmanKac(Renoise(LATE)), Tilted(Langevin(LATE)))
    for method in methods:
        with pytest.raises(ValueError, match="starts at 0.5 but sampling starts from noise"):
            method(law.flow_map(), lambda x: x.sum(1), (3,), 4, seeded())
    x_1 = law.sample(4000, seeded())
    x_t = law.flow_map().path(torch.randn(4000, 3, 3, generator=seeded(1)), x_1, torch.full((4000,), 0.5))
    samples = Argmax()(Jumps(LATE)(law.flow_map(), x_t), None)
    p = law.log_p.exp()
    assert total_variation(samples, law.atoms, p) < total_variation_floor(p, 4000) + 0.015


def test_noise_on_the_way_needs_a_gaussian_source():
    """In one space, in products and for subclasses; without noise every source will do."""
    law = finite().float()

    class Wider(Gaussian):
        def state(self, space, noise):
            return fieldwise(lambda x: 2 * x, space.random(noise))

    class Two(torch.nn.Module):
        def forward(self, x, s, t, condition=None):
            return {"a": law(x["a"], s, t), "b": law(x["b"], s, t)}

    pair = {"a": (4, 3), "b": (4, 3)}
    for source in (Dirichlet(), Wider()):
        refusal = f"source is {type(source).__name__}: .* needs the standard normal"
        one = EndpointMap(GeodesicPath(OneHot(3), source), law)
        two = EndpointMap(GeodesicPath(Product({"a": OneHot(3), "b": OneHot(3)}), source), Two())
        for flow_map, shape in ((one, (4, 3)), (two, pair)):
            for sampler in (Renoise(2), Langevin(2), EulerMaruyama(2)):
                with pytest.raises(ValueError, match=refusal):
                    generate(flow_map, sampler, shape, seeded())
            for sampler in (Renoise(2, 0.0), Langevin(2, 0.0), EulerMaruyama(2, 0.0), Jumps(2), Heun(2)):
                generate(flow_map, sampler, shape, seeded())
        batch = Batch(law.sample(4, seeded()))
        for bound in (CutOff(), Averaged(), CrossEntropyOnly(), Grid(4)):
            with pytest.raises(ValueError, match="a likelihood bound needs the standard normal source"):
                bound(one, batch, seeded())
        with pytest.raises(ValueError, match="a product of distributions needs"):
            Corrector([Expert(one, 0.5), Expert(one, 0.5)], c=0.0)
        for method in (Tilted(Renoise(2)), FeynmanKac(Langevin(2))):
            with pytest.raises(ValueError, match="needs the standard normal source"):
                method(one, Soft(lambda pi: pi[:, 0, 0]), (3,), 4, seeded())
        with pytest.raises(ValueError, match="the score needs"):
            one.path.score(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), torch.zeros(1))


def test_given_and_known_come_together():
    flow_map = randomised(LEARNED["perceptron"]()).float()
    with pytest.raises(ValueError, match="come together"):
        generate(flow_map, Jumps(1), (2, 4), seeded(), given=torch.zeros(2, 4, dtype=torch.long))


def test_a_grid_on_the_clock_spends_its_steps_where_decoding_happens():
    clock = DecodeRateClock(1000, temper=0.0)
    times = grid(4, clock)
    assert times[0] == 0 and times[-1] == 1
    assert torch.allclose(clock(times.double()), torch.linspace(0, 1, 5).double(), atol=1e-3)


@pytest.mark.parametrize("sampler", [Jumps(1, spread=0.6), Jumps(3, spread=0.6), Renoise(3, 0.5, spread=0.6)])
def test_a_spread_multiplies_the_noise_that_sampling_starts_from(sampler):
    flow_map = finite().flow_map()
    sampled = generate(flow_map, sampler, (40, 3), seeded(2))
    generator = seeded(2)
    x = 0.6 * flow_map.path.start(flow_map.noise((40, 3), generator))
    assert torch.equal(sampled, Argmax()(sampler(flow_map, x, FREE, generator), generator, None))
    assert not torch.equal(sampled, generate(flow_map, type(sampler)(3), (40, 3), seeded(2)))


def test_a_spread_narrows_an_exact_law_and_leaves_what_is_given():
    """The exact map of N(mean, deviation^2) is affine: samples have the spread times the deviation."""
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    x = generate(GaussianLaw(mean, 0.7).flow_map(), Jumps(2, spread=0.5), (20_000,), seeded(3))
    assert float((x - mean).std()) == pytest.approx(0.35, rel=0.02)
    assert float((x.mean(0) - mean).abs().max()) < 0.02
    flow_map, given = finite().flow_map(), torch.tensor([[0, 1, 2]]).expand(30, 3)
    told = Condition(known=torch.tensor([True, False, True]).expand(30, 3))
    sampled = generate(flow_map, Jumps(2, spread=0.5), (30, 3), seeded(4), condition=told, given=given)
    assert torch.equal(sampled[:, [0, 2]], given[:, [0, 2]])


def test_a_spread_has_a_range_and_needs_a_gaussian_source():
    for spread in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="expected a number in"):
            Jumps(2, spread=spread)
    flow_map = EndpointMap(GeodesicPath(OneHot(3), Dirichlet()), randomised(LEARNED["perceptron"]()).network)
    with pytest.raises(ValueError, match="source is Dirichlet: a spread of the noise needs the standard normal source"):
        generate(flow_map, Jumps(2, spread=0.5), (4, 4), seeded())
