"""The distribution term and the curriculum of gaps, against exact values."""

from __future__ import annotations

import pytest
import torch

from flowmaps.data import CategoricalData
from flowmaps.fields import Batch, Condition
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import MLP
from flowmaps.objectives import EndpointKernel, GapCurriculum, SelfDistillation
from flowmaps.objectives.distribution import kernel
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from flowmaps.train import AdamW
from identities.cases import finite, seeded
from train.toys import trainer

K, L = 3, 2


def exact_self_similarity(law) -> float:
    """E k(e_y, e_y') over two independent examples of the law."""
    e = torch.nn.functional.one_hot(law.atoms, law.K).double()
    p = law.log_p.exp().double()
    return float(p @ kernel(e, e) @ p)


def values(law, flow_map, n: int = 25, batch: int = 32, **options) -> torch.Tensor:
    """The term on ``n`` fresh batches, with strength 1."""
    term, generator = EndpointKernel(strength=1.0, start=0.0, **options), seeded(5)
    found = []
    with torch.no_grad():
        for _ in range(n):
            data = Batch(law.sample(batch, generator))
            found.append(term(flow_map, term.draw(flow_map, data, generator)))
    return torch.stack(found).double()


def test_the_exact_map_reaches_the_minimum_from_every_start():
    """-E k within four standard errors, half from noise and half from later."""
    law = finite(K, L, steps=4).float()
    found, expected = values(law, law.flow_map()), -exact_self_similarity(law)
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - expected) < 4 * error and error < 0.03 * abs(expected)


def test_any_other_distribution_is_above_it_by_the_discrepancy():
    """A map that ends in one example always: λ (k(a, a) - 2 E k(a, e_y)), which is above the minimum."""
    law = finite(K, L, steps=4).float()

    class Constant(torch.nn.Module):
        def forward(self, x, s, t, condition=None):
            return 80.0 * torch.nn.functional.one_hot(law.atoms[:1], K).float().expand(len(x), L, K) + 0 * x

    found = values(law, EndpointMap(GeodesicPath(OneHot(K)), Constant()))
    e, p = torch.nn.functional.one_hot(law.atoms, K).float(), law.log_p.exp()
    expected = float(1 - 2 * kernel(e[:1], e)[0] @ p)
    assert found.mean() == pytest.approx(expected, abs=4 * float(found.std()) / len(found) ** 0.5 + 1e-6)
    assert expected > -exact_self_similarity(law) + 0.1


def test_a_subset_of_positions_averages_over_all_of_that_size():
    law = finite(K, L, steps=4).float()
    found = values(law, law.flow_map(), positions=1)
    e, p = torch.nn.functional.one_hot(law.atoms, K).float(), law.log_p.exp()
    expected = -sum(float(p @ kernel(e[:, [d]], e[:, [d]]) @ p) for d in range(L)) / L
    assert found.mean() == pytest.approx(expected, abs=4 * float(found.std()) / len(found) ** 0.5)


