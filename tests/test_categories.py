"""Categories outside the alphabet are refused wherever data meet a map, with the value and the alphabet."""

import pytest
import torch

from flowmaps import MLP, Batch, CutOff, EndpointMap, GeodesicPath, Jumps, OneHot, SelfDistillation, generate, score
from flowmaps.fields import Condition
from flowmaps.spaces import Embedded, Product

GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def flow_map():
    return EndpointMap(GeodesicPath(OneHot(3)), MLP((2, 3), width=8, depth=1))


@pytest.mark.parametrize(("x_1", "message"), [
    (torch.tensor([[0, 3], [1, 1]]), "category 3 is outside the alphabet 0..2 of the map; give data of that alphabet"),
    (torch.tensor([[0, -1], [1, 1]]), "category -1 is outside the alphabet 0..2"),
    (torch.zeros(2, 2), "categories are torch.float32, expected torch.int64 numbers in 0..2"),
    (torch.zeros(2, 2, dtype=torch.int32), "categories are torch.int32, expected torch.int64"),
])  # fmt: skip
def test_training_scoring_and_infilling_refuse_them(flow_map, x_1, message):
    known = Condition(known=torch.ones(2, 2, dtype=torch.bool))
    for use in (
        lambda: SelfDistillation(flow_map).draw(Batch(x_1), GENERATOR),
        lambda: score(flow_map, [Batch(x_1)], CutOff(), GENERATOR),
        lambda: generate(flow_map, Jumps(1), (2, 2), GENERATOR, condition=known, given=x_1),
    ):
        with pytest.raises(ValueError) as error:
            use()
        assert str(error.value).startswith(message)


def test_every_space_checks_and_products_by_field():
    good, bad = torch.tensor([1]), torch.tensor([5])
    for space in (OneHot(3), Embedded(3, 2)):
        space.check(good)
        with pytest.raises(ValueError, match="category 5 is outside the alphabet 0..2"):
            space.check(bad)
    both = Product({"a": OneHot(3), "b": OneHot(9)})
    both.check({"a": good, "b": bad})
    with pytest.raises(ValueError, match="category 5"):
        both.check({"a": bad, "b": bad})
    with pytest.raises(ValueError, match="field 'b' is missing"):
        both.check({"a": good})
