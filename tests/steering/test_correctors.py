import math

import pytest
import torch

from flowmaps.fields import Condition
from flowmaps.maps import EndpointMap
from flowmaps.networks import MLP, LinearHead
from flowmaps.oracles import FiniteLaw
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Heun, generate
from flowmaps.spaces import Embedded, OneHot, Product
from flowmaps.steering import Corrector, Expert, LogitGuidance, VelocityGuidance, ramp
from steering.laws import assert_exact, distance, floor, generator, near, small_law


def product(*factors: tuple[FiniteLaw, float]) -> tuple[list[Expert], FiniteLaw, float]:
    """Experts, the exact product and its log-normaliser."""
    log_q = torch.stack([b * law.log_p.double() for law, b in factors]).sum(0)
    law = factors[0][0]
    experts = [Expert(law.flow_map(), b) for law, b in factors]
    return experts, FiniteLaw(law.atoms, log_q.float(), law.K), float(log_q.logsumexp(0))


@pytest.mark.parametrize("beta", [0.5, 1.5, 2.0])
def test_plain_guidance_is_biased_and_the_weights_remove_it(beta):
    q_1 = small_law()
    q_2 = small_law(seed=7) if beta < 1 else near(q_1, distance=0.6)
    experts, target, log_z = product((q_1, 1 - beta), (q_2, beta))
    plain = Corrector(experts, steps=32, c=0.0, weighted=False)((3,), 4000, generator(1))
    bias = distance(target, plain.samples, plain.weights)
    assert bias > 2 * floor(target, 4000) and math.isnan(plain.log_normaliser)
    for c in (0.0, 1.0):
        result = Corrector(experts, steps=32, c=c)((3,), 4000, generator(1))
        assert_exact(result, target, log_z)
        assert distance(target, result.samples, result.weights) < 0.7 * bias


def test_plain_guidance_has_the_predicted_bias():
    """Unweighted particles of the corrector and the guided flow of VelocityGuidance are the same (biased) law."""
    q_1 = small_law()
    q_2 = small_law(seed=7)
    guided = VelocityGuidance(q_2.flow_map(), 0.5, q_1.flow_map())
    n = 6000
    flow = generate(guided, Heun(64), (n, 3), generator(1))
    result = Corrector.of(guided, steps=32, c=0.0, weighted=False)((3,), n, generator(2))
    _, target, _ = product((q_1, 0.5), (q_2, 0.5))
    p = torch.bincount(q_1.index(flow), minlength=64) / n
    law_of_flow = FiniteLaw(q_1.atoms, p.clamp(min=1e-9).log(), 4)
    assert distance(law_of_flow, result.samples) < 2.5 * floor(law_of_flow, n)
    assert distance(target, flow) > 3 * floor(target, n)


@pytest.mark.slow
def test_at_20000_particles():
    q_1 = small_law()
    for beta, gap in ((0.5, 1.0), (2.0, 0.6)):
        experts, target, log_z = product((q_1, 1 - beta), (near(q_1, distance=gap), beta))
        result = Corrector(experts, steps=64, c=0.0)((3,), 20_000, generator(3), population=5000)
        assert_exact(result, target, log_z)


@pytest.mark.parametrize("exponents", [(1.5,), (0.6,), (0.8, 0.6)])
def test_annealed_and_product_laws(exponents):
    q_1 = small_law(3, 2)
    laws = (q_1, near(q_1))
    experts, target, log_z = product(*zip(laws, exponents, strict=False))
    result = Corrector(experts, steps=64)((2,), 6000, generator(4))
    assert_exact(result, target, log_z, factor=2.0)
    assert distance(q_1, result.samples, result.weights) > 1.5 * distance(target, result.samples, result.weights)


def test_one_expert_to_the_power_one_is_plain():
    law = small_law()
    result = Corrector([Expert(law.flow_map(), 1.0)], steps=32)((3,), 4000, generator())
    assert result.effective_size == pytest.approx(4000) and result.log_normaliser == pytest.approx(0, abs=1e-9)
    assert distance(law, result.samples) < 1.5 * floor(law, 4000)


def test_classifier_free_guidance_is_corrected_from_its_guided_map():
    """A network of two laws, told by the label: weak without it."""
    q_1 = small_law()
    q_2 = near(q_1, distance=0.6)

    class Told(torch.nn.Module):
        def forward(self, x, s, t, condition):
            return (q_1 if condition.label is None else q_2)(x, s, t)

    flow_map = EndpointMap(GeodesicPath(OneHot(4)), Told())
    _, target, log_z = product((q_1, -0.5), (q_2, 1.5))
    corrector = Corrector.of(LogitGuidance(flow_map, 1.5), steps=32)
    result = corrector((3,), 4000, generator(), condition=Condition(label=torch.tensor([0])))
    assert_exact(result, target, log_z)
    assert result.evaluations == 4000 * 2 * (1 + 3 * 32)


def test_known_positions():
    q_1 = small_law()
    q_2 = near(q_1, distance=0.6)
    keep = q_1.atoms[:, 0] == 1
    parts = [FiniteLaw(q.atoms[keep], q.log_p[keep], 4) for q in (q_1, q_2)]
    log_q = -0.5 * parts[0].log_p + 1.5 * parts[1].log_p
    told = Condition(known=torch.tensor([[True, False, False]]))
    given = torch.tensor([[1, 0, 0]])
    experts = [Expert(q_1.flow_map(), -0.5), Expert(q_2.flow_map(), 1.5)]
    result = Corrector(experts, steps=32)((3,), 4000, generator(), condition=told, given=given)
    assert bool((result.samples[:, 0] == 1).all())
    assert_exact(result, FiniteLaw(parts[0].atoms, log_q, 4), float(log_q.logsumexp(0)))


