"""Points as a task: data, map, samples, quality, files; and through the command line."""

import csv
import json

import numpy as np
import pytest
import torch
from torch import nn

from flowmaps.cli.main import main
from flowmaps.data.points import Checkerboard, Ring
from flowmaps.data.points_table import read_table
from flowmaps.maps import VelocityMap
from flowmaps.oracles import GaussianLaw
from flowmaps.paths import GeodesicPath
from flowmaps.pictures import point_panels
from flowmaps.samplers import Euler, Jumps
from flowmaps.spaces import Euclidean
from flowmaps.tasks.base import ChangedData
from flowmaps.tasks.points import Points

TINY = {"width": 8, "depth": 1, "frequencies": 2, "size": 200, "held_out": 50}
SHORT = [f"--task.{name}={value}" for name, value in TINY.items()]
SHORT += ["--trainer.max_steps=3", "--trainer.batch_size=16", "--trainer.valid_examples=16", "--trainer.curves=false"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def numbers(tmp_path):
    """A file of one's own: two coordinates of very different size, around far centres."""
    x = np.random.RandomState(0).randn(300, 2) * [1e-3, 50.0] + [7.0, -1e4]
    path = tmp_path / "my.csv"
    path.write_text("time,height\n" + "\n".join(f"{a!r},{b!r}" for a, b in x.tolist()))
    return path


def test_construction_loads_nothing_and_the_state_samples_without_data():
    task = Points(path="nowhere.csv", **TINY)
    task.restore({"names": ["a", "b", "c"], "mean": [0.0, 1.0, 2.0], "deviation": [1.0, 1.0, 0.5]})
    x = task.sample(task.build_map().eval(), 5, Jumps(2), generator(), batch=2)
    assert x.shape == (5, 3) and x.dtype == torch.float64


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mean": [0.0]}, "2 of names, 1 of mean, 2 of deviation"),
        ({"deviation": [1.0, None]}, r"deviation\[1\] is None"),
        ({"names": "xy"}, "names is 'xy'"),
    ],
)
def test_a_state_that_no_data_teach_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Points(**TINY).restore({"names": ["x", "y"], "mean": [0.0, 0.0], "deviation": [1.0, 1.0], **wrong})


def test_state_is_json_and_names_the_data():
    state = Points(**TINY).state()
    assert json.loads(json.dumps(state)) == state
    Points(**TINY).restore(state)
    assert state["names"] == ["x", "y"] and state["mean"] == [0, 0]
    assert {name: text.split(" ")[0] for name, text in state["data"].items()} == {
        "train": "200", "valid": "50", "test": "50"
    }  # fmt: skip
    changed = Points(distribution=Ring(), **TINY)
    changed.restore(state)
    with pytest.raises(ChangedData, match="not those of the training"):
        _ = changed.train_data


def test_an_exact_map_is_measured_as_exact_and_samples_have_their_units(numbers):
    """With the exact map of a Gaussian in the place of the network, samples of a Gaussian file look like its rows."""
    task = Points(path=str(numbers), **TINY)
    exact = VelocityMap(GeodesicPath(Euclidean(2)), GaussianLaw(torch.zeros(2), 1.0))
    task.state()
    for sampler in (Jumps(1), Jumps(3), Euler(100)):
        x = task.sample(exact, 4000, sampler, generator())
        assert torch.allclose(x.mean(0), torch.tensor([7.0, -1e4]).double(), atol=8.0, rtol=1e-4)
        assert torch.allclose(x.std(0), torch.tensor([1e-3, 50.0]).double(), rtol=0.15)
    found = task.quality(x)
    assert list(found) == ["energy", "mmd"] and abs(found["energy"]) < 0.1
    assert task.quality(x + torch.tensor([0.0, 100.0]))["energy"] > 0.5


def test_the_board_is_measured_against_its_density():
    task = Points(**{**TINY, "held_out": 2000})
    data = task.of_data(5000)
    assert list(data)[0] == "kl" and data["outside"] == 0 and data["missing_modes"] == 0
    assert abs(data["kl"] - data["kl_floor"]) < 5 * data["kl_error"] and task.samples == 100_000
    board = Checkerboard()
    inside = task.real(100)
    assert (board.mode(inside) >= 0).all() and not torch.isin(inside, task.splits.test.original(2000)).any()


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 2, "batch": 0}])
def test_impossible_numbers_of_samples(wrong):
    task = Points(**TINY)
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        task.sample(task.build_map(), sampler=Jumps(1), generator=generator(), **wrong)


