"""The averaged weights are the stated average, lent and returned bit for bit."""

from __future__ import annotations

import pytest
import torch

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
        ema.update_parameters(module)
        d = min(decay, (1 + n) / (10 + n))
        mean = d * mean + (1 - d) * module.encoder.weight.detach()
        torch.testing.assert_close(ema.module.encoder.weight.detach(), mean, rtol=1e-12, atol=1e-12)
    for copy, buffer in zip(ema.module.buffers(), module.buffers(), strict=True):
        assert torch.equal(copy, buffer)
    assert ema.module.norm.num_batches_tracked == 30


def test_shared_weights_stay_shared_and_the_copy_calculates_in_evaluation_mode():
    ema = EMA(Tied())
    assert ema.module.again.weight is ema.module.encoder.weight
    assert not any(m.training for m in ema.module.modules())
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_weights_are_lent_and_returned_bit_for_bit_also_after_an_error():
    module = Tied()
    ema = EMA(module, 0.9)
    for _ in wander(module, 5):
        ema.update_parameters(module)
    own = {name: p.detach().clone() for name, p in module.named_parameters()}
    mean = {name: p.detach().clone() for name, p in ema.module.named_parameters()}
    with pytest.raises(KeyError), ema.lent_to(module):
        assert all(torch.equal(p, mean[name]) for name, p in module.named_parameters())
        raise KeyError
    assert all(torch.equal(p, own[name]) for name, p in module.named_parameters())
    assert all(torch.equal(p, mean[name]) for name, p in ema.module.named_parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match="ema decay is"):
        EMA(Tied(), decay)
