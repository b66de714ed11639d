"""Networks and kinds of maps are passed in: by Python, by name, with short forms for their settings."""

from functools import partial

import pytest
import torch

from flowmaps.cli.config import experiment, training_parser
from flowmaps.cli.presets import find_preset
from flowmaps.configuration.parsing import parse
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import Transformer, UNet
from flowmaps.networks.mlp import MLP
from flowmaps.samplers import Jumps
from flowmaps.tasks.images import Images
from flowmaps.tasks.text import Text

STATE = {"levels": 3, "classes": 4, "shape": [4, 5]}
LETTERS = {"tokeniser": {"name": "letters"}, "given": True}


def images(**options):
    task = Images(**options)
    task.restore(STATE)
    return task


def by_name(preset, *arguments):
    p = training_parser("train", "")
    return experiment(p, parse(p, [f"--config={find_preset(preset)}", *arguments])).task


def test_a_network_of_ones_own_is_given_the_sizes_of_the_data():
    seen = []

    def mine(d, out, classes):
        seen.append((d, out, classes))
        return UNet(d, width=8, lower=(8,), out=out, classes=classes)

    task = images(network=mine, conditional=True)
    samples = task.sample(task.build_map().eval(), 3, Jumps(1), torch.Generator().manual_seed(0))
    assert seen == [(3, 3, 4)] and samples.shape == (3, 4, 5)


def test_short_forms_are_settings_of_whichever_network():
    short = images(width=8, lower=(16,), depth=2).build_map()
    long = images(network=partial(UNet, width=8, lower=(16,), depth=2)).build_map()
    assert [p.shape for p in short.parameters()] == [p.shape for p in long.parameters()]
    assert images(network=Transformer, width=32, depth=1).build_map().network.width == 32
    with pytest.raises(ValueError, match="unexpected keyword argument 'patch'; leave it out"):
        images(network=Transformer, patch=2).build_map()


def test_the_commands_name_networks_and_maps():
    names = ("--task.network=Transformer", "--task.network.width=16", "--task.network.depth=1")
    task = by_name("digits", *names, "--task.flow_map=VelocityMap")
    flow_map = task.build_map()
    assert type(flow_map) is VelocityMap and type(flow_map.network) is Transformer and flow_map.network.width == 16
    small = by_name("digits", "--task.width=8", "--task.lower=[8]").build_map()
    assert type(small) is EndpointMap and small.network.level.down[0].conv_1.in_channels == 8
    text = by_name("tiny-shakespeare", "--task.width=16", "--task.depth=1", "--task.heads=2", "--task.length=16")
    text.restore(LETTERS)
    network = text.build_map().network
    assert (network.width, network.reach, len(network.blocks)) == (16, 4, 1), "what is not said stays the preset's"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--task.network=Transformr", "task.network is Transformr, expected .*Transformer or UNet"),
        ("--task.network=flowmaps.maps.VelocityMap", "task.network is .*expected .*UNet"),
        ("--task.network.widht=8", "UNet has no argument 'widht' .did you mean 'width'"),
        ("--task.flow_map=flowmaps.UNet", "flow_map is flowmaps.UNet, expected EndpointMap or VelocityMap"),
        ("--task.unconstrained=true", "write flow_map: flowmaps.maps.VelocityMap for unconstrained: true"),
        ("--task.network=os.system", "expected a class of this package"),
    ],
)
def test_what_is_no_network_or_map(argument, message):
    with pytest.raises(ValueError, match=message):
        by_name("digits", argument)


def test_what_follows_from_the_data_is_not_chosen():
    with pytest.raises(ValueError, match="classes of the network is 7, but follows from the task: 10; leave it out"):
        by_name("digits", "--task.network.classes=7").build_map()


def test_text_reads_out_of_any_network_of_features():
    task = Text(network=partial(Transformer, width=24, depth=1, heads=2), embedding=24, tied=True)
    task.restore(LETTERS)
    assert task.build_map().head.matrix.shape == (27, 24)
    task = Text(network=lambda d, K, times: MLP((8, d), width=8, depth=1))
    task.restore(LETTERS)
    with pytest.raises(ValueError, match="MLP does not say its width"):
        task.build_map()
