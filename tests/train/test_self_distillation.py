"""The real objectives through the real engine: they learn, resume bit for bit, and keep every weight they own."""

from __future__ import annotations

import pytest
import torch

from flowmaps.data import CategoricalData
from flowmaps.maps import EndpointMap
from flowmaps.networks import MLP, LinearHead, TiedHead
from flowmaps.objectives import (
    Average,
    Frozen,
    ImportanceSampled,
    Lagrangian,
    LearnedWeight,
    SelfDistillation,
    SemigroupKL,
)
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Embedded, OneHot
from flowmaps.times import OnClock
from flowmaps.train import AdamW, load_map
from train.test_resume import assert_same_run
from train.toys import Signalling, tensors_of, trainer

K, L, D = 4, 3, 6


def sequences(n: int, seed: int) -> torch.Tensor:
    """Sequences whose symbols are all equal: one position tells the others."""
    first = torch.randint(K, (n, 1), generator=torch.Generator().manual_seed(seed))
    return first.expand(n, L).clone()


class Stopping(Signalling):
    """The sequences, with a signal at batch number ``at``."""

    def __init__(self, at: int):
        super().__init__(at)
        self.x, self.inner = torch.zeros(256, 1), CategoricalData(sequences(256, 0))
        self.y = self.x

    def batch(self, index):
        super().batch(index)
        return self.inner.batch(index)


def dense(seed: int = 0) -> EndpointMap:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EndpointMap(GeodesicPath(OneHot(K)), MLP((L, K), width=32, depth=2))


def embedded(seed: int = 0, tied: bool = False) -> EndpointMap:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        space = Embedded(K, D)
        head = TiedHead(space) if tied else LinearHead(D, K)
        network = MLP((L, D), width=32, depth=2, K=K)
        torch.nn.init.normal_(network.write.weight, std=32**-0.5)  # under a head that starts at zero
        return EndpointMap(GeodesicPath(space), network, head)


def with_average(seed: int = 0) -> SelfDistillation:
    flow_map = embedded(seed)
    return SelfDistillation(flow_map, Lagrangian(), teacher=Average(flow_map, 0.9), weight=LearnedWeight())


def with_learned_times(seed: int = 0) -> SelfDistillation:
    return SelfDistillation(dense(seed), SemigroupKL(), times=OnClock(law=ImportanceSampled(bins=4)))


OBJECTIVES = {
    "learned times": with_learned_times,
    "semigroup": lambda seed=0: SelfDistillation(dense(seed), SemigroupKL()),
    "lagrangian, embedded, average teacher, learned weight": with_average,
    "tied head": lambda seed=0: SelfDistillation(embedded(seed, tied=True), SemigroupKL()),
    "tied head, average teacher": lambda seed=0: SelfDistillation(embedded(seed, True), SemigroupKL(), teacher=Average),
    "frozen teacher": lambda seed=0: SelfDistillation(dense(seed), SemigroupKL(), teacher=Frozen(dense(seed + 1))),
}


def run(directory, objective, data=None, **settings):
    data = CategoricalData(sequences(256, 0)) if data is None else data
    return trainer(directory, objective, data, CategoricalData(sequences(64, 1)), batch_size=32, **settings)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_interrupted_equals_unbroken(tmp_path, name):
    settings = dict(max_steps=16, log_every=5, save_every=6, validate_every=8)
    unbroken = run(tmp_path / "unbroken", OBJECTIVES[name](), **settings).fit()
    assert run(tmp_path / "stopped", OBJECTIVES[name](), Stopping(9), **settings).fit().step == 9
    resumed = run(tmp_path / "stopped", OBJECTIVES[name](seed=5), **settings).fit(resume=True)
    assert_same_run(unbroken, resumed)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_everything_the_objective_owns_is_in_the_checkpoint(tmp_path, name):
    objective = OBJECTIVES[name]()
    report = run(tmp_path, objective, max_steps=4).fit()
    stored = tensors_of(report.checkpoint)
    numbers = {tuple(tensor.flatten().tolist()) for tensor in stored.values()}
    assert all(tuple(tensor.flatten().tolist()) in numbers for tensor in objective.state_dict().values())
    moments = [tensor for key, tensor in stored.items() if "optimizer/" in key and key.endswith("exp_avg")]
    assert len(moments) == sum(p.requires_grad for p in objective.parameters())


def test_tied_head_is_stored_once_and_filled_again(tmp_path):
    report = run(tmp_path, OBJECTIVES["tied head"](), max_steps=4).fit()
    flow_map = embedded(seed=7, tied=True)
    load_map(report.checkpoint, flow_map)
    assert flow_map.head.matrix is flow_map.space.weight
    for mine, trained in zip(flow_map.parameters(), report.flow_map.parameters(), strict=True):
        assert torch.equal(mine, trained)


def test_the_matrix_of_a_tied_head_is_averaged_with_the_rest_of_a_teacher():
    objective = OBJECTIVES["tied head, average teacher"]()
    matrix = objective.flow_map.space.weight
    with torch.no_grad():
        matrix.add_(1.0)
    objective.after_step()
    taught = objective.teacher(objective.flow_map)
    means = dict(objective.teacher.copy.named_parameters())
    assert taught.head.matrix is means["path.space.weight"] and taught.path is objective.flow_map.path
    assert (taught.head.matrix < matrix).all() and (taught.head.matrix > matrix - 1.0).all()
    objective.double()
    assert objective.teacher(objective.flow_map).head.matrix.dtype == torch.float64


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_flow_map_learns_that_all_symbols_are_equal(tmp_path, precision):
    report = run(
        tmp_path,
        OBJECTIVES["semigroup"](),
        max_steps=250,
        precision=precision,
        optimizer=AdamW(lr=1e-2),
        ema=0.98,
        log_every=100,
        validate_every=250,
        save_every=250,
    ).fit()
    noise = torch.randn(500, L, K, generator=torch.Generator().manual_seed(3))
    x_1 = report.flow_map(noise, torch.zeros(500), torch.ones(500)).argmax(-1)
    assert (x_1 == x_1[:, :1]).all(1).float().mean() > 0.9
    assert x_1[:, 0].bincount(minlength=K).min() > 60
    assert report.metrics["valid/diagonal"] < 0.75 * torch.tensor(float(K)).log().item()


@pytest.mark.slow
def test_compiled_run_equals_the_plain_one(tmp_path):
    reports = [
        run(tmp_path / str(compiled), OBJECTIVES["semigroup"](), max_steps=5, compile=compiled).fit()
        for compiled in (False, True)
    ]
    for plain, compiled in zip(reports[0].flow_map.parameters(), reports[1].flow_map.parameters(), strict=True):
        torch.testing.assert_close(plain, compiled, rtol=1e-3, atol=1e-4)
    load_map(reports[1].checkpoint, dense(seed=9))  # no name bears the mark of the compiler
