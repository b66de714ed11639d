"""Stored paths: their states and jumps are those of Euler's method and of the exact flow; files are continued."""

import itertools

import pytest
import torch

from flowmaps.data import CategoricalData
from flowmaps.fields import Batch, Condition, Fields
from flowmaps.maps import EndpointMap
from flowmaps.oracles import FiniteLaw
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot, Product
from flowmaps.train.trajectories import FILES, Trajectories, make_trajectories, read_trajectories, solved
from identities.cases import seeded

LAW = FiniteLaw.dependent(4, 3, generator=seeded(1))
DATA = CategoricalData(LAW.sample(64, seeded(2)))
TIMES = torch.tensor([0, 0.4, 0.6, 0.75, 0.9, 1.0], dtype=torch.float64)


def stored(times=TIMES, n=6):
    flow_map = LAW.flow_map()
    x_0 = flow_map.path.start(flow_map.noise((n, 3), seeded())).float()
    return Trajectories(times, x_0, solved(flow_map, x_0, times), {})


def every_jump(paths):
    M = paths.steps
    i, j = (
        torch.tensor(column) for column in zip(*((a, b) for a in range(M) for b in range(a + 1, M + 1)), strict=True)
    )
    return torch.arange(len(i)) % len(paths), i, j


def test_states_and_means_are_those_of_eulers_steps():
    paths = stored()
    states, tau = [paths.x_0], paths.times.tolist()
    for k, (s, t) in enumerate(itertools.pairwise(tau)):
        states.append(states[-1] + (t - s) / (1 - s) * (paths.pi[:, k].float() - states[-1]))
    row, i, j = every_jump(paths)
    x_s, pi, _ = paths.jumps(row, i, j)
    s, t = (paths.times[k].float()[:, None, None] for k in (i, j))
    there = torch.stack([states[b][r] for r, b in zip(row, j, strict=True)])
    torch.testing.assert_close(
        x_s, torch.stack([states[a][r] for r, a in zip(row, i, strict=True)]), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(x_s + (t - s) / (1 - s) * (pi - x_s), there, rtol=1e-5, atol=1e-5)
    assert float(pi.min()) >= 0 and float((pi.sum(-1) - 1).abs().max()) < 2e-3  # as exact as float16


def test_jumps_of_fine_paths_are_those_of_the_exact_flow():
    errors = {}
    for M in (40, 160):
        paths = stored(torch.linspace(0, 1, M + 1, dtype=torch.float64))
        i, j = (torch.tensor([0, 0, M // 2, M // 4]), torch.tensor([M, M // 2, 3 * M // 4, M]))
        for row in range(len(paths)):
            x_s, pi, _ = paths.jumps(torch.full((4,), row), i, j)
            s, t = paths.times[i].float(), paths.times[j].float()
            exact = LAW(x_s.double(), s.double(), t.double()).exp()
            errors.setdefault(M, []).append(float((pi - exact).abs().mean()))
    coarse, fine = (sum(errors[M]) / len(errors[M]) for M in (40, 160))
    assert fine < 0.01 and fine < 0.5 * coarse


def test_a_temperature_sharpens_every_prediction():
    flow_map = LAW.flow_map()
    x_0 = flow_map.path.start(flow_map.noise((6, 3), seeded())).float()
    plain, sharp = (solved(flow_map, x_0, TIMES, T)[:, 0].float() for T in (1.0, 0.5))
    torch.testing.assert_close(sharp, plain.square() / plain.square().sum(-1, keepdim=True), rtol=1e-2, atol=1e-3)


def test_interrupted_and_continued_is_made_at_once(tmp_path):
    def made(name, **options):
        settings = dict(times=TIMES.tolist(), n=9, origin={"flow": "a"}, seed=3, shard=4) | options
        return make_trajectories(tmp_path / name, LAW.flow_map(), DATA, **settings)

    whole = made("whole", batch=2)

    def stop(done):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made("part", tell=stop)
    with pytest.raises(ValueError, match="lacks 1 files of trajectories; run what makes them again"):
        read_trajectories(tmp_path / "part")
    again = made("part")
    for part in (again, read_trajectories(tmp_path / "whole")):
        assert torch.equal(part.x_0, whole.x_0) and torch.equal(part.pi, whole.pi) and part.origin == whole.origin
    for options, message in (
        ({"origin": {"flow": "b"}}, "holds trajectories of another flow: origin"),
        ({"temperature": 0.5}, "holds trajectories of another flow: origin"),
        ({"times": [0, 0.5, 1]}, "holds trajectories of another flow: times"),
        ({"times": [0.1, 0.5, 1]}, "times go from 0.1 to 1.0, expected 0 to 1"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a number above 0"),
        ({"n": 0}, "n is 0 and shard 4, expected at least one of each"),
    ):
        with pytest.raises(ValueError, match=message):
            made("part" if "another" in message else "new", **options)
    file = tmp_path / "part" / "trajectories-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="trajectories-00001.safetensors is not as it was written"):
        read_trajectories(tmp_path / "part")
    with pytest.raises(ValueError, match=f"no {FILES.file}: it holds no trajectories; make them first"):
        read_trajectories(tmp_path / "nowhere")


class Halves(torch.nn.Module):
    """Predictions that depend on what the map is told: the first category where the mask has a position, else none."""

    def forward(self, x, s, t, condition):
        return Fields({name: 5.0 * condition.mask[name].float()[..., None] * (torch.arange(x[name].shape[-1]) == 0)
                       + 0 * x[name] for name in x})  # fmt: skip


class Graphs:
    """Examples of two fields, the second one partly given."""

    def __len__(self):
        return 5

    def batch(self, index):
        n = len(index)
        x_1 = {"a": index[:, None].expand(n, 2) % 3, "b": index[:, None].expand(n, 3) % 4}
        known = {"a": torch.zeros(n, 2, dtype=torch.bool), "b": (torch.arange(3) == index[:, None] % 3)}
        mask = {"a": torch.arange(2) <= index[:, None], "b": torch.ones(n, 3, dtype=torch.bool)}
        return Batch(x_1, Condition(mask, known, index))


def test_fields_and_conditions_are_those_of_examples(tmp_path):
    flow_map = EndpointMap(GeodesicPath(Product({"a": OneHot(3), "b": OneHot(4)})), Halves())
    make_trajectories(tmp_path, flow_map, Graphs(), [0, 0.5, 1], 20, {}, batch=3)
    paths = read_trajectories(tmp_path)
    label = paths.condition.label
    batch = Graphs().batch(label)
    assert len(label.unique()) == 5
    for name in ("a", "b"):
        assert torch.equal(paths.condition.mask[name], batch.condition.mask[name])
        assert torch.equal(paths.condition.known[name], batch.condition.known[name])
    known, clean = batch.condition.known["b"], torch.nn.functional.one_hot(batch.x_1["b"], 4).half()
    x_s, pi, condition = paths.jumps(torch.arange(20), torch.ones(20, dtype=torch.int64), torch.full((20,), 2))
    for given in (paths.x_0["b"], paths.pi["b"][:, 0], x_s["b"], pi["b"]):
        assert torch.equal(given[known].half(), clean[known])
    assert torch.equal(condition.label, label) and not torch.equal(paths.x_0["b"][~known], clean[~known])
    expected = torch.softmax(5.0 * batch.condition.mask["a"].float()[..., None] * torch.tensor([1.0, 0, 0]), -1)
    torch.testing.assert_close(pi["a"], expected, rtol=1e-3, atol=1e-3)


def test_what_is_no_set_of_paths_is_refused():
    paths = stored()
    for mistake, message in (
        (lambda: Trajectories(TIMES, paths.x_0, paths.pi[:, 1:], {}), "expected 5 along each path"),
        (lambda: Trajectories(TIMES, paths.x_0 * torch.nan, paths.pi, {}), "not finite; make them anew"),
        (lambda: paths.parted(6), "held_out is 6, expected a number of paths from 1 to below 6"),
    ):
        with pytest.raises(ValueError, match=message):
            mistake()


def test_a_folder_grows_and_loses_nothing(tmp_path):
    def made(name, n):
        return make_trajectories(tmp_path / name, LAW.flow_map(), DATA, TIMES.tolist(), n, {}, seed=3, shard=4)

    whole = made("whole", 14)
    for n in (6, 10, 14):  # the last file, which is not full, is made again
        grown = made("grown", n)
        assert len(grown) == n and torch.equal(grown.x_0[: n // 4 * 4], whole.x_0[: n // 4 * 4])
    assert torch.equal(grown.x_0, whole.x_0) and torch.equal(grown.pi, whole.pi)
    with pytest.raises(ValueError, match="holds 14 trajectories; n is 8, expected as many or more; choose another"):
        made("grown", 8)


def test_who_stops_early_is_content_with_what_is_there(tmp_path):
    def made(n, tell=None):
        return make_trajectories(tmp_path, LAW.flow_map(), DATA, TIMES.tolist(), n, {}, seed=3, shard=4, tell=tell)

    def stop(done):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(100, stop)
    assert len(made(8)) == len(read_trajectories(tmp_path)) == 8
