"""Networks are measured before memory is taken for them."""

from __future__ import annotations

import resource

import pytest
import torch
from torch import nn

from flowmaps.maps import VelocityMap
from flowmaps.tasks.images import Images
from flowmaps.tasks.text import Text
from flowmaps.train import sizes
from flowmaps.train.sizes import built


def images(**options):
    task = Images(**options)
    task.restore({"levels": 17, "classes": 10, "shape": [8, 8]})
    return task.build_map


def texts(**options):
    task = Text(**options)
    task.restore({"tokeniser": {"name": "letters"}, "given": True, "characters_per_token": 1.0})
    return task.build_map


def molecules(**options):
    pytest.importorskip("rdkit")
    from flowmaps.tasks.molecules import Molecules

    task = Molecules(**options)
    alphabet = {"atoms": ["C", "O"], "bonds": ["none", "single", "double", "triple"], "size": 9}
    task.restore({"alphabet": alphabet, "size_weights": [0] * 9 + [1], "scale": {"logp": [0.0, 1.0]}})
    return task.build_map


@pytest.mark.parametrize(
    ("make", "options"),
    [(images, {}), (images, {"conditional": True, "flow_map": VelocityMap}), (texts, {}), (texts, {"clock": False}),
     (texts, {"embedding": 256, "tied": True}), (molecules, {}), (molecules, {"conditions": ("logp",)})],
)  # fmt: skip
def test_networks_pass_and_are_what_they_were(make, options, monkeypatch):
    torch.manual_seed(0)
    plain = make(**options)().state_dict()
    for small in (sizes.SMALL, 1000):  # directly, and measured first
        monkeypatch.setattr(sizes, "SMALL", small)
        torch.manual_seed(0)
        measured = built(make(**options)).state_dict()
        assert all(torch.equal(plain[name], tensor) for name, tensor in measured.items())
    assert not registered(), "no hook stays"


def registered() -> dict:
    from torch.nn.modules import module

    return {**module._global_parameter_registration_hooks, **module._global_buffer_registration_hooks}


@pytest.mark.parametrize(
    ("make", "options"),
    [(images, {"width": 10**9}), (images, {"depth": 10**9}), (images, {"patch": 10**9}), (images, {"lower": (10**9,)}),
     (texts, {"width": 2**40}), (texts, {"depth": 10**9}), (texts, {"embedding": 10**9}), (texts, {"reach": 10**9}),
     (molecules, {"width": 2**40}), (molecules, {"depth": 10**9}), (molecules, {"edge": 2**40}),
     (molecules, {"paths": 10**9})],
)  # fmt: skip
def test_monsters_take_no_memory(make, options, monkeypatch):
    monkeypatch.setattr(sizes, "EACH", 2**23)  # 2,048 tensors are enough to show it
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="FLOWMAPS_MAX_BYTES|give it smaller sizes"):
        built(make(**options))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000, "kB"
    assert not registered()


def test_the_limit_is_raised_by_the_environment(monkeypatch):
    monkeypatch.setattr(sizes, "EACH", 10)
    message = "the network needs at least 1,040 bytes, more than the limit of 1,000; .* FLOWMAPS_MAX_BYTES"
    for small in (100, 10_000):
        monkeypatch.setattr(sizes, "SMALL", small)
        monkeypatch.setenv("FLOWMAPS_MAX_BYTES", "")
        built(lambda: nn.Linear(24, 10), 1000)  # 1,000 bytes
        with pytest.raises(ValueError, match=message):
            built(lambda: nn.Linear(25, 10), 1000)
        monkeypatch.setenv("FLOWMAPS_MAX_BYTES", "1040")
        built(lambda: nn.Linear(25, 10), 1000)
