"""Jumps regressed on stored paths: exact jumps are the minimum, and a small network comes near it."""

import pytest
import torch

from flowmaps.data import CategoricalData
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import MLP
from flowmaps.objectives import SelfDistillation
from flowmaps.oracles import FiniteLaw
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from flowmaps.times import FullJump, ToData
from flowmaps.train import AdamW, FromTrajectories, Trainer
from flowmaps.train.trajectories import make_trajectories, read_trajectories
from identities.cases import seeded

LAW = FiniteLaw.dependent(4, 2, generator=seeded(1))
TIMES = torch.linspace(0, 1, 65).tolist()
DATA = CategoricalData(LAW.sample(4096, seeded(2)))


def build() -> EndpointMap:
    torch.manual_seed(0)
    return EndpointMap(GeodesicPath(OneHot(4)), MLP((2, 4), width=64, depth=2, out=4))


def fit(objective, folder, steps, **options):
    settings = dict(max_steps=steps, batch_size=128, progress=False, curves=False, tensorboard=False, ema=0.99,
                    optimizer=AdamW(lr=3e-3), accelerator="cpu")  # fmt: skip
    return Trainer(objective, DATA, DATA, folder, **(settings | options)).fit()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    fit(SelfDistillation(build(), share=1.0), folder, 300)
    return folder


def paths_of(folder, flow_map, n=2048, times=TIMES, **options):
    """The folder of n paths of a map."""
    make_trajectories(folder / "paths", flow_map.eval(), DATA, times, n, {}, batch=n, **options)
    return str(folder / "paths")


def one_step_error(flow_map):
    x = flow_map.path.start(LAW.flow_map().noise((512, 2), seeded(9)))
    s, t = torch.zeros(512, dtype=x.dtype), torch.ones(512, dtype=x.dtype)
    exact = LAW(x, s, t).exp()
    with torch.no_grad():
        found = flow_map.mean(flow_map.prediction(flow_map.features(x.float(), s.float(), t.float())))
    return float((found - exact).abs().sum(-1).mean() / 2)


def test_jumps_of_the_exact_flow_are_learned(base, tmp_path):
    paths = paths_of(tmp_path, LAW.flow_map())
    objective = FromTrajectories(build(), str(base), paths, pairs=FullJump(ToData(), 0.5), share=0.25)
    before = one_step_error(objective.flow_map)
    report = fit(objective, tmp_path / "run", 600)
    assert before > 0.2 and one_step_error(report.flow_map) < 0.45 * before
    assert report.metrics["valid/off_diagonal"] < 0.25


def test_the_loss_is_least_at_the_exact_jumps(base, tmp_path):
    """KL to the stored mean vanishes where the map is the flow of the paths, but for the steps of Euler's method."""
    objective = FromTrajectories(build(), str(base), paths_of(tmp_path, LAW.flow_map(), 512), share=0.25).eval()
    draw = objective.draw(DATA.batch(torch.arange(64)), seeded(4))
    objective.flow_map = LAW.flow_map().float()
    exact = objective(DATA.batch(torch.arange(64)), draw)["off_diagonal"]
    objective.flow_map = build()
    assert float(exact) < 0.01 < 0.1 < float(objective(DATA.batch(torch.arange(64)), draw)["off_diagonal"])


def test_times_are_those_of_the_paths_and_validation_sees_others(base, tmp_path):
    folder = paths_of(tmp_path, build(), 100, times=[0, 0.5, 0.75, 1])
    objective, x_0 = FromTrajectories(build(), str(base), folder, share=0.5), read_trajectories(folder).x_0.float()
    assert (len(objective.learned), len(objective.held_out)) == (98, 2)
    for training in (True, False):
        draw = objective.train(training).draw(DATA.batch(torch.arange(64)), seeded())
        assert len(draw.s) == 32 and bool((draw.s < draw.t).all())
        assert {float(t) for t in (*draw.s, *draw.t)} <= {0.0, 0.5, 0.75, 1.0}
        starts = {tuple(x.flatten().tolist()) for x, s in zip(draw.x_s, draw.s, strict=True) if s == 0}
        assert starts <= {tuple(x.flatten().tolist()) for x in (x_0[:98] if training else x_0[98:])}


def test_parts_sum_to_the_whole(base, tmp_path):
    objective = FromTrajectories(build(), str(base), paths_of(tmp_path, build(), 64), share=0.5)
    batch = DATA.batch(torch.arange(16))
    draw = objective.draw(batch, seeded())
    whole = objective(batch, draw)["loss"]
    torch.testing.assert_close(whole, sum(objective(*part)["loss"] for part in objective.apart(batch, draw)))


def test_the_diagonal_takes_the_temperature_of_the_paths(base, tmp_path):
    paths = paths_of(tmp_path, build(), 64, [0, 0.5, 1], temperature=0.5)
    assert FromTrajectories(build(), str(base), paths).diagonal.temperature == 0.5


def test_what_has_no_endpoints_is_refused(base):
    with pytest.raises(ValueError, match="this is a VelocityMap on OneHot; train its jumps by TwoStage"):
        FromTrajectories(VelocityMap(GeodesicPath(OneHot(4)), MLP((2, 4), width=8, depth=1, out=4)), str(base), "x")
    with pytest.raises(ValueError, match="make them first: flowmaps trajectories"):
        FromTrajectories(build(), str(base), str(base))
