"""The second stage starts from the first one's averaged weights, and resumes like any run."""

import pytest
import torch

from flowmaps.data import CategoricalData
from flowmaps.fields import Batch
from flowmaps.maps import EndpointMap
from flowmaps.networks import MLP, Transformer
from flowmaps.objectives import SelfDistillation
from flowmaps.paths import GeodesicPath, MinibatchOT
from flowmaps.spaces import Embedded, OneHot
from flowmaps.times import ToData
from flowmaps.train import CheckpointError, Trainer
from flowmaps.train.two_stage import Autoguidance, TwoStage

OUT = "network.write.weight"


def build(seed: int) -> EndpointMap:
    torch.manual_seed(seed)
    return EndpointMap(GeodesicPath(Embedded(5, 4)), MLP((3, 4), width=8, depth=1, out=5, K=5))


def train(objective, folder, steps, resume=False):
    data = CategoricalData(torch.randint(5, (40, 3), generator=torch.Generator().manual_seed(0)))
    return Trainer(objective, data, None, folder, max_steps=steps, batch_size=8, save_every=2, progress=False,
                   tensorboard=False).fit(resume)  # fmt: skip


@pytest.mark.parametrize("decay", [None, 0.5])
def test_second_stage_starts_from_the_first_and_resumes(tmp_path, decay):
    base = train(SelfDistillation(build(0), share=1.0), tmp_path / "base", 3).flow_map.state_dict()
    second = TwoStage(build(1), str(tmp_path / "base"), decay=decay)
    for name, tensor in second.flow_map.state_dict().items():
        assert torch.equal(tensor, base[name]), name
    unbroken = train(second, tmp_path / "a", 4).flow_map.state_dict()
    teacher = second.teacher(second.flow_map).state_dict()[OUT]
    assert torch.equal(teacher, base[OUT]) == (decay is None)
    assert not torch.equal(unbroken[OUT], base[OUT])
    assert torch.equal(unbroken["path.space.weight"], base["path.space.weight"]) == (decay is None)
    (tmp_path / "a" / "checkpoint" / "step-00000004").rename(tmp_path / "lost")
    resumed = train(TwoStage(build(2), str(tmp_path / "base"), decay=decay), tmp_path / "a", 4, resume=True)
    for name, tensor in resumed.flow_map.state_dict().items():
        assert torch.equal(tensor, unbroken[name]), name


def test_a_missing_first_stage_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        TwoStage(build(0), str(tmp_path / "nowhere"))


def test_options_of_the_loss_are_passed_on(tmp_path):
    train(SelfDistillation(build(0), share=1.0), tmp_path / "base", 1)
    second = TwoStage(
        build(1), str(tmp_path / "base"), share=0.5, strength=2.0, coupling=MinibatchOT(4), pairs=ToData()
    )
    assert isinstance(second.coupling, MinibatchOT) and second.coupling.group == 4
    assert (second.share, second.strength) == (0.5, 2.0) and isinstance(second.pairs, ToData)


def test_factors_of_fields_are_passed_on(tmp_path):
    train(SelfDistillation(build(0), share=1.0), tmp_path / "base", 1)
    with pytest.raises(ValueError, match="emphasis has 'bonds'"):  # the map has one field only
        TwoStage(build(1), str(tmp_path / "base"), emphasis={"bonds": 4.0})


@pytest.mark.parametrize("shared", [False, True])
def test_a_deeper_network_starts_as_the_same_function(tmp_path, shared):
    """And its new blocks learn to add something."""

    def deep(depth: int) -> EndpointMap:
        torch.manual_seed(depth)
        return EndpointMap(GeodesicPath(OneHot(5)), Transformer(5, 12, depth, 2, out=5, reach=1, shared=shared))

    base = train(SelfDistillation(deep(2), share=1.0), tmp_path / "base", 4).flow_map
    second = TwoStage(deep(5), str(tmp_path / "base"), share=1.0, depth=2)
    x, s, t = torch.randn(7, 3, 5), torch.rand(7), torch.ones(7)
    assert len(second.flow_map.network.blocks) == 5
    assert torch.equal(second.flow_map.network(x, s, t), base.network(x, s, t))
    grown = train(second, tmp_path / "deep", 4).flow_map.network.blocks
    assert all(block.attention.out.weight.any() and block.down.weight.any() for block in grown)


def test_only_a_deeper_transformer_grows(tmp_path):
    train(SelfDistillation(build(0), share=1.0), tmp_path / "base", 1)
    with pytest.raises(ValueError, match="the network is a MLP, expected a Transformer"):
        TwoStage(build(1), str(tmp_path / "base"), depth=2)
    network = Transformer(5, 12, 2, 2, out=5)
    with pytest.raises(ValueError, match="depth is 3, expected 1 to the 2 blocks"):
        TwoStage(EndpointMap(GeodesicPath(OneHot(5)), network), str(tmp_path / "base"), depth=3)
    with pytest.raises(ValueError, match="depth is 1, expected at least the 2 blocks"):
        network.deepen(1)


def test_the_diagonal_of_a_guided_stage_learns_the_base_pushed_away_from_a_weaker_map(tmp_path):
    """With w = 1 there is nothing to learn; with more, and a shallower weak map, the loss falls from above 0."""

    def deep(depth: int, seed: int) -> EndpointMap:
        torch.manual_seed(seed)
        return EndpointMap(GeodesicPath(OneHot(5)), Transformer(5, 12, depth, 2, out=5, reach=1))

    train(SelfDistillation(deep(3, 0), share=1.0), tmp_path / "base", 40)
    train(SelfDistillation(deep(2, 1), share=1.0), tmp_path / "weak", 4)

    def stage(scale: float) -> TwoStage:
        guide = Autoguidance(str(tmp_path / "weak"), scale, depth=2)
        return TwoStage(deep(3, 2), str(tmp_path / "base"), share=1.0, guide=guide)

    def loss(objective: TwoStage) -> float:
        batch = Batch(torch.randint(5, (64, 3), generator=torch.Generator().manual_seed(4)))
        with torch.no_grad():
            return float(objective(batch, objective.draw(batch, torch.Generator().manual_seed(5)))["diagonal"])

    assert abs(loss(stage(1.0))) < 1e-6
    guided = stage(6.0)
    before = loss(guided)
    train(guided, tmp_path / "guided", 60)
    assert before > 1e-3 and loss(guided) < 0.5 * before


def test_a_guide_keeps_the_read_in_and_needs_the_same_one(tmp_path):
    train(SelfDistillation(build(0), share=1.0), tmp_path / "base", 3)
    train(SelfDistillation(build(1), share=1.0), tmp_path / "other", 3)
    with pytest.raises(ValueError, match="into different vectors"):
        TwoStage(build(2), str(tmp_path / "base"), guide=Autoguidance(str(tmp_path / "other")))
    with pytest.raises(ValueError, match="give weaker or a temperature"):
        TwoStage(build(2), str(tmp_path / "base"), guide=Autoguidance())
    sure = Autoguidance(temperature=0.5)
    guided = TwoStage(build(2), str(tmp_path / "base"), share=0.5, guide=sure, decay=0.5)
    before = guided.flow_map.path.space.weight.clone()
    assert torch.equal(train(guided, tmp_path / "guided", 4).flow_map.path.space.weight, before)
