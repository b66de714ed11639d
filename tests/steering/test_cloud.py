import math

import pytest
import torch

from flowmaps.fields import Condition
from flowmaps.steering import LogitGuidance
from flowmaps.steering.cloud import Cloud, counting, effective, join, populations_of, shared, systematic
from steering.laws import generator, near, small_law


def test_systematic_resampling_copies_by_weight():
    weights = torch.rand(50, generator=generator(), dtype=torch.float64).softmax(0)
    counts = torch.stack([torch.bincount(systematic(weights, generator(k)), minlength=50) for k in range(400)]).double()
    assert bool(((counts - 50 * weights).abs() < 1).all())
    assert torch.allclose(counts.mean(0), 50 * weights, atol=0.1)
    assert bool((systematic(torch.eye(5, dtype=torch.float64)[3], generator()) == 3).all())


def test_effective_sample_size():
    assert float(effective(torch.zeros(7))) == pytest.approx(7)
    assert float(effective(torch.tensor([0.0, -torch.inf, -torch.inf]))) == pytest.approx(1)
    w = torch.rand(9, generator=generator())
    assert float(effective(w.log())) == pytest.approx(float(w.sum() ** 2 / w.square().sum()), rel=1e-5)


def test_without_resampling_the_variance_is_that_of_a_mean():
    w = torch.rand(500, generator=generator(), dtype=torch.float64)
    cloud = Cloud(torch.zeros(500, 1, 1), generator(), threshold=0.0)
    cloud.weigh(w.log())
    assert cloud.resample() is None
    result = cloud.finish(torch.zeros(500, 1), w)
    assert result.log_z == pytest.approx(math.log(w.mean()))
    assert result.variance == pytest.approx(float(w.var() / w.mean() ** 2 / 500), rel=1e-9)
    assert result.effective_size == pytest.approx(float(w.sum() ** 2 / w.square().sum()))


def particle_filter(seed: int, n: int = 200, steps: int = 4):
    """A random walk of N(0, 1) steps weighted by exp(x/2) increments: E[exp(x_T / 2)] = exp(T / 8)."""
    g = generator(seed)
    cloud = Cloud(torch.zeros(n, 1, 1, dtype=torch.float64), g, threshold=0.9)
    for _ in range(steps):
        increment = torch.randn(n, generator=g, dtype=torch.float64)
        cloud.x = cloud.x + increment[:, None, None]
        cloud.weigh(increment / 2)
        cloud.resample()
    return cloud.finish(cloud.x, cloud.x.flatten())


def test_the_normaliser_and_its_error_from_one_run():
    runs = [particle_filter(seed) for seed in range(300)]
    assert min(r.resampled for r in runs) >= 2
    z = torch.tensor([math.exp(r.log_z - 0.5) for r in runs])  # the truth is exp(4/8)
    assert abs(float(z.mean()) - 1) < 4 * float(z.std()) / len(z) ** 0.5
    claimed = sum(r.variance for r in runs) / len(runs)
    assert 0.5 * float(z.var()) < claimed < 2 * float(z.var())


def test_populations_count_by_size_and_normaliser():
    parts = [particle_filter(seed, n=n) for seed, n in ((0, 100), (1, 50))]
    joined = join(parts, evaluations=5)
    z = [math.exp(p.log_z) for p in parts]
    assert joined.log_normaliser == pytest.approx(math.log((100 * z[0] + 50 * z[1]) / 150))
    assert float(joined.weights.sum()) == pytest.approx(1)
    assert float(joined.weights[:100].sum()) == pytest.approx(100 * z[0] / (100 * z[0] + 50 * z[1]))
    assert joined.error < max(math.sqrt(p.variance) for p in parts)
    assert joined.effective_size > max(p.effective_size for p in parts)
    drawn = joined.draw(2000, generator())
    expected = float((joined.weights[:, None] * joined.samples.flatten(1)).sum())
    assert float(drawn.mean()) == pytest.approx(expected, abs=0.02)


def test_sizes_of_populations():
    assert populations_of(10, None) == [10]
    assert populations_of(10, 4) == [4, 4, 2]
    assert populations_of(3, 8) == [3]
    with pytest.raises(ValueError, match="particles is 0"):
        populations_of(0, None)
    with pytest.raises(ValueError, match="population is -1"):
        populations_of(5, -1)


def test_conditions_of_one_sample_or_of_each():
    told = Condition(label=torch.tensor([2]), known={"a": torch.ones(1, 3, dtype=torch.bool)})
    told = shared(told, particles=9, first=3, n=4)
    assert told.label.tolist() == [2] * 4 and told.known["a"].shape == (4, 3) and told.mask is None
    assert shared(torch.arange(9), 9, 3, 4).tolist() == [3, 4, 5, 6]
    with pytest.raises(ValueError, match="condition of 2 samples for 9 particles"):
        shared(Condition(label=torch.tensor([2, 1])), 9, 0, 9)


def test_evaluations_are_counted_through_guidance():
    law = small_law()
    guided = LogitGuidance(law.flow_map(), 2.0, near(law).flow_map())
    with counting(guided) as counter:
        guided(torch.randn(5, 3, 4), torch.zeros(5), torch.full((5,), 0.5))
    guided(torch.randn(5, 3, 4), torch.zeros(5), torch.full((5,), 0.5))
    assert counter.evaluations == 10


def test_one_particle_has_an_unknown_error():
    cloud = Cloud(torch.zeros(1, 1, 1), generator())
    cloud.weigh(torch.tensor([0.3]))
    assert cloud.resample() is None and cloud.finish(None, torch.zeros(1)).variance == math.inf
