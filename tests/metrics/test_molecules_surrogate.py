"""The surrogate of molecular properties: what it must not see, its gradient, and that it learns."""

import pytest
import torch

pytest.importorskip("rdkit")

from flowmaps.data.molecules import molecules
from flowmaps.metrics.molecules import PROPERTIES, properties
from flowmaps.metrics.molecules_surrogate import (
    PropertySurrogate,
    cached_surrogate,
    corrupted,
    soften,
    train_surrogate,
    vertices,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("molecules")
    ends, middles = ("C", "O", "N", "F", "C#N", "C=O", "C1CC1"), ("", "C", "CC", "CCC", "CO", "CN", "C(C)C", "C(O)C")
    rows = [f"{start}{middle}C{end}" for start in ("C", "N", "C1CC1") for middle in middles for end in ends]
    (folder / "my.smi").write_text("\n".join(dict.fromkeys(rows)))
    return molecules(folder / "my.smi", cache=folder)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = PropertySurrogate(5, 4, width=8, depth=2).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.mean, model.deviation = torch.arange(4.0).double(), 1 + torch.rand(4, generator=generator()).double()
    return model


def soft_graph(B=3, n=5, K_a=5, K_b=4):
    """Random points of the simplex, with symmetric bonds and nothing on their diagonal."""
    g = generator(1)
    a = torch.randn(B, n, K_a, generator=g, dtype=torch.float64).softmax(-1)
    e = torch.randn(B, K_b, n, n, generator=g, dtype=torch.float64).triu(1)
    e = (e + e.mT).softmax(1) * (1 - torch.eye(n, dtype=torch.float64))
    return {"atoms": a, "bonds": e.permute(0, 2, 3, 1)}


def test_permuting_atoms_changes_nothing(model):
    x = soft_graph()
    order = torch.randperm(5, generator=generator(2))
    permuted = {"atoms": x["atoms"][:, order], "bonds": x["bonds"][:, order][:, :, order]}
    mixed = {**x, "atoms": permuted["atoms"]}
    for same, other, found in zip(model(permuted), model(mixed), model(x), strict=True):
        assert torch.allclose(same, found, atol=1e-12) and not torch.allclose(other, found, atol=1e-3)


def test_padding_and_what_is_below_the_diagonal_change_nothing(model):
    x = soft_graph()
    padded = {
        "atoms": torch.nn.functional.pad(x["atoms"], (0, 0, 0, 3)),
        "bonds": torch.nn.functional.pad(x["bonds"], (0, 0, 0, 3, 0, 3)),
    }
    upper = x["bonds"] * torch.ones(5, 5, dtype=torch.float64).triu(1).unsqueeze(-1)
    for wider, half, found in zip(model(padded), model({**x, "bonds": upper}), model(x), strict=True):
        assert torch.allclose(wider, found, atol=1e-12) and torch.equal(half, found)


@pytest.mark.parametrize("target", [None, 0.7])
def test_the_gradient_is_that_of_finite_differences(model, target):
    x = soft_graph()
    f = model.of("logp", least=-3.0, target=target)
    leaves = [leaf.requires_grad_() for leaf in x.values()]
    assert torch.autograd.gradcheck(lambda a, e: f({"atoms": a, "bonds": e}), leaves)
    assert all(float(g.abs().max()) > 1e-4 for g in torch.autograd.grad(f(x).sum(), leaves))


def test_a_molecule_earns_its_property_if_it_is_valid_and_else_the_least(model):
    x = soft_graph()
    y, log_p = model(x)
    p, rings = log_p.exp(), y[:, list(PROPERTIES).index("rings")]
    assert bool((p > 0).all()) and bool((p < 1).all())
    assert torch.allclose(model.of("rings", least=-1.0)(x), p * rings - (1 - p))
    assert torch.allclose(model.of("rings", least=-5.0, target=2.0)(x), -p * (rings - 2).abs() - 5 * (1 - p))


def test_corrupted_molecules_are_valid_as_rdkit_says(splits):
    rows = torch.arange(60)
    graph, valid = corrupted(splits.train, rows, splits.alphabet)
    plain = vertices(splits.train, rows, splits.alphabet)
    changed = (graph["atoms"] != plain["atoms"]).any(-1).sum(1) + (graph["bonds"] != plain["bonds"]).any(-1).sum((1, 2))
    assert int(changed.max()) <= 3 and float((changed > 0).float().mean()) > 0.8
    assert bool(valid[changed == 0].all()) and 0.1 < float(valid.float().mean()) < 0.9
    again = corrupted(splits.train, rows, splits.alphabet)
    assert torch.equal(again[1], valid) and torch.equal(again[0]["bonds"], graph["bonds"])


def test_softened_graphs_stay_on_the_simplex(splits):
    rows = torch.arange(20)
    hard = vertices(splits.train, rows, splits.alphabet)
    soft = soften(hard, torch.linspace(0, 1, 20))
    for name in hard:
        assert torch.equal(soft[name][0], hard[name][0])
        assert torch.allclose(soft[name].sum(-1), hard[name].sum(-1), atol=1e-6)
        there = hard[name][-1].sum(-1) > 0
        assert torch.allclose(soft[name][-1][there], soft[name][-1][there][:1], atol=1e-6)  # the marginals, at share 1


def test_it_learns_properties_and_is_kept(splits, tmp_path):
    arguments = (tmp_path, splits.train, splits.test, splits.alphabet)
    model = cached_surrogate(*arguments, steps=400, batch=32, width=32)
    assert min(model.quality()[name] for name in ("logp", "rings", "weight")) > 0.9, model.quality()
    graph = vertices(splits.test, torch.arange(len(splits.test)), splits.alphabet)
    truth = torch.from_numpy(properties(splits.test.smiles)["logp"])
    logp = model(graph)[0][:, list(PROPERTIES).index("logp")]
    error = (logp - truth).square().mean()
    assert float(1 - error / truth.var(correction=0)) == pytest.approx(model.quality()["logp"], abs=1e-4)
    broken, valid = corrupted(splits.train, torch.arange(len(splits.train)), splits.alphabet, seed=9)
    right = float(((model(broken)[1].exp() > 0.5) == valid).float().mean())
    share = float(valid.float().mean())
    assert right > max(share, 1 - share) + 0.1, (right, share)
    (kept,) = tmp_path.iterdir()
    again = cached_surrogate(*arguments, steps=400, batch=32, width=32)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    kept.write_bytes(b"half")
    with pytest.raises(ValueError, match="not a whole surrogate"):
        cached_surrogate(*arguments, steps=400, batch=32, width=32)


def test_too_few_molecules_are_refused(splits):
    with pytest.raises(ValueError, match="1 molecules to train on"):
        train_surrogate(splits.train.subset(torch.arange(1)), splits.test, splits.alphabet)
