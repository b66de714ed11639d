"""Pairs: optimal plans, reflow, files that are continued, and what is refused."""

import itertools
import json

import pytest
import torch

from flowmaps.data.pairs import FILES, Pairs, make_pairs, optimal, pushed, read_pairs
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Euclidean, Torus
from identities.cases import seeded

PLANE = GeodesicPath(Euclidean(2))
DATA = torch.randn(7, 2, generator=seeded())


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_a_plan_is_the_best_of_all_orders():
    for path in (PLANE, GeodesicPath(Torus(2))):
        x_0, x_1 = optimal(path, DATA, group=6)(0, 6, seeded())
        cost = path.space.apart(x_0, x_1)
        best = min(sum(float(cost[i, j]) for i, j in enumerate(order)) for order in itertools.permutations(range(6)))
        assert abs(float(cost.diagonal().sum()) - best) < 1e-4
        assert len(x_0.unique(dim=0)) == 6 and {tuple(x) for x in x_1.tolist()} <= {tuple(x) for x in DATA.tolist()}


def test_interrupted_and_continued_is_made_at_once(tmp_path):
    draw = pushed(PLANE, double, batch=3)
    whole = make_pairs(tmp_path / "whole", draw, 25, {"flow": "a"}, seed=3, shard=10)
    assert torch.equal(whole.x_1, 2 * whole.x_0) and len(whole) == 25 and whole.origin == {"flow": "a"}

    def breaks(first, count, generator):
        if first == 20:
            raise KeyboardInterrupt
        return draw(first, count, generator)

    with pytest.raises(KeyboardInterrupt):
        make_pairs(tmp_path / "part", breaks, 25, {"flow": "a"}, seed=3, shard=10)
    with pytest.raises(ValueError, match="lacks 1 files of pairs; run what makes them again"):
        read_pairs(tmp_path / "part")
    firsts = []

    def counts(first, count, generator):
        firsts.append(first)
        return draw(first, count, generator)

    again = make_pairs(tmp_path / "part", counts, 25, {"flow": "a"}, seed=3, shard=10)
    assert firsts == [20] and again.fingerprint() == whole.fingerprint() == read_pairs(tmp_path / "part").fingerprint()


def test_pairs_of_another_flow_and_damaged_files_are_refused_in_one_line(tmp_path):
    draw = pushed(PLANE, double)
    make_pairs(tmp_path, draw, 9, {"flow": "a", "data": "d"}, shard=5)
    found = read_pairs(tmp_path)
    assert found.require((2,), flow="a") is found
    for mistake, message in (
        (lambda: make_pairs(tmp_path, draw, 9, {"flow": "b", "data": "d"}, shard=5), "pairs of another flow"),
        (lambda: make_pairs(tmp_path, draw, 9, {"flow": "a", "data": "d"}, seed=1, shard=5), "seed is 0, exp"),
        (lambda: found.require((2,), data="e"), "pairs of another flow: their data is d, expected e"),
        (lambda: found.require((3,)), r"pairs of another flow: their points have shape \(2,\), expected \(3,\)"),
        (lambda: read_pairs(tmp_path / "nowhere"), "it holds no pairs; make them first"),
        (lambda: found.parted(9), "held_out is 9, expected a number of pairs from 1 to below 9"),
        (lambda: Pairs(torch.zeros(3, 2), torch.zeros(4, 2), {}), "expected equal ones"),
        (lambda: Pairs(torch.zeros(3, 2), torch.full((3, 2), torch.nan), {}), "not finite; make them anew"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as error:
            mistake()
        assert "\n" not in str(error.value)
    file = tmp_path / "pairs-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="pairs-00001.safetensors is not as it was written"):
        read_pairs(tmp_path)
    index = json.loads((tmp_path / FILES.file).read_text())
    index["shards"] = {"../x": "0"}
    (tmp_path / FILES.file).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="plain name of a file|lacks 1 files"):
        read_pairs(tmp_path)


def test_a_batch_has_both_points_and_parts_are_disjoint():
    pairs = Pairs(torch.arange(8.0).view(4, 2), torch.arange(8.0).view(4, 2) + 1, {})
    train, valid = pairs.parted(1)
    assert len(train) == 3 and torch.equal(valid.batch(torch.tensor([0])).x_1["x_1"], pairs.x_1[3:])
