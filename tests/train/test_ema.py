"""The averaged weights are the stated average, lent and returned bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowmaps.maps import EndpointMap
from flowmaps.networks import MLP
from flowmaps.objectives import Average
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from flowmaps.train import EMA
from train.toys import Tied


def wander(module, steps, seed=0):
    """Move parameters and buffers at random, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for tensor in (*module.parameters(), *module.buffers()):
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
            tensor.data = tensor.data + (noise if tensor.is_floating_point() else 1)
        yield


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_average_is_the_stated_one_and_buffers_are_copies(decay):
    module = Tied().double()
    ema = EMA(module, decay)
    mean = module.encoder.weight.detach().clone()
    for n, _ in enumerate(wander(module, 30), start=1):
        ema.update(module)
        d = min(decay, (1 + n) / (10 + n))
        mean = d * mean + (1 - d) * module.encoder.weight.detach()
        torch.testing.assert_close(ema.copy.encoder.weight.detach(), mean, rtol=1e-12, atol=1e-12)
    for copy, buffer in zip(ema.copy.buffers(), module.buffers(), strict=True):
        assert torch.equal(copy, buffer)
    assert ema.copy.norm.num_batches_tracked == 30


def test_shared_weights_stay_shared_and_the_copy_calculates_in_evaluation_mode():
    ema = EMA(Tied())
    assert ema.copy.again.weight is ema.copy.encoder.weight
    assert not any(m.training for m in ema.copy.modules())
    assert not any(p.requires_grad for p in ema.copy.parameters())


def test_weights_are_lent_and_returned_bit_for_bit_also_after_an_error():
    module = Tied()
    ema = EMA(module, 0.9)
    for _ in wander(module, 5):
        ema.update(module)
    own = {name: p.detach().clone() for name, p in module.named_parameters()}
    mean = {name: p.detach().clone() for name, p in ema.copy.named_parameters()}
    with pytest.raises(KeyError), ema.lent_to(module):
        assert all(torch.equal(p, mean[name]) for name, p in module.named_parameters())
        raise KeyError
    assert all(torch.equal(p, own[name]) for name, p in module.named_parameters())
    assert all(torch.equal(p, mean[name]) for name, p in ema.copy.named_parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match="ema decay is"):
        EMA(Tied(), decay)


class Pathed(nn.Module):
    """A network that shares a matrix with a path, as maps on embedded states do."""

    def __init__(self):
        super().__init__()
        self.path = nn.Linear(3, 3, bias=False)
        self.network = nn.Linear(3, 3)
        self.network.weight = self.path.weight


def test_weights_are_found_by_name_where_the_copy_lacks_a_part():
    module = Pathed()
    ema = EMA(module, 0.0)
    del ema.copy.path
    for _ in wander(module, 2):
        ema.update(module)
    assert torch.equal(ema.copy.network.weight, module.network.weight)
    with ema.lent_to(module):
        assert torch.equal(module.path.weight, module.network.weight)


def test_the_number_of_updates_is_part_of_the_state_and_stays_on_the_cpu():
    module = Tied()
    ema, other = EMA(module, 0.9), EMA(Tied(), 0.9)
    for _ in wander(module, 5):
        ema.update(module)
    other.load_state_dict(ema.state_dict())
    assert other.updates == ema.updates == 5
    for name, tensor in ema.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    moved = ema.to("meta")
    assert moved.updates.device.type == "cpu" and moved.copy.encoder.weight.device.type == "meta"
    without = {name: tensor for name, tensor in other.state_dict().items() if name != "updates"}
    with pytest.raises(RuntimeError, match="updates"):
        other.load_state_dict(without)


def test_the_teacher_is_the_same_average_counted_from_zero():
    """The names of its tensors are those of every checkpoint so far."""
    flow_map = EndpointMap(GeodesicPath(OneHot(3)), MLP((2, 3), width=4, depth=1))
    teacher, mean = Average(flow_map, 0.9), next(flow_map.parameters()).detach().clone()
    names = [name for name in flow_map.state_dict() if not name.startswith("path.")]
    assert sorted(teacher.state_dict()) == sorted(["updates", *(f"copy.{name}" for name in names)])
    for n, _ in enumerate(wander(flow_map, 12)):
        teacher.after_step(flow_map)
        d = min(0.9, (1 + n) / (10 + n))
        mean = d * mean + (1 - d) * next(flow_map.parameters()).detach()
        torch.testing.assert_close(next(teacher.copy.parameters()), mean, rtol=1e-4, atol=1e-5)
