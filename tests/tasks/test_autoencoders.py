"""Autoencoders as a task: data with noise, maps of every family, samples, studies, mistakes."""

import math

import pytest
import torch

from flowmaps.data.images import Quantised, noisy
from flowmaps.fields import Batch
from flowmaps.maps import NSF, VAE, Augmented, Corner, Partition
from flowmaps.maps.preprocessing import dequantise
from flowmaps.metrics.autoencoders import bits_per_dimension, errors
from flowmaps.networks.autoencoding import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from flowmaps.objectives import AutoencoderLikelihood, RawExpandedDensity
from flowmaps.samplers import Jumps
from flowmaps.tasks.autoencoders import Autoencoders


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**settings) -> Autoencoders:
    networks = {"encoder": lambda shape, outputs: DenseEncoder(shape, outputs, 16, 1)}
    return Autoencoders(**networks, decoder=lambda *sizes: DenseDecoder(*sizes, 16, 1), alpha=0.05, **settings)


@pytest.mark.parametrize("family", [Partition, lambda modules: Partition(modules, Corner()), Augmented, VAE])
@pytest.mark.parametrize("scale", ["fixed", "pixel", "predicted"])
def test_every_family_gives_images_and_a_loss_with_gradients(family, scale):
    flow = lambda path, shape: NSF(path, shape, layers=2, width=8, depth=1)  # noqa: E731
    task = small(latents=3, family=family, scale=scale, prior=flow, core=flow)
    flow_map = task.build_map()
    x = task.sample(flow_map.eval(), 5, Jumps(1), generator(), temperature=0.8, batch=2)
    assert x.shape == (5, 8, 8) and x.dtype == torch.int64 and 0 <= x.min() and x.max() <= 16
    assert not torch.equal(x, task.sample(flow_map, 5, Jumps(1), generator(), errors=1.0))
    objective = AutoencoderLikelihood(flow_map, draws=2)
    batch = task.train_data.batch(torch.arange(8))
    values = objective(batch, objective.draw(batch, generator()))
    values["loss"].backward()
    assert values["bits_per_dimension"] == pytest.approx(float(values["loss"].detach()) / math.log(2))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow_map.parameters())


def test_the_loss_bounds_the_probability_of_grey_levels():
    """Of a uniform density every pixel costs log K nats; and the loss is what the metric measures."""
    task = small(latents=2)
    flow_map = task.build_map().eval()
    objective, k = AutoencoderLikelihood(flow_map), task.test_data.all().x_1
    batch = Batch(k)
    draw = objective.draw(batch, generator())
    with torch.no_grad():
        density = flow_map.log_prob(dequantise(k.flatten(1), 17, draw.u))
        loss = float(objective(batch, draw)["loss"])
    assert loss == pytest.approx(float(math.log(17) - density.mean() / 64))
    bits = bits_per_dimension(flow_map, k, generator(1), draws=1, repeats=2)
    assert bits.value == pytest.approx(loss / math.log(2), abs=4 * bits.error) and bits.error > 0


def test_the_first_scale_and_shift_are_those_of_the_data():
    task = small(latents=2)
    flow_map = task.build_map()
    k = task.splits.train.x_1.flatten(1)
    y = flow_map.outer.inverse(dequantise(k, 17, torch.rand(k.shape, generator=generator(3))))[0]
    assert abs(float(y.mean())) < 0.02 and float(y.std()) == pytest.approx(1, abs=0.02)


def test_noise_is_on_the_images_of_the_model_and_not_on_those_of_the_metrics():
    task, plain = small(noise=0.4), small()
    index = torch.arange(600)
    seen, clean = task.train_data.batch(index).x_1, plain.train_data.batch(index).x_1
    assert torch.equal(task.splits.train.x_1, plain.splits.train.x_1)
    assert torch.equal(task.train_data.batch(index).x_1, seen)
    assert not torch.equal(task.train_data.batch(index.flip(0)).x_1.flip(0), seen)  # in another batch, other noise
    assert task.train_data.fingerprint() != plain.train_data.fingerprint()
    assert 0.05 < ((seen - clean) / 16.0).square().mean() < 0.16
    assert task.state()["data"] == plain.state()["data"]
    again = noisy(clean, 17, 0.0, generator())
    assert torch.equal(again, clean) and errors(again, clean, plain.classifier)["feature_error"] == 0


def test_the_raw_density_is_another_number_and_warns():
    task = small(latents=2, family=Augmented)
    with pytest.warns(UserWarning, match="has no maximum"):
        raw = RawExpandedDensity(task.build_map())
    batch = task.train_data.batch(torch.arange(8))
    draw = raw.draw(batch, generator())
    bound = AutoencoderLikelihood(raw.flow_map)
    assert float(raw(batch, draw)["loss"]) != float(bound(batch, draw)["loss"])
    with pytest.raises(ValueError, match="the map is a Partition; use Augmented"):
        RawExpandedDensity(small().build_map())


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (5, 7)])
def test_networks_fit_any_size_of_image(shape):
    x, z = torch.rand(3, 1, *shape), torch.rand(3, 2)
    for encoder in (ConvEncoder(shape, 4, 4), DenseEncoder(shape, 4, 8, 2)):
        assert encoder(x).shape == (3, 4)
    for decoder in (ConvDecoder(2, shape, 2, 4), DenseDecoder(2, shape, 2, 8, 2)):
        assert decoder(z).shape == (3, 2, *shape)


def test_mistakes_take_one_line():
    with pytest.raises(ValueError, match="latents is 0"):
        small(latents=0)
    with pytest.raises(ValueError, match="noise is -1"):
        small(noise=-1)
    with pytest.raises(ValueError, match="latents is 64, expected 1 to 63"):
        small(latents=64).build_map()
    task = small(latents=2)
    with pytest.raises(ValueError, match="steps is 4, expected 1"):
        task.sample(task.build_map(), 2, Jumps(4), generator())
    with pytest.raises(ValueError, match="temperature is -1"):
        task.sample(task.build_map(), 2, Jumps(1), generator(), temperature=-1)
    with pytest.raises(ValueError, match="draws is 0"):
        task.studies(draws=0)
    with pytest.raises(ValueError, match="draws is 0"):
        AutoencoderLikelihood(task.build_map(), draws=0)
    state = task.state()
    with pytest.raises(ValueError, match="deviation"):
        small(latents=2).restore({**state, "deviation": 0.0})
    assert small(levels=Quantised(4)).levels.size == 4
