"""Images as a task: data, map, samples, quality, files."""

import numpy as np
import pytest
import torch

from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.samplers import Categorical, Euler, Jumps
from flowmaps.tasks.images import Images

TINY = {"width": 8, "lower": (16,)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def labelled():
    return Images(conditional=True, drop_label=0.25, **TINY)


def test_state_is_enough_to_sample():
    task = Images(source="folder", path="nowhere", **TINY)
    task.restore({"levels": 3, "classes": 0, "shape": [4, 6]})
    x = task.sample(task.build_map().eval(), 3, Jumps(2), generator())
    assert x.shape == (3, 4, 6) and x.dtype == torch.int64 and 0 <= x.min() and x.max() < 3


def test_construction_loads_nothing_and_state_is_json():
    task = Images(**TINY)
    assert "splits" not in vars(task)
    parts = {name: text.split(" ")[0] for name, text in task.state()["data"].items()}
    assert parts == {"train": "1,258", "valid": "180", "test": "359"}
    assert {**task.state(), "data": {}} == {"levels": 17, "classes": 10, "shape": [8, 8], "data": {}}
    assert task.train_data.condition.label is None


def test_maps():
    assert isinstance(Images(**TINY).build_map(), EndpointMap)
    assert isinstance(Images(flow_map=VelocityMap, **TINY).build_map(), VelocityMap)


def test_labels_are_dropped_in_training_only(labelled):
    absent = labelled.train_data.condition.label == 10
    assert 0.2 < absent.double().mean() < 0.3
    for data in (labelled.valid_data, labelled.test_data):
        assert data.condition.label.max() == 9


def test_samples_of_a_class_or_of_all_in_turn(labelled):
    torch.manual_seed(0)
    flow_map = labelled.build_map().eval()
    with torch.no_grad():
        for p in flow_map.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    threes = labelled.sample(flow_map, 4, Jumps(1), generator(), label=3)
    fives = labelled.sample(flow_map, 4, Jumps(1), generator(), label=5)
    turn = labelled.sample(flow_map, 4, Jumps(1), generator())
    assert (threes != fives).any() and torch.equal(turn[3], threes[3]), "the fourth in turn is a three"
    assert labelled.labels(12).tolist() == [*range(10), 0, 1]


def test_samples_come_in_batches():
    task = Images(**TINY)
    flow_map = task.build_map().eval()
    assert task.sample(flow_map, 5, Jumps(1), generator(), batch=2).shape == (5, 8, 8)
    warm = task.sample(flow_map, 5, Jumps(1), generator(), decoder=Categorical(1.0))
    assert (warm != task.sample(flow_map, 5, Jumps(1), generator())).any()
    for wrong in ({"n": 0}, {"n": 2, "batch": 0}):
        with pytest.raises(ValueError, match="expected at least 1 of each"):
            task.sample(flow_map, sampler=Jumps(1), generator=generator(), **wrong)


@pytest.mark.parametrize(("conditional", "label"), [(False, 1), (True, 10), (True, -1)])
def test_impossible_labels(conditional, label):
    task = Images(conditional=conditional, **TINY)
    with pytest.raises(ValueError, match=f"label is {label}, expected"):
        task.sample(task.build_map(), 2, Jumps(1), generator(), label=label)


def test_impossible_settings(tmp_path):
    with pytest.raises(ValueError, match="without a path"):
        Images(source="folder")
    with pytest.raises(ValueError, match="drop_label is 1.5"):
        Images(drop_label=1.5)
    task = Images(conditional=True, **TINY)
    task.restore({"levels": 2, "classes": 0, "shape": [8, 8]})
    with pytest.raises(ValueError, match="have no labels"):
        task.build_map()


def test_quality_beside_real_data(labelled):
    real = labelled.splits.test
    rows = torch.cat([torch.nonzero(real.condition.label == k)[:6, 0] for k in range(10)]).reshape(10, 6)
    held_out = real.x_1[rows.T.reshape(-1)].long()  # of all classes in turn, as samples are
    with torch.no_grad():  # as within a training
        good = labelled.quality(held_out)
    noise = labelled.quality(torch.randint(17, (60, 8, 8), generator=generator()))
    assert good["accuracy"] > 0.9 and good["frechet"] < noise["frechet"] / 3
    assert good["nearest_train_distance"] < noise["nearest_train_distance"]
    data = labelled.of_data(60)
    assert data["classifier_confidence"] > 0.8 and set(data) <= set(good)
    assert labelled.samples == len(real)


def test_files(tmp_path):
    task = Images(**TINY)
    x = torch.randint(17, (3, 8, 8), generator=generator())
    paths = task.write({"1": x, "ode4": x}, tmp_path)
    assert [path.name for path in paths] == ["samples.png", "samples.npz"] and all(path.is_file() for path in paths)
    with np.load(tmp_path / "samples.npz") as saved:
        assert (saved["ode4"] == x.numpy()).all()


def test_rows_and_likelihood():
    task = Images(**TINY)
    rows = task.rows([1, 3], ode=5)
    assert list(rows) == ["1", "3", "ode5"] and isinstance(rows["ode5"], Euler) and rows["ode5"].evaluations == 5
    estimate = task.likelihood(task.build_map().eval(), generator(), n=16)
    assert estimate.n == 16 and estimate.positions == 64 and estimate.nats > 0


@pytest.mark.parametrize("label", [None, 0, 7])
def test_real_images_beside_samples_are_of_their_classes(labelled, label):
    test = labelled.splits.test
    shown, asked = labelled.real(60, label), labelled.labels(60, label)
    for image, k in zip(shown, asked, strict=True):
        assert (test.x_1[test.condition.label == k] == image).all((1, 2)).any(), f"no real image of class {k}"
    assert torch.equal(Images(**TINY).real(60), test.x_1[:60])


def test_the_written_picture_holds_them(labelled, tmp_path, monkeypatch):
    rows: dict = {}
    monkeypatch.setattr("flowmaps.tasks.of_images.sample_grid", lambda path, drawn, levels, title: rows.update(drawn))
    labelled.write({"1": torch.zeros(12, 8, 8).long()}, tmp_path, label=4)
    assert torch.equal(rows["real"], labelled.real(12, 4))


def test_a_label_that_training_lacks_is_no_class(tmp_path):
    def idx(array):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        return head + array.astype(np.uint8).tobytes()

    for part, labels in (("train", np.arange(40) % 3), ("t10k", np.array([0, 1, 2, 1, 200]))):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(np.arange(16 * len(labels)).reshape(-1, 4, 4)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    task = Images(source="mnist", path=str(tmp_path), conditional=True, **TINY)
    with pytest.raises(ValueError, match=r"the test part has 1 images with labels that no .* \(200\)"):
        task.state()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(5) % 3))
    assert task.state()["classes"] == 3 and len(task.valid_data) == 7
