"""Modes mean what they say, agree between halves of the data, and cry when one is dropped."""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rdkit")

from flowmaps.metrics.modes import differing, lost
from flowmaps.metrics.molecules_modes import GROUPS, MODES, features, modes

EXAMPLES = {
    "aromatic": "c1ccccc1", "charged": "C[NH3+]", "acyclic": "CC", "ring_3": "C1CC1", "ring_4": "C1CCC1",
    "ring_5": "C1CCCC1", "ring_6": "C1CCCCC1", "ring_7+": "C1CCCCCCC1", "alcohol": "CO", "ether": "COC",
    "aldehyde": "CC=O", "ketone": "CC(C)=O", "acid": "CC(=O)O", "ester": "COC=O", "amide": "NC=O", "amine": "CNC",
    "imine": "CC=N", "nitrile": "CC#N", "alkene": "C=C", "alkyne": "C#CC", "halide": "CF", "nitro": "C[N+](=O)[O-]",
    "sulfonyl": "CS(C)(=O)=O", "thioether": "CSC",
    "double_bonds": "C=CC=C", "triple_bonds": "C#CC#N",
}  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_each_mode_finds_its_example_and_not_ethane(name):
    found = features([EXAMPLES[name], "CC"])[name]
    assert found[0] == (2 if name.endswith("bonds") else 1)
    assert found[1] == (1 if name == "acyclic" else 0)


def test_groups_do_not_run_into_each_other():
    """What is an acid is no alcohol, an amide no amine, an ester no ether."""
    only = {"CC(=O)O": {"acid"}, "COC(C)=O": {"ester"}, "CNC(C)=O": {"amide"}, "CC(C)=O": {"ketone"},
            "CC=O": {"aldehyde"},
            "c1ccoc1": set(), "N#CC": {"nitrile"}, "OCCO": {"alcohol"}, "CN(C)C": {"amine"},
            "C[N+](=O)[O-]": {"nitro"}}  # fmt: skip
    found = features(list(only))
    for k, (smiles, groups) in enumerate(only.items()):
        assert {name for name in GROUPS if found[name][k]} == groups, smiles


def test_shares_stand_beside_those_of_the_data():
    found = modes(["C1CC1"] * 30 + ["CC"] * 70, ["C1CC1"] * 20 + ["CC"] * 180)
    assert (found["ring_3"].value, found["ring_3"].data) == (0.3, 0.1)
    assert modes(["C=C", "CC"], ["C=CC=C"])["double_bonds"][::2] == (0.5, 2)
    with pytest.raises(ValueError, match="0 samples and 1 molecules"):
        modes([], ["C"])


DATA = Path(os.environ.get("FLOWMAPS_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "molecules"


def test_a_dropped_mode_cries_and_the_data_do_not():
    file = DATA / "qm9_smiles.csv"
    if not file.exists():
        pytest.skip(f"{file} is not there; set FLOWMAPS_DATA")
    rows = np.random.default_rng(0).permutation(file.read_text().split()[1:])[:1400]
    samples, data = rows[:700].tolist(), rows[700:].tolist()
    alike = modes(samples, data)
    assert differing(alike) == [] == lost(alike)
    aromatic = features(samples)["aromatic"]
    without = [text for text, drop in zip(samples, aromatic, strict=True) if not drop]
    assert 0.1 < aromatic.mean() < 0.25
    found = modes(without, data)
    assert differing(found)[0] == "aromatic" == lost(found)[0] and found["aromatic"].z < -8
