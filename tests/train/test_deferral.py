"""A map that is filled later is the map that is built at once, bit for bit, and is never there as a whole."""

import pytest
import torch
from torch import nn

from flowmaps.objectives import Average, SelfDistillation, SemigroupKL
from flowmaps.tasks.text import build_map
from flowmaps.train import Trainer, deferred
from flowmaps.train.deferral import _recipes, is_deferred, settle
from train.toys import Linear, Pairs, assert_equal_bits

CPU = torch.device("cpu")


def text(**options):
    flow_map = build_map(60, embedding=384, width=384, depth=4, heads=2, reach=2, chunk=16, **options)
    return SelfDistillation(flow_map, SemigroupKL(), teacher=Average)


def both(build):
    torch.manual_seed(3)
    whole = build()
    torch.manual_seed(3)
    later = deferred(build)
    assert is_deferred(later) and all(p.is_meta for p in later.parameters())
    recipe = _recipes[later]
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert settle(later, CPU) and torch.equal(torch.random.get_rng_state(), before)
    return whole, later, recipe


@pytest.mark.parametrize("tied", [False, True])
def test_bits_are_equal_and_no_more_than_a_few_tensors_exist(tied):
    whole, later, recipe = both(lambda: text(tied=tied))
    assert_equal_bits(dict(whole.state_dict()), dict(later.state_dict()))
    for (name, one), (_, other) in zip(whole.named_buffers(), later.named_buffers(), strict=True):
        assert torch.equal(one, other), name
    largest = max(p.numel() for p in later.parameters()) * 4
    total = sum(p.numel() for p in later.parameters()) * 4
    assert recipe.most < 2.5 * largest < total / 8
    names = [name for name, _ in later.named_parameters()]
    assert names == [name for name, _ in whole.named_parameters()]


def test_shared_weights_stay_shared():
    torch.manual_seed(0)
    later = deferred(lambda: nn.ModuleList([layer := nn.Linear(3, 3), layer]))
    settle(later, CPU)
    assert later[0].weight is later[1].weight


def seeding():
    torch.manual_seed(7)
    return nn.Linear(2, 2)


def seeding_aside():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Linear(2, 2)


def constant():
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    return layer


def looking():
    layer = nn.Linear(2, 2)
    return layer if layer.weight.sum() > -99 else nn.Linear(2, 3)


def keeping():
    layer = nn.Linear(2, 2)
    layer.start = layer.weight.detach().clone()
    return layer


WHY = {
    seeding: "seeds",
    seeding_aside: "seeds",
    constant: "nothing fills",
    looking: "meta",
    keeping: "no parameter and no buffer",
}


@pytest.mark.parametrize("build, why", WHY.items())
def test_what_cannot_be_put_off_is_built_at_once_and_said(build, why, caplog):
    caplog.set_level("INFO", "flowmaps.train")
    torch.manual_seed(1)
    whole = build()
    torch.manual_seed(1)
    made = deferred(build)
    assert not is_deferred(made) and why in caplog.text
    assert_equal_bits(dict(whole.state_dict()), dict(made.state_dict()))


def test_one_process_fills_it_too():
    data = Pairs()
    later = deferred(Linear)
    assert is_deferred(later)
    settings = dict(max_steps=3, batch_size=8, accelerator="cpu", progress=False)
    weights = [dict(Trainer(one, data, **settings).fit().flow_map.state_dict()) for one in (Linear(), later)]
    assert_equal_bits(*weights)