def test_files_can_be_read_again_to_the_last_digit(tmp_path):
    task = Points(**TINY)
    x = torch.randn(7, 2, generator=generator(), dtype=torch.float64)
    paths = task.write({"1": x, "ode4": x + 1}, tmp_path)
    assert [path.name for path in paths] == ["samples.png", "samples-1.csv", "samples-ode4.csv"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert read_table(tmp_path / "samples-1.csv").names == ["x", "y"]
    assert torch.equal(torch.from_numpy(read_table(tmp_path / "samples-ode4.csv").numbers), x + 1)


def test_names_with_commas_stay_one_column(tmp_path):
    task = Points(path="nowhere", **TINY)
    task.restore({"names": ["a, first", 'the "b"'], "mean": [0.0, 0.0], "deviation": [1.0, 1.0]})
    task.write({"1": torch.zeros(1, 2)}, tmp_path)
    with open(tmp_path / "samples-1.csv", newline="") as file:
        assert next(csv.reader(file)) == ["a, first", 'the "b"']


@pytest.mark.parametrize("d", [1, 2, 5])
def test_pictures_of_any_number_of_coordinates(d, tmp_path):
    x = torch.randn(30, d, generator=generator())
    point_panels(tmp_path / "p.png", {str(i): x[: 1 + 7 * i] for i in range(4)}, [f"x{i}" for i in range(d)])
    assert (tmp_path / "p.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="at least one point"):
        point_panels(tmp_path / "q.png", {"a": x[:0]}, ["x"] * d)


def test_through_the_command_line(tmp_path, capsys, numbers):
    run, own = tmp_path / "run", tmp_path / "own"
    assert main(["train", "checkerboard", "--out", str(run), *SHORT]) == 0
    assert {"samples.png", "samples-1.csv", "samples-8.csv"} <= {path.name for path in run.iterdir()}
    assert main(["sample", str(run), "--n=4", "--steps=1,2", "--seed=5", "--out", str(tmp_path / "a")]) == 0
    named = [str(tmp_path / "c.csv"), str(tmp_path / "c.png")]
    assert main(["sample", str(run), "--n=4", "--steps=2", "--seed=5", "--out", *named]) == 0
    assert (tmp_path / "c.csv").read_text() == (tmp_path / "a/samples-2.csv").read_text()
    assert main(["evaluate", str(run), "--n=500", "--steps=1", "--ode=2", "--out", str(tmp_path / "e")]) == 0
    found = json.loads((tmp_path / "e/metrics.json").read_text())["by_steps"]
    assert set(found) == {"1", "ode2", "data"} and found["1"]["kl"] > found["data"]["kl"]
    capsys.readouterr()
    assert main(["train", "checkerboard", "--data.path", str(numbers), "--out", str(own), *SHORT]) == 0
    assert (own / "samples-1.csv").read_text().startswith("time,height\n")
    assert main(["score", str(run)]) == 2 and "VelocityMap" in capsys.readouterr().err
    assert main(["sample", str(run), "--n=4", "--temperature=0.5"]) == 2 and "--temperature" in capsys.readouterr().err
    numbers.write_text("1,2\n3,x\n")
    code = main(["train", "checkerboard", "--data.path", str(numbers), "--out", str(tmp_path / "z"), *SHORT])
    assert code == 2 and "line 2, column 2 is 'x'" in capsys.readouterr().err


def test_a_preset_may_name_another_distribution(tmp_path):
    ring = ["--task.distribution=Ring", "--task.distribution.modes=3"]
    assert main(["train", "checkerboard", *ring, "--out", str(tmp_path / "run"), *SHORT]) == 0
    config = json.loads(next((tmp_path / "run/checkpoint").glob("*/config.json")).read_text())
    assert config["task"]["init_args"]["distribution"]["init_args"]["modes"] == 3


def test_the_network_takes_the_settings():
    network = Points(**TINY).build_map().network
    assert isinstance(network, nn.Module) and network.omega.shape == (2, 2) and len(network.hidden) == 1
