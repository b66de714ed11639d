"""A modality of one's own, whole in this file: every command takes it, with the options that it declares."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import flowmaps
from flowmaps.configuration import trusted
from flowmaps.data import CategoricalData
from flowmaps.fields import Condition
from flowmaps.maps import EndpointMap, FlowMap, VelocityMap
from flowmaps.networks import Network
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Sampler, generate
from flowmaps.spaces import OneHot
from flowmaps.steering import Hard, Reward
from flowmaps.tasks.base import Kind, Problem, Study, Task, fitted

LENGTH, K = 5, 3


class Steps(NamedTuple):
    train: CategoricalData
    valid: CategoricalData
    test: CategoricalData


class Reader(Network):
    """Two layers that read the whole row and both times."""

    def __init__(self, positions: int, categories: int, width: int = 16):
        super().__init__()
        self.shape, self.width = (positions, categories), width
        self.read, self.write = nn.Linear(positions * categories + 2, width), nn.Linear(width, positions * categories)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        h = torch.cat([x.flatten(1), s.unsqueeze(1), t.unsqueeze(1)], dim=1)
        return self.write(torch.tanh(self.read(h))).unflatten(1, self.shape)


class Staircase(Task[Steps, Tensor]):
    """Rows of numbers that never fall.

    Arguments:
        n: Rows of each part.
        network: What makes the network, called with positions and categories.
        flow_map: What it predicts.
    """

    kinds = (".csv",)
    teaching = {"K": range(2, 100)}

    def __init__(
        self,
        n: int = 64,
        network: Callable[[int, int], Network] = Reader,
        flow_map: Kind = EndpointMap,
    ):
        self.n, self.network, self.flow_map = n, network, flow_map

    def load(self) -> Steps:
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randint(K, (self.n, LENGTH), generator=generator).sort(1).values for _ in range(3)]
        return Steps(*map(CategoricalData, rows))

    def learned(self, splits: Steps) -> dict[str, Any]:
        return {"K": int(splits.train.x_1.max()) + 1}

    def build_map(self) -> FlowMap:
        K = self.state()["K"]
        return self.flow_map(GeodesicPath(OneHot(K)), fitted(self.network, LENGTH, K), None, None)

    def sample(
        self, flow_map: FlowMap, n: int, sampler: Sampler, generator: torch.Generator, sort: bool = False
    ) -> Tensor:
        x = generate(flow_map, sampler, (n, LENGTH), generator)
        return x.sort(1).values if sort else x

    def quality(self, samples: Tensor) -> dict[str, float]:
        return {"rising": float((samples.diff(dim=1) >= 0).all(1).double().mean())}

    def of_data(self, n: int | None = None) -> dict[str, float]:
        return self.quality(self.splits.test.x_1[:n])

    def write(self, rows: Mapping[str, Tensor], directory: Path, **options: Any) -> list[Path]:
        path = directory / "samples.csv"
        lines = [f"{name},{','.join(map(str, row))}" for name, x in rows.items() for row in x.tolist()]
        path.write_text("\n".join(lines) + "\n")
        return [path]

    @property
    def samples(self) -> int:
        return self.n

    def studies(self, highest: int | None = None) -> dict[str, Study]:
        """How often the highest number occurs."""
        if highest is None:
            return {}

        def study(flow_map, rows, n, seed, data, directory) -> tuple[object, list[Path]]:
            noise = torch.Generator().manual_seed(seed)
            counts = {name: int((self.sample(flow_map, n, s, noise) == highest).sum()) for name, s in rows.items()}
            (directory / "samples.txt").write_text(str(counts))
            return counts, [directory / "samples.txt"]

        return {"highest": study}

    def problem(self, particles: int, generator: torch.Generator, length: int = LENGTH) -> Problem:
        if length != LENGTH:
            raise ValueError(f"length is {length}, expected {LENGTH}")
        return Problem((LENGTH,))

    def rewards(self, device: torch.device, doubled: bool = False) -> dict[str, Callable[[str], Reward]]:
        factor = 2.0 if doubled else 1.0
        return {"sum": lambda argument: Hard(lambda x: factor * x.sum(1).double(), "sum")}


@pytest.fixture(scope="module", autouse=True)
def listed():
    before = set(trusted.LISTED)
    flowmaps.trust(Staircase, Reader)
    yield
    trusted.LISTED.intersection_update(before)
    flowmaps.trust()


@pytest.fixture(scope="module")
def run(tmp_path_factory, listed):
    from flowmaps.cli.main import main

    folder = tmp_path_factory.mktemp("staircase")
    (folder / "mine.yaml").write_text(f"""
