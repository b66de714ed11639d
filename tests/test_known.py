"""Known positions in training: their law, and that they carry no loss and steer the rest."""

import pytest
import torch

from flowmaps.fields import Batch, Condition
from flowmaps.maps import EndpointMap
from flowmaps.networks import Transformer
from flowmaps.objectives import GivenPositions, KnownLaw, PrefixesAndSpans, SelfDistillation
from flowmaps.paths import LinearPath
from flowmaps.spaces import OneHot


class Fixed(KnownLaw):
    def __init__(self, known):
        self.known = known

    def __call__(self, shape, generator):
        return self.known.expand(shape)


def small_map():
    torch.manual_seed(0)
    network = Transformer(5, width=16, depth=1, heads=2, out=5)
    for parameter in network.parameters():  # no gate is closed
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return EndpointMap(LinearPath(OneHot(5)), network)


def test_law_of_known_positions():
    known = PrefixesAndSpans()((4000, 24), torch.Generator().manual_seed(0))
    rising = (known[:, 1:] & ~known[:, :-1]).any(1)
    assert not known.all(1).any()
    assert abs(float((~known).all(1).float().mean()) - 0.5) < 0.05  # and a few empty prefixes and spans
    assert (known.any(1) & ~rising).float().mean() > 0.2  # prefixes
    assert rising.float().mean() > 0.15  # gaps and spans


@pytest.mark.parametrize("kind", ["free", "prefix", "gap"])
def test_one_kind_alone(kind):
    shares = dict.fromkeys(("free", "prefix", "gap", "spans"), 0.0) | {kind: 1.0}
    known = PrefixesAndSpans(**shares)((500, 16), torch.Generator().manual_seed(1)).int()
    changes = known.diff(dim=1)
    if kind == "free":
        assert known.sum() == 0
    elif kind == "prefix":
        assert (changes <= 0).all() and known.sum(1).unique().numel() > 10
    else:
        gaps = (changes == -1).sum(1) + (known[:, 0] == 0)
        assert (gaps == 1).all()


def test_single_positions_are_never_known():
    assert not PrefixesAndSpans(0, 0, 0, 1)((50, 1), torch.Generator().manual_seed(0)).any()


def test_shares_must_sum_to_one_and_data_must_be_rows():
    with pytest.raises(ValueError, match="sum to 1"):
        PrefixesAndSpans(free=0.9)
    with pytest.raises(ValueError, match="rows"):
        PrefixesAndSpans()((2, 3, 4), torch.Generator())


def test_knowing_nothing_changes_nothing():
    plain = SelfDistillation(small_map(), share=0.5)
    given = GivenPositions(plain, Fixed(torch.tensor(False)))
    batch = Batch(torch.randint(5, (6, 8)))
    losses = [o(batch, o.draw(batch, torch.Generator().manual_seed(3)))["loss"] for o in (plain, given)]
    torch.testing.assert_close(losses[0], losses[1])


def test_known_positions_have_no_loss_but_steer_the_rest():
    map = small_map()
    given = GivenPositions(SelfDistillation(map, share=0.5), Fixed(torch.arange(8) < 3))
    x_1 = torch.randint(5, (6, 8), generator=torch.Generator().manual_seed(0))
    draw = given.draw(Batch(x_1), torch.Generator().manual_seed(3))
    loss = given(Batch(x_1), draw)["loss"]
    other_noise = draw.inner.noise.clone()
    other_noise[:, :3] += 1
    same = given(Batch(x_1), draw._replace(inner=draw.inner._replace(noise=other_noise)))["loss"]
    torch.testing.assert_close(loss, same)  # the noise at known positions is never seen
    changed = x_1.clone()
    changed[:, :3] = (changed[:, :3] + 1) % 5
    assert not torch.allclose(loss, given(Batch(changed), draw)["loss"])


def test_positions_known_by_the_data_stay_known():
    given = GivenPositions(SelfDistillation(small_map(), share=1.0), Fixed(torch.arange(8) < 3))
    batch = Batch(torch.randint(5, (4, 8)), Condition(known=torch.arange(8).expand(4, 8) >= 3))
    loss = given(batch, given.draw(batch, torch.Generator().manual_seed(0)))["loss"]
    assert loss.item() == 0
