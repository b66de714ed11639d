import pytest
import torch
from torch import nn

from flowmaps.fields import FREE, Condition
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import MLP, LinearHead
from flowmaps.oracles import FiniteLaw
from flowmaps.paths import Dirichlet, GeodesicPath
from flowmaps.samplers import Argmax, Categorical, Euler, Heun, Jumps, generate
from flowmaps.spaces import Embedded, OneHot
from flowmaps.steering import LogitGuidance, VelocityGuidance, interval, ramp, without_known, without_label
from flowmaps.steering.cloud import counting
from steering.laws import generator, near, small_law

FORMS = [LogitGuidance, VelocityGuidance]
TOLD = Condition(label=torch.full((64,), 1))


def labelled(seed: int = 0, K: int = 5) -> EndpointMap:
    """A random conditional map, whose label matters."""
    torch.manual_seed(seed)
    network = MLP((3, K), width=32, depth=2, classes=3)
    for p in network.parameters():
        nn.init.normal_(p, std=0.3)
    return EndpointMap(GeodesicPath(OneHot(K)), network).eval()


def draw(flow_map, condition=FREE, sampler=None, decoder=None):
    return generate(flow_map, sampler or Jumps(4), (64, 3), generator(7), condition=condition, decoder=decoder)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampler", [Jumps(1), Jumps(4), Euler(8), Heun(4)])
@pytest.mark.parametrize("decoder", [Argmax(), Categorical()])
def test_scale_0_and_1_are_the_two_maps_bit_for_bit(form, sampler, decoder):
    flow_map = labelled()
    weak, strong = draw(flow_map, FREE, sampler, decoder), draw(flow_map, TOLD, sampler, decoder)
    assert not torch.equal(weak, strong)
    assert torch.equal(draw(form(flow_map, 0.0), TOLD, sampler, decoder), weak)
    assert torch.equal(draw(form(flow_map, 1.0), TOLD, sampler, decoder), strong)
    assert not torch.equal(draw(form(flow_map, 3.0), TOLD, sampler, decoder), strong)


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_a_schedule_at_0_and_1_is_the_map_bit_for_bit(w):
    flow_map = labelled()
    expected = draw(flow_map, TOLD if w else FREE)
    assert torch.equal(draw(LogitGuidance(flow_map, lambda t: torch.full_like(t, w)), TOLD), expected)


def test_constant_scales_of_0_and_1_cost_one_evaluation():
    flow_map = labelled()
    for scale, evaluations in ((0.0, 1), (1.0, 1), (2.0, 2)):
        guided = LogitGuidance(flow_map, scale)
        with counting(guided) as counter:
            draw(guided, TOLD, Jumps(1))
        assert counter.evaluations == evaluations * 64


def test_both_forms_on_the_diagonal():
    flow_map, s = labelled(), torch.full((64,), 0.4)
    x = torch.randn(64, 3, 5, generator=generator())
    strong, weak = flow_map.features(x, s, s, TOLD), flow_map.features(x, s, s, FREE)
    w = 2.5
    logit, velocity = LogitGuidance(flow_map, w), VelocityGuidance(flow_map, w)
    pi = logit.mean(logit.prediction(logit.features(x, s, s, TOLD)))
    assert torch.allclose(pi, (weak + w * (strong - weak)).softmax(-1), atol=1e-6)
    v = velocity.velocity(x, s, TOLD)
    expected = flow_map.velocity(x, s, FREE) + w * (flow_map.velocity(x, s, TOLD) - flow_map.velocity(x, s, FREE))
    assert torch.allclose(v, expected, atol=1e-5)


def test_logit_guidance_stays_on_the_simplex():
    flow_map, s = labelled(), torch.full((64,), 0.4)
    guided = LogitGuidance(flow_map, 50.0)
    pi = guided.mean(guided.prediction(guided.features(torch.randn(64, 3, 5), s, s, TOLD)))
    assert bool((pi >= 0).all()) and torch.allclose(pi.sum(-1), torch.ones(64, 3))