task:
  class_path: {__name__}.Staircase
  init_args:
    network:
      class_path: {__name__}.Reader
      init_args:
        width: 48
objective:
  class_path: flowmaps.objectives.SelfDistillation
  init_args:
    consistency: flowmaps.objectives.SemigroupKL
trainer:
  max_steps: 150
  batch_size: 64
  optimizer:
    lr: 1.0e-2
  accelerator: cpu
  curves: false
""")
    assert main(["train", str(folder / "mine.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_it_samples_with_its_own_option(run, tell, tmp_path):
    assert tell("sample", run, "--n", 40, "--steps", "1,4", "--out", tmp_path / "plain")[0] == 0
    assert tell("sample", run, "--n", 40, "--sort", "--out", tmp_path / "sorted.csv")[0] == 0
    rows = [line.split(",")[1:] for line in (tmp_path / "sorted.csv").read_text().splitlines()]
    assert len(rows) == 40 and all(row == sorted(row) for row in rows)
    again = tell("sample", run, "--out", tmp_path / "plain")
    assert again[0] == 2 and "samples.csv is there already" in again[2] or "metrics.json is there" in again[2]


def test_it_is_loaded_by_name_of_its_folder(run):
    model = flowmaps.load(run, "cpu")
    assert isinstance(model.task, Staircase) and model.flow_map.network.width == 48
    x = model.sample(200, steps=4, seed=1)
    assert torch.equal(x, model.sample(200, steps=4, seed=1)) and model.task.quality(x)["rising"] > 0.3
    assert model.task.quality(model.sample(8, sort=True))["rising"] == 1


def test_it_is_evaluated_and_scored(run, tell, tmp_path):
    code, out, _ = tell("evaluate", run, "--steps", "1,2", "--ode", 4, "--highest", 2, "--out", tmp_path / "e")
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert code == 0 and "rising" in out and found["by_steps"]["data"]["rising"] == 1
    assert set(found["highest"]) == {"1", "2", "ode4"} and found["highest"]["1"] > 0
    assert str(tmp_path / "e" / "samples.txt") in out
    assert tell("score", run, "--n", 32, "--out", tmp_path / "s")[0] == 0
    bounds = json.loads((tmp_path / "s" / "metrics.json").read_text())["bounds"]
    assert set(bounds) == {"B1", "B3"} and 0.5 < bounds["B1"]["bits_per_position"] < 10


def test_it_is_steered_by_its_own_rewards(run, tell, tmp_path):
    options = ("--reward", "sum", "--particles", 32, "--steps", 3, "--n", 4, "--strength", 2)
    assert tell("steer", run, *options, "--doubled", "--out", tmp_path / "d")[0] == 0
    assert tell("steer", run, *options, "--doubled=false", "--out", tmp_path / "p")[0] == 0
    plain, doubled = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "pd")
    assert plain["after"]["mean_reward"] > plain["before"]["mean_reward"]
    assert doubled["before"]["mean_reward"] == pytest.approx(2 * plain["before"]["mean_reward"])
    code, _, error = tell("steer", run, "--reward", "product", "--out", tmp_path / "x")
    assert code == 2 and "no reward 'product' for staircase; there are sum" in error
    assert "length is 3, expected 5" in tell("steer", run, *options, "--length", 3, "--out", tmp_path / "x")[2]
    assert not (tmp_path / "x").exists()


def test_help_shows_the_options_of_the_modality(run, tell, capsys):
    for command, option in (("sample", "--sort"), ("evaluate", "--highest"), ("steer", "--doubled")):
        with pytest.raises(SystemExit):
            tell(command, run, "--help")
        assert option in capsys.readouterr().out


def test_another_map_and_network_are_chosen_by_name(run, tell, tmp_path):
    config = run.parent / "mine.yaml"
    chosen = ("--task.flow_map=flowmaps.maps.VelocityMap", "--task.network.width=8", "--trainer.max_steps=2")
    objective = "--objective.consistency=flowmaps.objectives.Lagrangian"
    assert tell("train", config, *chosen, objective, "--out", tmp_path / "run")[0] == 0
    model = flowmaps.load(tmp_path / "run", "cpu")
    assert isinstance(model.flow_map, VelocityMap) and model.flow_map.network.width == 8


def test_only_what_the_program_trusts_is_named(run, tell):
    with pytest.raises(ValueError, match="is not at the top"):
        flowmaps.trust(type("Hidden", (), {}))
    trusted.LISTED.discard(f"{__name__}.Staircase")
    try:
        code, _, error = tell("sample", run)
        assert code == 2 and "expected a class of this package" in error
    finally:
        flowmaps.trust(Staircase)
