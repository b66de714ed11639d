"""Validity by its conventions, and distances that are what their definitions say."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from flowmaps.data.molecules import graph_masks
from flowmaps.data.molecules_files import Alphabet
from flowmaps.data.molecules_graph import encode
from flowmaps.metrics.molecules import (
    HEADLINES,
    ChemNet,
    MoleculeQuality,
    category_counts,
    decode,
    properties,
    tanimoto,
)

ALPHABET = Alphabet(("C", "O", "N", "F"), ("none", "single", "double", "triple"), 5)
N = ALPHABET.size


def graphs(*rows):
    """Categories and masks of ``(names, bonds)``."""
    atoms, bonds = torch.zeros(len(rows), N, dtype=torch.long), torch.zeros(len(rows), N, N, dtype=torch.long)
    for k, (names, pairs) in enumerate(rows):
        atoms[k, : len(names)] = torch.tensor([ALPHABET.atoms.index(name) for name in names])
        for i, j, category in pairs:
            bonds[k, i, j] = bonds[k, j, i] = category
    return {"atoms": atoms, "bonds": bonds}, graph_masks(torch.tensor([len(names) for names, _ in rows]), N)


def from_smiles(*texts):
    return graphs(*((graph.atoms, graph.bonds) for graph in map(encode, texts)))


def quality(training=("CCO",), held_out=("CCO", "CCN", "CC=O"), **options):
    x_1, mask = from_smiles(*held_out)
    sizes = {"atoms": 4, "bonds": 4}
    counts = {field: category_counts(x_1[field], mask[field], K).sum(0) for field, K in sizes.items()}
    return MoleculeQuality(training, held_out, counts, ALPHABET, **{"fcd": False, **options})


BROKEN = ("FCF", [(0, 1, 2), (1, 2, 2)])  # fluorine with two bonds
PARTS = ("CCO", [(0, 1, 1)])  # ethane and water
HALF = ("FFCCC", [(0, 1, 2), (2, 3, 1), (3, 4, 1)])  # an impossible pair beside propane


def test_three_conventions_of_validity():
    x_1, mask = graphs(BROKEN, PARTS, HALF, ("CO", [(0, 1, 1)]))
    broken, parts, half, good = decode(x_1, mask["atoms"], ALPHABET)
    assert broken == (None, None, 1.0) and broken.whole is None
    assert parts.smiles == "CC.O" and parts.largest == "CC" and parts.whole is None
    assert parts.kept == pytest.approx(2 / 3)
    assert half.smiles is None and half.largest == "CCC" and half.whole is None
    assert good.smiles == good.largest == good.whole == "CO"
    result = quality()(x_1, mask)
    shares = {name: result[name]["value"] for name in ("valid_connected", "valid", "connected", "kept_atoms")}
    assert shares == pytest.approx(
        {"valid_connected": 0.25, "valid": 0.5, "connected": 0.5, "kept_atoms": (1 + 2 / 3 + 0.6 + 1) / 4}
    )
    assert result["valid_largest_fragment"]["value"] == 0.75
    assert result["valid"]["error"] == pytest.approx(0.25)  # sqrt(p (1 - p) / n)


def test_uniqueness_and_novelty_count_duplicates():
    result = quality()(*from_smiles("CCO", "OCC", "CCN", "CCN"))
    assert result["unique"]["value"] == 0.5 and result["novel"]["value"] == 0.5
    assert result["valid_unique_novel"]["value"] == 0.25 and result["samples"] == 4


def test_the_held_out_molecules_themselves_are_at_distance_zero():
    held_out = ("CCO", "CCN", "CC=O")
    result = quality()(*from_smiles(*held_out))
    for name in ("atom_types", "bond_types", "logp", "qed", "rings", "weight"):
        assert result[name]["value"] == pytest.approx(0, abs=1e-12), name
        assert result[name]["error"] > 0 or name == "rings"
    other = quality()(*from_smiles("C1CC1", "C1CC1", "C1CC1"))
    assert other["rings"]["value"] == 1 and other["internal_diversity"]["value"] == 0


def test_type_histograms_count_existing_atoms_and_each_pair_once():
    x_1, mask = from_smiles("CCO", "C=O")
    assert category_counts(x_1["atoms"], mask["atoms"], 4).tolist() == [[2, 1, 0, 0], [1, 1, 0, 0]]
    assert category_counts(x_1["bonds"], mask["bonds"], 4).tolist() == [[1, 2, 0, 0], [0, 0, 1, 0]]
    result = quality(held_out=("CC", "CC"))(*from_smiles("CO", "CO"))
    assert result["atom_types"]["value"] == 0.5 and result["bond_types"]["value"] == 0


def test_nothing_valid_leaves_out_what_needs_molecules():
    result = quality()(*graphs(BROKEN, BROKEN))
    assert result["valid_connected"] == {"value": 0.0, "error": 0.0}
    assert "unique" not in result and "logp" not in result and result["bond_types"]["value"] > 0


def test_the_headlines_come_first_and_name_the_aromatic_share():
    aromatic = Alphabet(ALPHABET.atoms, ALPHABET.bonds, 6)
    benzene, chain = encode("c1ccccc1"), encode("CCO")
    atoms, bonds = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, 6, dtype=torch.long)
    for k, graph in enumerate((benzene, chain, chain)):
        atoms[k, : len(graph.atoms)] = torch.tensor([ALPHABET.atoms.index(name) for name in graph.atoms])
        for i, j, category in graph.bonds:
            bonds[k, i, j] = bonds[k, j, i] = category
    counts = {"atoms": torch.ones(4), "bonds": torch.ones(4)}
    measure = MoleculeQuality(["C"], ["CCO", "CC=O"], counts, aromatic, fcd=find_spec("fcd") is not None, repeats=2)
    result = measure({"atoms": atoms, "bonds": bonds}, graph_masks(torch.tensor([6, 3, 3]), 6))
    shown = [name for name in result if name != "samples"]
    assert [name for name in shown if name in HEADLINES] == shown[: 4 + ("fcd" in result)]
    assert result["aromatic"] == result["modes/aromatic"] and result["aromatic"]["value"] == 1 / 3
    assert result["modes/alcohol"]["value"] == 2 / 3 and result["modes/double_bonds"]["value"] == 0


def test_all_values_are_numbers_and_the_seed_fixes_the_errors():
    x_1, mask = from_smiles("CCO", "CCC", "CCN")
    one, two = quality(seed=3)(x_1, mask), quality(seed=3)(x_1, mask)
    assert one == two
    assert all(math.isfinite(v) for name in one if name != "samples" for v in one[name].values())


def test_properties_and_similarities():
    values = properties(["C1CC1", "C1CC1", "O"])
    assert values["rings"].tolist() == [1, 1, 0] and values["weight"][2] == pytest.approx(18.015, abs=1e-3)
    matrix = tanimoto(["CCO", "CCO", "F"])
    assert matrix[0, 1] == 1 and matrix[0, 2] == 0 and np.allclose(matrix, matrix.T)


def test_fcd_is_zero_for_the_same_molecules_and_grows():
    pytest.importorskip("fcd")
    held_out = ("CCO", "CCN", "CC=O", "CCC", "CCF")
    measure = quality(held_out=held_out, fcd=True, repeats=2)
    same = measure(*from_smiles(*held_out))
    other = measure(*from_smiles("C#N", "C#C", "C#N", "N", "O"))
    assert same["fcd"]["value"] == pytest.approx(0, abs=1e-6) and other["fcd"]["value"] > 1
    assert other["fcd"]["value"] != other["fcd_distinct"]["value"]
    assert same["fcd_largest_fragment"] == same["fcd"]
    parted = measure(*graphs(BROKEN, PARTS, HALF, HALF))
    assert "fcd" not in parted and parted["fcd_largest_fragment"]["value"] > 1
    assert not any(name.startswith("fcd") for name in measure(*graphs(BROKEN, BROKEN)))


def test_activations_depend_on_the_molecule_alone():
    """Not on its spelling, on a long neighbour, nor on how many there are."""
    pytest.importorskip("fcd")
    net = ChemNet()
    some = ["c1ccccc1O", "CC(N)C(=O)O", "CCO"]
    alone = np.concatenate([net([text]) for text in some])
    others = ["Oc1ccccc1", "N[C@@H](C)C(O)=O", "[2H]OCC"]
    beside = net([*others, "C" * 400, *["C" * k for k in range(1, 9)]])
    assert np.abs(alone - beside[:3]).max() < 1e-5
    assert np.abs(net(["C" * 400]) - beside[3]).max() < 1e-5
    assert np.abs(net(["C" * 349]) - net(["C" * 349, "C"])[0]).max() < 1e-5
    first = net.law(some)[0].clone()
    some[0] = "C"
    assert (net.law(some)[0] - first).abs().max() > 1e-3  # kept by content, not by the list's identity