@pytest.mark.parametrize("form", FORMS)
def test_chunks_and_networks_of_different_widths(form):
    K = 11
    torch.manual_seed(0)
    space = Embedded(K, 4)

    def build(width: int, chunk: int | None) -> EndpointMap:
        head = LinearHead(width, K)
        nn.init.normal_(head.weight)
        network = MLP((3, 4), width=16, depth=1, out=width, K=K)
        nn.init.normal_(network.write.weight, std=0.3)
        return EndpointMap(GeodesicPath(space), network, head, chunk=chunk).eval()

    strong, weak = build(8, None), build(6, None)
    whole = draw(form(strong, 2.0, weak), sampler=Jumps(3))
    strong.chunk = 5
    assert torch.equal(draw(form(strong, 2.0, weak), sampler=Jumps(3)), whole)
    assert not torch.equal(whole, draw(strong, sampler=Jumps(3)))


def test_autoguidance_extrapolates_from_a_weaker_map():
    law = small_law()
    weak = near(law, distance=0.3)
    x, s = torch.randn(50, 3, 4, generator=generator()), torch.full((50,), 0.3)
    guided = VelocityGuidance(law.flow_map(), 1.5, weak.flow_map())
    expected = weak.flow_map().velocity(x, s).lerp(law.flow_map().velocity(x, s), 1.5)
    assert torch.allclose(guided.velocity(x, s), expected, atol=1e-5)


def test_schedules():
    t = torch.tensor([0.0, 0.2, 0.5, 0.9])
    assert interval(3.0, 0.2, 0.5)(t).tolist() == [1.0, 3.0, 1.0, 1.0]
    assert torch.allclose(ramp(1.0, 3.0)(t), torch.tensor([1.0, 1.4, 2.0, 2.8]))
    with pytest.raises(ValueError, match="interval"):
        interval(3.0, 0.5, 0.2)


def test_without_label_and_without_known():
    known = torch.tensor([[True, False, False]])
    mask = torch.tensor([[True, True, False]])
    told = Condition(mask=mask, known=known, label=torch.tensor([1]))
    assert without_label(told) == told._replace(label=None)
    hidden = without_known(told)
    assert hidden.known is None and hidden.mask.tolist() == [[False, True, False]]
    assert without_known(FREE) == FREE


def test_guidance_on_known_positions_is_unconditional_without_them():
    law = small_law()
    n = 64
    known = torch.zeros(n, 3, dtype=torch.bool)
    known[:, 0] = True
    given = torch.ones(n, 3, dtype=torch.int64)
    told = Condition(known=known)
    guided = LogitGuidance(law.flow_map(), 0.0, weaken=without_known)
    sample = generate(guided, Jumps(2), (n, 3), generator(5), condition=told, given=given)
    assert bool((sample[:, 0] == 1).all())
    # What the weak branch follows is the law of the other two positions alone.
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    marginal = FiniteLaw(pairs, law.log_p.reshape(4, 16).logsumexp(0), 4, law.steps).flow_map()
    x, s = torch.randn(n, 3, 4, generator=generator()), torch.full((n,), 0.4)
    hidden = law.flow_map().features(x, s, s, without_known(told))[:, 1:]
    assert torch.allclose(hidden.exp(), marginal.features(x[:, 1:], s, s).exp(), atol=1e-5)
    a = generate(
        LogitGuidance(law.flow_map(), 3.0, weaken=without_known),
        Euler(16),
        (n, 3),
        generator(5),
        condition=told,
        given=given,
    )
    assert bool((a[:, 0] == 1).all())


def test_bad_guidance_is_refused():
    flow_map = labelled()
    with pytest.raises(ValueError, match="scale is nan"):
        LogitGuidance(flow_map, float("nan"))
    with pytest.raises(ValueError, match="5 and 4 categories"):
        LogitGuidance(flow_map, 2.0, small_law().flow_map())
    other = type(flow_map)(type(flow_map.path)(flow_map.path.space, Dirichlet()), flow_map.network)
    with pytest.raises(ValueError, match="Gaussian and Dirichlet"):
        LogitGuidance(flow_map, 2.0, other)
    embedded = [EndpointMap(GeodesicPath(Embedded(5, 3)), MLP((3, 3), out=5, K=5)) for _ in range(2)]
    for weak in (embedded[1], flow_map):
        with pytest.raises(ValueError, match="into different vectors"):
            LogitGuidance(embedded[0], 2.0, weak)
    with pytest.raises(ValueError, match="VelocityMap"):
        LogitGuidance(VelocityMap(flow_map.path, flow_map.network), 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="teacher"):
        LogitGuidance(flow_map, 2.0).tangent(torch.zeros(1))
