"""Known positions in training: their law, and that they carry no loss and steer the rest."""

import pytest
import torch

from flowmaps.data import CategoricalData
from flowmaps.data.text_known import PartlyKnown, PrefixesAndSpans, uniforms
from flowmaps.fields import Batch, Condition
from flowmaps.maps import EndpointMap
from flowmaps.networks import Transformer
from flowmaps.objectives import SelfDistillation
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot


def known(law: PrefixesAndSpans, n: int, length: int) -> torch.Tensor:
    return law(uniforms(torch.arange(n), length + 8), length)


def test_law_of_known_positions():
    mask = known(PrefixesAndSpans(), 4000, 24)
    rising = (mask[:, 1:] & ~mask[:, :-1]).any(1)
    assert not mask.all(1).any()
    assert abs(float((~mask).all(1).float().mean()) - 0.52) < 0.05  # with a few empty prefixes and spans
    assert (mask.any(1) & ~rising).float().mean() > 0.2  # prefixes
    assert rising.float().mean() > 0.15  # gaps and spans


@pytest.mark.parametrize("kind", ["free", "prefix", "gap"])
def test_one_kind_alone(kind):
    shares = dict.fromkeys(("free", "prefix", "gap", "spans"), 0.0) | {kind: 1.0}
    mask = known(PrefixesAndSpans(**shares), 500, 16).int()
    changes = mask.diff(dim=1)
    if kind == "free":
        assert mask.sum() == 0
    elif kind == "prefix":
        assert (changes <= 0).all() and mask.sum(1).unique().numel() > 10
    else:
        assert ((changes == -1).sum(1) + (mask[:, 0] == 0) == 1).all()


def test_single_positions_are_never_known():
    assert not known(PrefixesAndSpans(0, 0, 0, 1), 50, 1).any()


def test_uniform_numbers_are_uniform_and_a_function_of_the_index():
    u = uniforms(torch.arange(2000), 50)
    assert 0 <= u.min() and u.max() < 1
    counts = torch.histc(u, 20, 0, 1)
    assert (counts / 5000 - 1).abs().max() < 0.06
    assert abs(float(torch.corrcoef(u[:, :2].T)[0, 1])) < 0.08
    assert torch.equal(uniforms(torch.tensor([7, 3]), 50), u[[7, 3]])


def test_shares_must_sum_to_one():
    with pytest.raises(ValueError, match="sum to 1"):
        PrefixesAndSpans(free=0.9)
    with pytest.raises(ValueError, match="copies is 0"):
        PartlyKnown(CategoricalData(torch.zeros(2, 3, dtype=torch.long)), copies=0)


def test_rows_come_with_several_choices():
    rows = torch.randint(5, (6, 12))
    data = PartlyKnown(CategoricalData(rows), copies=3)
    x_1, condition = data.batch(torch.arange(len(data)))
    assert len(data) == 18 and torch.equal(x_1, rows.repeat(3, 1))
    assert len({tuple(mask.tolist()) for mask in condition.known}) > 5
    again = data.batch(torch.tensor([13, 2])).condition.known
    assert torch.equal(again, condition.known[[13, 2]])


def test_known_positions_have_no_loss_but_steer_the_rest():
    torch.manual_seed(0)
    flow_map = EndpointMap(GeodesicPath(OneHot(5)), Transformer(5, width=16, depth=1, heads=2, out=5))
    for parameter in flow_map.parameters():  # no gate is closed
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    objective = SelfDistillation(flow_map, share=0.5)
    x_1 = torch.randint(5, (6, 8), generator=torch.Generator().manual_seed(0))
    condition = Condition(known=(torch.arange(8) < 3).expand(6, 8))
    draw = objective.draw(Batch(x_1, condition), torch.Generator().manual_seed(3))
    loss = objective(Batch(x_1, condition), draw)["loss"]
    noise = draw.noise.clone()
    noise[:, :3] += 1
    same = objective(Batch(x_1, condition), draw._replace(noise=noise))["loss"]
    torch.testing.assert_close(loss, same)  # the noise at known positions is never seen
    changed = x_1.clone()
    changed[:, :3] = (changed[:, :3] + 1) % 5
    assert not torch.allclose(loss, objective(Batch(changed, condition), draw)["loss"])
