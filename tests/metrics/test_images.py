"""The reference classifier and the metrics built on it, on real digits."""

import time

import pytest
import torch

from flowmaps.data import CategoricalData, digits
from flowmaps.metrics import ImageQuality, cached_classifier, frechet, nearest_distance, train_classifier
from flowmaps.metrics.modes import beside, differing, lost


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def classifier(data):
    return train_classifier(data.train, data.levels, data.classes)


@pytest.fixture(scope="module")
def quality(data, classifier):
    return ImageQuality(classifier, data.train.x_1, data.test.x_1)


def test_classifier_is_accurate_quick_and_deterministic(data, classifier):
    state, start = torch.random.get_rng_state(), time.process_time()
    again = train_classifier(data.train, data.levels, data.classes)
    assert time.process_time() - start < 16
    assert torch.equal(state, torch.random.get_rng_state())
    for name, weight in classifier.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    accuracy = (classifier(data.test.x_1).argmax(1) == data.test.condition.label).float().mean()
    assert accuracy > 0.96


def test_cache_returns_the_same_network_and_names_a_broken_file(data, tmp_path):
    first = cached_classifier(tmp_path, data.train, data.levels, data.classes, steps=3)
    (file,) = tmp_path.iterdir()
    second = cached_classifier(tmp_path, data.train, data.levels, data.classes, steps=3)
    assert torch.equal(first(data.test.x_1), second(data.test.x_1))
    cached_classifier(tmp_path, data.train, data.levels, data.classes, steps=2)
    assert len(list(tmp_path.iterdir())) == 2
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=file.name):
        cached_classifier(tmp_path, data.train, data.levels, data.classes, steps=3)


def test_unlabelled_images_are_refused():
    with pytest.raises(ValueError, match="no class labels"):
        train_classifier(CategoricalData(torch.zeros(4, 8, 8, dtype=torch.int64)), 2, 2)


def test_real_digits_score_well_and_noise_badly(quality, data):
    real = quality.of_data()
    noise = quality(torch.randint(17, data.test.x_1.shape, generator=torch.Generator().manual_seed(0)))
    assert real["frechet"] < 0.1 * noise["frechet"]
    assert real["classifier_confidence"] > 0.9
    assert real["class_coverage"] > 0.9
    assert noise["nearest_train_distance"] > 2 * real["nearest_train_distance"]


def test_a_collapsed_model_is_seen(quality, data):
    one_class = data.train.x_1[data.train.condition.label == 3]
    collapsed = quality(one_class[torch.arange(quality.samples) % len(one_class)])
    assert collapsed["class_coverage"] < 0.1
    assert collapsed["nearest_train_distance"] == pytest.approx(0, abs=1e-2)
    assert collapsed["frechet"] > 5 * quality.of_data()["frechet"]
    assert collapsed["recall"] < 0.5 < collapsed["precision"]


def test_a_removed_class_cries_and_the_data_do_not(quality, data):
    real = quality.of_data()
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    x, label = data.train.x_1[order], data.train.condition.label[order]
    alike = beside(quality(x[: quality.samples]), real)
    assert len(alike) == 10 and differing(alike) == [] == lost(alike)
    for k in (0, 8):
        found = beside(quality(x[label != k][: quality.samples]), real)
        assert lost(found) == [f"class_{k}"] and found[f"class_{k}"].value < 0.1
        assert sum(mode.value for mode in found.values()) == pytest.approx(10)


def test_accuracy_of_conditional_samples(quality, data):
    label = data.test.condition.label
    assert quality.accuracy(data.test.x_1, label) > 0.96
    assert quality.accuracy(data.test.x_1, (label + 1) % 10) < 0.04
    assert 0.8 < quality.least_accuracy(data.test.x_1, label) <= quality.accuracy(data.test.x_1, label)
    x = data.test.x_1.clone()
    x[label == 3] = x[label == 5][0]  # whoever asks for a three gets a five
    assert quality.least_accuracy(x, label) < 0.1 < 0.8 < quality.accuracy(x, label)


def test_features_have_unit_mean_variance_and_frechet_uses_them(quality, data):
    assert float(quality.features(data.train.x_1).var(0).mean()) == pytest.approx(1)
    x = data.valid.x_1.repeat(3, 1, 1)[: quality.samples]
    assert quality(x)["frechet"] == frechet(quality.features(x), quality.features(data.test.x_1))


def test_the_number_of_samples_is_fixed(quality, data):
    with pytest.raises(ValueError, match="one number of samples"):
        quality(data.test.x_1[:-1])
    with pytest.raises(ValueError, match="ask for at least 4"):
        ImageQuality(quality.classifier, data.train.x_1, data.test.x_1, samples=10_000)


def test_nearest_distance_known_value():
    train = torch.tensor([[[0, 0], [0, 0]], [[4, 4], [4, 4]]])
    x = torch.tensor([[[4, 0], [0, 0]], [[4, 4], [4, 4]]])
    assert nearest_distance(x, train, levels=5) == pytest.approx(0.5)