def test_fields_and_embedded_states_and_chunks():
    q, r = small_law(3, 2), near(small_law(3, 2), distance=0.5)

    class Two(torch.nn.Module):
        def __init__(self, law):
            super().__init__()
            self.law = law

        def forward(self, x, s, t, condition):
            return {"a": self.law(x["a"], s, t), "b": self.law(x["b"], s, t)}

    path = GeodesicPath(Product({"a": OneHot(3), "b": OneHot(3)}))
    experts = [Expert(EndpointMap(path, Two(law)), 0.5) for law in (q, r)]
    result = Corrector(experts, steps=24)({"a": (2,), "b": (2,)}, 3000, generator())
    _, target, log_z = product((q, 0.5), (r, 0.5))
    assert distance(target, result.samples["b"], result.weights) < 1.5 * floor(target, result.effective_size)
    assert abs(result.log_normaliser - 2 * log_z) < 4 * result.error

    torch.manual_seed(0)
    network = MLP((3, 4), width=16, depth=1, out=8, K=7)
    torch.nn.init.normal_(network.write.weight, std=0.5)
    head = LinearHead(8, 7)
    torch.nn.init.normal_(head.weight)
    flow_map = EndpointMap(GeodesicPath(Embedded(7, 4)), network, head).eval()
    weak = EndpointMap(flow_map.path, network, LinearHead(8, 7)).eval()
    experts = [Expert(weak, 0.5), Expert(flow_map, 0.5)]
    whole = Corrector(experts, steps=8, threshold=0.0)((3,), 50, generator())
    flow_map.chunk = weak.chunk = 4
    chunked = Corrector(experts, steps=8, threshold=0.0)((3,), 50, generator())
    assert torch.equal(whole.samples, chunked.samples)
    assert torch.allclose(whole.weights, chunked.weights) and float(whole.weights.std()) > 0


@pytest.mark.parametrize("exponents", [(1.5,), (0.6,), (0.8, 0.6), (-0.5, 1.5)])
def test_particles_of_two_sizes_have_the_weights_of_their_sizes(exponents):
    """Half of the particles lack the second position: each size counts by its own normaliser, summed over the atoms."""
    q_1 = small_law(3, 2)
    experts, target, long = product(*zip((q_1, near(q_1)), exponents, strict=False))
    n = 3000
    mask = torch.ones(n, 2, dtype=torch.bool)
    mask[::2, 1] = False
    laws = [e.flow_map.network for e in experts]
    first = torch.stack([law.log_p.exp() @ law.one_hot[:, :3] for law in laws]).double().log()
    short = float((torch.tensor(exponents, dtype=torch.float64) @ first).logsumexp(0))
    for threshold in (0.0, 0.999):  # the second one resamples often: sizes travel with their particles
        result = Corrector(experts, steps=48, threshold=threshold)(
            (2,), n, generator(4), condition=Condition(mask=mask), population=n // 2
        )
        assert (result.resampled > 0) == (threshold > 0)
        is_long = result.condition.mask[:, 1]
        share = math.exp(long) / (math.exp(long) + math.exp(short))
        error = 3.5 * (share * (1 - share) / result.effective_size) ** 0.5
        assert float(result.weights[is_long].sum()) == pytest.approx(share, abs=error + 0.01)
        log_z = math.log((math.exp(long) + math.exp(short)) / 2)
        assert abs(result.log_normaliser - log_z) < 3.5 * result.error + 0.01
        inside = distance(target, result.samples[is_long], result.weights[is_long] / share)
        assert inside < 2 * floor(target, result.effective_size * share) + 0.01


def test_given_categories_travel_with_their_particles():
    law = small_law(3, 2)
    given = torch.randint(3, (500, 2), generator=generator(5))
    told = Condition(known=torch.tensor([[True, False]]).expand(500, 2))
    result = Corrector([Expert(law.flow_map(), 1.5)], steps=16, threshold=0.999)(
        (2,), 500, generator(), condition=told, given=given
    )
    assert result.resampled > 0
    first = torch.bincount(result.samples[:, 0], result.weights, minlength=3)
    of = torch.stack([(1.5 * law.log_p[law.atoms[:, 0] == k]).logsumexp(0) for k in range(3)])
    # log q(first)^B is no part of the weight: given positions are neither moved nor scored.
    marginal = torch.stack([law.log_p[law.atoms[:, 0] == k].logsumexp(0) for k in range(3)])
    expected = torch.bincount(given[:, 0], minlength=3).log() + of - 1.5 * marginal
    assert torch.allclose(first, expected.softmax(0).double(), atol=0.06)


def test_rounded_exponents_sum_to_one():
    law = small_law(3, 2)
    assert Corrector([Expert(law.flow_map(), b) for b in (0.1, 0.2, 0.7)]).B == 1


def test_bad_products_are_refused():
    law = small_law()
    embedded = EndpointMap(GeodesicPath(Embedded(4, 3)), torch.nn.Identity())
    for experts, message in (
        ([], "0 factors"),
        ([Expert(law.flow_map(), -1.0)], "positive sum"),
        ([Expert(law.flow_map(), 0.5), Expert(small_law(3, 3).flow_map(), 0.5)], "4 and 3 categories"),
        ([Expert(LogitGuidance(law.flow_map(), 2.0), 1.0)], "plain endpoint maps"),
        ([Expert(embedded, 2.0)], "plain OneHot"),
    ):
        with pytest.raises(ValueError, match=message):
            Corrector(experts)
    with pytest.raises(ValueError, match="schedule"):
        Corrector.of(LogitGuidance(law.flow_map(), ramp(1, 2)))
    with pytest.raises(ValueError, match="steps 0"):
        Corrector([Expert(law.flow_map(), 1.0)], steps=0)
