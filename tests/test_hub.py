"""Models by name or path, and what an earlier version's configuration is answered."""

import json

import pytest
import torch

import flowmaps
from flowmaps.configuration.parsing import task_from
from flowmaps.hub import find
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.samplers import Categorical, Heun, Jumps
from flowmaps.train import CheckpointError, read_config


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("rdkit")
    return flowmaps.load("qm9", device="cpu")


def test_a_model_gives_what_its_modality_samples(model):
    assert isinstance(model.flow_map, EndpointMap) and not model.flow_map.training
    mine = model.sample(8, steps=2, seed=3, grid="uniform", atoms=6)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        its = model.task.sample(model.flow_map, 8, Jumps(2), generator, atoms=6)
    assert all(torch.equal(mine[name], its[name]) for name in ("atoms", "bonds"))
    assert ((mine["atoms"] >= 0).sum(1) == 6).all()


def test_a_seed_a_sampler_and_a_grid(model):
    atoms = [model.sample(8, seed=seed, steps=steps)["atoms"] for seed, steps in ((0, 1), (0, 1), (1, 1))]
    assert torch.equal(atoms[0], atoms[1]) and not torch.equal(atoms[0], atoms[2])
    grid, sampled = torch.tensor([0.0, 0.5, 1.0]), model.sample(4, sampler=Heun(2), decoder=Categorical(1.0))
    assert model.sample(4, steps=grid)["bonds"].shape == sampled["bonds"].shape == (4, 9, 9)


def test_its_data_are_not_loaded(model):
    assert "splits" not in vars(model.task) and model.config["state"] == model.task.state()
    assert model.folder.name == "qm9" and model.state["step"] > 0


def test_what_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at .*nowhere"):
        flowmaps.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="device 'abacus' is not there"):
        flowmaps.load("qm9", "abacus")


@pytest.mark.parametrize("naive", [False, True])
def test_a_configuration_of_an_earlier_version_says_what_to_write(naive):
    pytest.importorskip("rdkit")
    config = json.loads(json.dumps(read_config(find("qm9"))))
    settings = config["task"]["init_args"]
    del settings["flow_map"]
    with pytest.raises(ValueError, match="earlier version.*unconstrained.*write flow_map: flowmaps.maps.VelocityMap"):
        task_from({**config, "task": {**config["task"], "init_args": {**settings, "unconstrained": naive}}})
    settings["flow_map"] = "flowmaps.maps.VelocityMap" if naive else "flowmaps.maps.EndpointMap"
    assert type(task_from(config).build_map()) is (VelocityMap if naive else EndpointMap)