def test_labels_are_one_more_position():
    """The sum over pairs, written out."""
    torch.manual_seed(0)
    flow_map = EndpointMap(GeodesicPath(OneHot(K)), MLP((L, K), width=8, depth=1, classes=2))
    term, generator = EndpointKernel(strength=2.0, start=0.0, jumps=5), seeded(3)
    x_1, label = torch.randint(K, (7, L), generator=generator), torch.tensor([0, 1, 0, 1, 1, 0, 0])
    draw = term.draw(flow_map, Batch(x_1, Condition(label=label)), generator)
    assert len(draw.rows.unique()) == 5 and (draw.s[:2] == 0).all() and (draw.s[2:] > 0).all()
    condition = Condition(label=label[draw.rows])
    x_s = flow_map.path(flow_map.path.start(draw.noise), x_1[draw.rows], draw.s, condition)
    pi = flow_map.network(x_s, draw.s, torch.ones(5), condition).softmax(-1).detach()
    e = torch.nn.functional.one_hot(x_1, K).float()
    k = lambda p, q: float(((1 + (p * q).sum(-1)) / 2).prod())  # noqa: E731
    alike = lambda i, j: float(label[i] == label[j])  # noqa: E731
    rows = draw.rows.tolist()
    within = [k(pi[i], pi[j]) * alike(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    across = [k(pi[i], e[b]) * alike(a, b) for i, a in enumerate(rows) for b in range(7) if a != b]
    expected = 2.0 * (sum(within) / len(within) - 2 * sum(across) / len(across))
    assert float(term(flow_map, draw)) == pytest.approx(expected, rel=1e-5)


def test_the_term_counts_from_its_start_on_and_in_training_only(tmp_path):
    law, generator = finite(K, L, steps=4).float(), seeded(1)
    data = CategoricalData(law.sample(128, generator))
    objective = SelfDistillation(
        EndpointMap(GeodesicPath(OneHot(K)), MLP((L, K), width=8, depth=1)),
        matching=EndpointKernel(jumps=8, start=0.5),
    )
    report = trainer(tmp_path, objective, data, data, max_steps=8, log_every=1, optimizer=AdamW(lr=1e-3)).fit()
    told = [row["train/distribution"] for row in report.records if "train/distribution" in row]
    assert told[:4] == [0.0] * 4 and all(value < 0 for value in told[4:]) and len(told) == 8
    assert not any("valid/distribution" in row for row in report.records)


@pytest.mark.parametrize("mean", [2 / 3, 0.9 * 2 / 3])
def test_the_curriculum_is_its_formula_and_has_mean_one(mean):
    weight, u = GapCurriculum(mean=mean), torch.rand(2, 50_000, generator=seeded(2))
    s, t = u.amin(0), u.amax(0)
    for share, p in ((0.0, 1.0), (0.25, 0.75), (1.0, 0.0)):
        weight.before_step(share)
        found = weight(torch.full_like(s, 3.0), s, t)
        torch.testing.assert_close(found, 3 * (1 - p + p * (1 - (t - s)) / mean))
        assert float(found.mean()) == pytest.approx(3 * (1 - p + p * 2 / 3 / mean), rel=1e-2)
    assert not GapCurriculum()(torch.ones(1), torch.zeros(1), torch.ones(1))


def test_the_run_moves_the_curriculum(tmp_path):
    """Before update n of N the share is (n - 1) / N."""
    seen = []

    class Watched(GapCurriculum):
        def before_step(self, share):
            seen.append(share)
            super().before_step(share)

    objective = SelfDistillation(
        EndpointMap(GeodesicPath(OneHot(K)), MLP((L, K), width=8, depth=1)), weight=Watched(until=0.5)
    )
    data = CategoricalData(torch.randint(K, (64, L), generator=seeded(0)))
    trainer(tmp_path, objective, data, data, max_steps=4).fit()
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_what_cannot_be_compared_is_refused_by_name():
    for options in ({"strength": 0.0}, {"jumps": 1}, {"start": 1.0}, {"latest": 1.0}, {"positions": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            EndpointKernel(**options)
    for options in ({"mean": 0.0}, {"until": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            GapCurriculum(**options)
    term, x_1 = EndpointKernel(start=0.0), torch.zeros(4, L, dtype=torch.long)
    network = MLP((L, K), width=8, depth=1)
    with pytest.raises(ValueError, match="VelocityMap"):
        term.draw(VelocityMap(GeodesicPath(OneHot(K)), network), Batch(x_1), seeded())
    flow_map = EndpointMap(GeodesicPath(OneHot(K)), network)
    for condition in (Condition(mask=torch.ones(4, L).bool()), Condition(label=torch.zeros(4, 1))):
        with pytest.raises(ValueError, match="leave it out"):
            term.draw(flow_map, Batch(x_1, condition), seeded())
