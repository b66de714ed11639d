"""SMILES to graphs and back, files of any shape, splits, caches and batches."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from flowmaps.data import molecules as source
from flowmaps.data.base import Dataset
from flowmaps.data.molecules import MoleculeData, graph_masks, molecules, qm9, zinc250k
from flowmaps.data.molecules_files import Alphabet, Settings, load, part_of, read_smiles
from flowmaps.data.molecules_graph import BONDS, Unreadable, atom_of, build, canonical, encode, sanitised

AWKWARD = [
    "C", "[H][H]", "[NH4+]", "C#N", "[C-]#[N+]C", "c1cc[nH]c1", "c1ccncc1", "CC(=O)[O-]", "C[N+](=O)[O-]",
    "[CH3]", "[CH2]C", "O=[SH](=O)C", "CS(=O)(=O)N", "C[S+](C)[O-]", "O=P(O)(O)O", "c1ccc2c(c1)[nH]c1ccccc12",
    "B(O)O", "[O]N=O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "F[Si](F)(F)F", "c1nnn[nH]1", "CI(=O)=O", "[Br-]",
]  # fmt: skip


@pytest.mark.parametrize("smiles", AWKWARD)
@pytest.mark.parametrize("aromatic", [False, True])
def test_graph_comes_back_as_the_same_molecule(smiles, aromatic):
    graph = encode(smiles, aromatic)
    assert sanitised(build(graph.atoms, graph.bonds)) == graph.smiles
    assert all(i < j for i, j, _ in graph.bonds)
    assert aromatic or all(category < 4 for _, _, category in graph.bonds)


def test_hydrogens_are_stated_only_where_valence_would_guess_wrongly():
    assert encode("c1cc[nH]c1").atoms == ("C", "C", "C", "N", "C")
    assert encode("C[NH3+]").atoms == ("C", "N+1")
    assert encode("C[CH2]").atoms == ("C", "CH2")
    assert "NH1" in encode("c1cc[nH]c1", aromatic=True).atoms


@pytest.mark.parametrize(
    ("text", "reason"),
    [("CC(", "not a SMILES"), ("", "not a SMILES"), ("C(C)(C)(C)(C)C", "valence"), ("CC.O", "2 fragments"),
     ("C*", "dummy"), ('"CCO', "quotation mark"), ("CC>>CO", "a reaction"), ("C" * 5001, "5,001 characters, more than"),
     ("\ud800", "not a SMILES"), ("[Na+].[Cl-]", "2 fragments"), ("N->[Pt]", "bond of type")],
)  # fmt: skip
def test_what_cannot_be_held_has_a_reason(text, reason):
    with pytest.raises(Unreadable, match=reason):
        encode(text)


@pytest.mark.parametrize(
    ("spellings", "smiles", "lost"),
    [
        (("[2H]CO", "[2H]OC", "OC[3H]", "[13CH3]O"), "CO", "isotopes"),
        (("[2H]C([2H])([2H])c1ccccc1", "Cc1cc[14cH]cc1"), "Cc1ccccc1", "isotopes"),
        (("[2H]O[2H]", "[18OH2]", "[2H]O"), "O", "isotopes"), (("[2H][2H]", "[3H][H]"), "[H][H]", "isotopes"),
        (("[2H]n1cccc1", "[15nH]1cccc1"), "c1cc[nH]c1", "isotopes"), (("[2H][O-]",), "[OH-]", "isotopes"),
        (("[CH3:1][OH:2]", "[CH3:2]O", "[CH3][OH:99]"), "CO", "atom maps"), (("[H:3]CO",), "CO", None),
        (("[cH:1]1[cH:2][cH:3][cH:4][cH:5][cH:6]1",), "c1ccccc1", "atom maps"),
        (("C[N+:4](C)(C)C", "[CH3:1][N+:4](C)([CH3:2])C"), "C[N+](C)(C)C", "atom maps"),
        (("[H]/N=C(\\C)O", "[H]\\N=C(\\C)O", "[H]N=C(C)O", "N=C(C)O"), "CC(=N)O", None),
        (("C[C@H](N)O", "C[C@@H](O)N"), "CC(N)O", "stereochemistry"),
        (("C/C=C/C", "C/C=C\\C"), "CC=CC", "stereochemistry"),
    ],
)  # fmt: skip
def test_every_spelling_of_a_molecule_is_the_same_graph(spellings, smiles, lost):
    """Of isotopes, maps and stereo marks nothing stays, so no spelling falls into another part of the data."""
    plain = encode(smiles)
    for text in spellings:
        graph = encode(text)
        assert graph.smiles == smiles == canonical(text)
        assert sorted(graph.atoms) == sorted(plain.atoms) and len(graph.bonds) == len(plain.bonds)
        assert lost is None or lost in graph.lost


@pytest.mark.parametrize(
    ("salts", "kept"),
    [
        (("[Na+].CC(=O)[O-]", "CC(=O)[O-].[Na+]"), "CC(=O)[O-]"), (("[Na+].[Cl-]", "[Cl-].[Na+]"), "[Cl-]"),
        (("CCO.CCO",), "CCO"), (("[2H]O[2H].CC", "CC.O"), "CC"), (("CCO.CCN", "CCN.CCO"), "CCO"),
        (("CC(C)O.CCCO", "CCCO.CC(C)O"), "CCCO"),
    ],
)  # fmt: skip
def test_the_largest_fragment_does_not_depend_on_the_spelling(salts, kept):
    for text in salts:
        graph = encode(text, fragments="largest")
        assert graph.smiles == kept and "smaller fragments" in graph.lost
        with pytest.raises(Unreadable, match="2 fragments"):
            encode(text)
    assert encode(kept, fragments="largest").lost == ()


def test_atom_names_are_checked():
    assert atom_of("C-1H2").GetFormalCharge() == -1
    for name in ("", "Xx", "c", "C+"):
        with pytest.raises(ValueError, match="not written like"):
            atom_of(name)


def lines(*rows):
    return "\n".join(rows) + "\n"


def some_molecules(n=60):
    """Chains of carbon and oxygen, all different."""
    return ["C" * (k % 7 + 1) + "O" * (k % 2) + "C" * (k // 7 % 5) + "N" * (k // 35) for k in range(n)]


def test_what_was_done_to_the_rows_is_counted(tmp_path):
    odd = ["[2H]CCCCCC=O", "C[C@H](N)OC#N", "[CH3:1]CC#N", "[Na+].CC(=O)[O-]", "C=C.O", "CC=O", "O=CC", "?"]
    plain = list(dict.fromkeys(encode(text).smiles for text in some_molecules()))
    rows = [*plain, *odd]
    (tmp_path / "my.smi").write_text(lines(*rows))
    splits = molecules(tmp_path / "my.smi", cache=tmp_path, processes=1, fragments="largest")
    assert splits.summary == {
        "rows": len(rows), "left out": 1, "mixtures left out": 0, "duplicates": 1, "stereochemistry": 1, "isotopes": 1,
        "atom maps": 1, "smaller fragments": 2,
    }  # fmt: skip
    for words in (f"1 of {len(rows)} rows are left out", "; 1 duplicate;", "smaller fragments removed from 2"):
        assert words in splits.report()
    refusing = molecules(tmp_path / "my.smi", cache=tmp_path, processes=1)
    assert (refusing.refused, refusing.summary["mixtures left out"]) == (3, 2)
    assert "2 of them are salts or mixtures" in refusing.report()
    assert sum(map(len, splits[:3])) == len(rows) - 1 and sum(map(len, refusing[:3])) == len(rows) - 3
    (tmp_path / "plain.smi").write_text(lines(*plain))
    assert molecules(tmp_path / "plain.smi", cache=tmp_path, processes=1).report() == ""


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "my.csv").write_text(lines("smiles", *some_molecules(), "nonsense", "CC.O"))
    return lambda **options: molecules(tmp_path / "my.csv", cache=tmp_path / "cache", processes=1, **options)


def test_broken_rows_are_listed_and_never_stop_the_run(prepared):
    splits = prepared()
    assert (splits.rows, splits.refused) == (62, 2)
    listed = splits.rejected.read_text().splitlines()
    assert listed[1:] == [",62,nonsense,not a SMILES string", ",63,CC.O,2 fragments"]
    assert sum(map(len, splits[:3])) == 60


def test_prepared_files_are_read_again_without_rdkit_reading_anything(prepared, monkeypatch):
    first = prepared()
    monkeypatch.setattr("flowmaps.data.molecules_files.encode", lambda *_: pytest.fail("read again"))
    again = prepared()
    assert again.alphabet == first.alphabet
    assert torch.equal(again.train.bonds, first.train.bonds) and again.train.smiles == first.train.smiles


def test_workers_give_what_one_process_gives(tmp_path):
    (tmp_path / "my.txt").write_text(lines(*some_molecules() * 20))
    one = molecules(tmp_path / "my.txt", cache=tmp_path / "1", processes=1)
    seen = []
    two = molecules(tmp_path / "my.txt", cache=tmp_path / "2", processes=2, progress=lambda *p: seen.append(p))
    assert torch.equal(one.test.atoms, two.test.atoms) and one.valid.smiles == two.valid.smiles
    assert seen[-1] == (1200, 1200)


def test_a_damaged_cache_is_named(prepared):
    splits = prepared()
    file = splits.rejected.with_name(splits.rejected.name.replace(".rejected.csv", ".npz"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged.*remove it"):
        prepared()


def test_no_damage_of_a_cache_is_taken_for_data(prepared):
    """Single bytes changed at random: refused in one line, or of no consequence."""
    splits = prepared()
    file = splits.rejected.with_name(splits.rejected.name.replace(".rejected.csv", ".npz"))
    content, random, refused = file.read_bytes(), np.random.default_rng(0), 0
    for place, value in zip(random.integers(0, len(content), 200), random.integers(0, 256, 200), strict=True):
        file.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        try:
            again = load(file)
        except ValueError as error:
            refused += 1
            assert "remove it, it will be prepared again" in str(error)
        else:
            assert again.alphabet == splits.alphabet and sorted(again.smiles) == sorted(
                text for part in splits[:3] for text in part.smiles)  # fmt: skip
    assert refused > 150


def test_parts_depend_on_the_molecule_alone(tmp_path, prepared):
    splits = prepared()
    (tmp_path / "other.csv").write_text(lines("smiles", *reversed(some_molecules()), *some_molecules()))
    other = molecules(tmp_path / "other.csv", cache=tmp_path / "cache", processes=1)
    for one, two in zip(splits[:3], other[:3], strict=True):
        assert list(dict.fromkeys(one.smiles)) == list(dict.fromkeys(two.smiles))  # in the same order, too
    parts = [set(part.smiles) for part in splits[:3]]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    share = [sum(part_of(f"molecule {k}") == part for k in range(10_000)) / 10_000 for part in range(3)]
    assert share == pytest.approx([0.8, 0.1, 0.1], abs=0.015)


def test_files_may_give_the_parts(tmp_path):
    for part, rows in (("train", ["C", "CC"]), ("valid", ["CO"]), ("test", ["CN"])):
        (tmp_path / f"zinc250k_{part}.txt").write_text(lines(*rows))
    splits = zinc250k(tmp_path, cache=tmp_path, processes=1)
    assert [sorted(part.smiles) for part in splits[:3]] == [["C", "CC"], ["CO"], ["CN"]]
    with pytest.raises(ValueError, match="both or neither"):
        molecules(tmp_path / "zinc250k_train.txt", valid=tmp_path / "zinc250k_valid.txt")


def test_what_a_later_part_holds_is_not_trained_on(tmp_path):
    """Written differently, as another stereoisomer, or twice: it is the same graph."""
    (tmp_path / "250k_rndm_zinc_drugs_clean_3.csv").write_text(
        'smiles,logP\n"OC\n",1\n"N[C@@H](C)O\n",2\n"CCC\n",3\n"CCC\n",3\n'
    )
    (tmp_path / "zinc250k_valid.txt").write_text(lines("CO", "CF"))
    (tmp_path / "zinc250k_test.txt").write_text(lines("N[C@H](C)O", "FC"))
    splits = zinc250k(tmp_path, cache=tmp_path, processes=1)
    assert [part.smiles for part in splits[:2]] == [["CCC", "CCC"], ["CO"]]
    assert sorted(splits.test.smiles) == ["CC(N)O", "CF"]
    assert (splits.rows, splits.refused) == (8, 3)
    listed = [row.rsplit(",", 1) for row in splits.rejected.read_text().splitlines()[1:]]
    assert [row[0].split(",")[0] for row in listed] == ["train", "train", "valid"]
    assert [row[1] for row in listed] == ["also in the valid part", "also in the test part", "also in the test part"]


def test_the_whole_of_zinc_is_fetched_with_checksums(tmp_path, monkeypatch):
    """From files instead of mirrors: each lands only if its content is the expected one."""
    content = {"whole": "smiles\nCO\nCC\n", "valid": "CO\n", "test": "CN\n"}
    (tmp_path / "mirror").mkdir()
    for name, text in content.items():
        (tmp_path / "mirror" / f"{name}.txt").write_text(text)
    mirror = (tmp_path / "mirror").as_uri() + "/"
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in content.items()}
    monkeypatch.setattr(source, "ZINC_MIRROR", mirror + "whole.txt")
    monkeypatch.setattr(source, "ZINC_PARTS_MIRROR", mirror)
    monkeypatch.setattr(source, "ZINC_SHA256", sums["whole"])
    monkeypatch.setattr(source, "ZINC_PARTS_SHA256", {**sums, "test": "0" * 64})
    with pytest.raises(ValueError, match=r"no mirror gave zinc250k_test.txt.*expected 000"):
        zinc250k(tmp_path / "here", fetch=True, processes=1)
    assert not (tmp_path / "here" / "zinc250k_test.txt").exists()
    monkeypatch.setattr(source, "ZINC_PARTS_SHA256", sums)
    splits = zinc250k(tmp_path / "here", fetch=True, cache=tmp_path, processes=1)
    assert [part.smiles for part in splits[:3]] == [["CC"], ["CO"], ["CN"]]


def test_an_empty_part_and_too_large_molecules_are_named(tmp_path, prepared):
    assert prepared(max_atoms=5).alphabet.size == 5
    (tmp_path / "huge.smi").write_text(lines(*some_molecules(), "C" * 1024))
    assert "huge" in str((huge := molecules(tmp_path / "huge.smi", cache=tmp_path, processes=1)).rejected)
    assert huge.refused == 1 and "1024 atoms, more than 1023" in huge.rejected.read_text()
    (tmp_path / "one.txt").write_text("CCO\n")
    with pytest.raises(ValueError, match="part of 1 molecules is empty"):
        molecules(tmp_path / "one.txt", cache=tmp_path)
    (tmp_path / "none.txt").write_text("x\ny\n")
    with pytest.raises(ValueError, match="no row could be read.*line 1"):
        molecules(tmp_path / "none.txt", cache=tmp_path)


def test_batches_are_symmetric_graphs_whose_pairs_count_once(prepared):
    data = prepared().train
    assert isinstance(data, Dataset)
    batch = data.batch(torch.arange(len(data)))
    bonds, mask = batch.x_1["bonds"], batch.condition.mask["bonds"]
    assert torch.equal(bonds, bonds.mT) and not bonds.diagonal(dim1=1, dim2=2).any()
    assert not mask.tril().any() and torch.equal(mask.sum((1, 2)), data.sizes * (data.sizes - 1) // 2)
    assert not bonds.triu(1)[~mask].any() and not batch.x_1["atoms"][~batch.condition.mask["atoms"]].any()
    alphabet = prepared().alphabet
    for k in (0, len(data) - 1):
        pairs = [(i, j, int(bonds[k, i, j])) for i, j in bonds[k].triu(1).nonzero().tolist()]
        names = [alphabet.atoms[a] for a in batch.x_1["atoms"][k, : data.sizes[k]].tolist()]
        assert sanitised(build(names, pairs)) == data.smiles[k]


def test_known_parts_are_connected_and_a_function_of_the_rows(prepared):
    data = prepared().train
    data = data.conditioned(None, known_share=0.5)
    index = torch.arange(len(data))
    batch, again = data.batch(index), data.batch(index)
    known = batch.condition.known["atoms"]
    assert torch.equal(known, again.condition.known["atoms"])
    assert not torch.equal(known, data.batch(index.flip(0)).condition.known["atoms"].flip(0))
    assert not known[~batch.condition.mask["atoms"]].any() and 0.2 < known.any(1).float().mean() < 0.8
    assert torch.equal(batch.condition.known["bonds"], known.unsqueeze(1) & known.unsqueeze(2))
    reach = torch.eye(data.n).expand(len(data), -1, -1) + (batch.x_1["bonds"] > 0) * batch.condition.known["bonds"]
    within = torch.linalg.matrix_power(reach.double(), data.n) > 0
    assert (within | ~batch.condition.known["bonds"]).all()


def test_labels_may_be_withheld():
    atoms, sizes = torch.zeros(400, 2, dtype=torch.uint8), torch.full((400,), 2)
    data = MoleculeData(
        atoms, torch.ones(400, 1, dtype=torch.uint8), sizes, ["CC"] * 400, label=torch.ones(400, 1), label_dropout=0.25
    )
    label = data.batch(torch.arange(400)).condition.label
    assert 0.15 < label.isnan().float().mean() < 0.35
    with pytest.raises(ValueError, match="known_share is 2"):
        data.conditioned(None, known_share=2)


def test_masks_and_alphabet():
    mask = graph_masks(torch.tensor([0, 1, 3]), 3)
    assert mask["atoms"].sum(1).tolist() == [0, 1, 3] and mask["bonds"].sum((1, 2)).tolist() == [0, 0, 3]
    alphabet = Alphabet(("C", "N+1"), ("none", "single"), 9)
    assert Alphabet.from_json(alphabet.to_json()) == alphabet


DATA = Path(os.environ.get("FLOWMAPS_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "molecules"
REAL = {"qm9_smiles.csv": 133_885, "zinc250k_test.txt": 5_000, "zinc250k_valid.txt": 24_445,
        "zinc_100k_24heavy.csv": 100_729}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_molecules_come_back(name):
    """Every 200th row here; every row in the slow test below."""
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there; set FLOWMAPS_DATA")
    rows = read_smiles(DATA / name)
    assert len(rows) == REAL[name]
    for _, text in rows[::200]:
        encode(text)  # raises if it does not come back


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_every_real_molecule_comes_back(name, tmp_path):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there; set FLOWMAPS_DATA")
    splits = molecules(DATA / name, cache=tmp_path)
    if name == "qm9_smiles.csv":  # recorded runs rest on these molecules, in this order
        content = hashlib.sha256("\n".join(splits.train.smiles).encode()).hexdigest()
        assert (len(splits.train), content[:16]) == (107_160, "9411605a75f4bcac")
        assert splits.alphabet == Alphabet(("C", "O", "N", "F", "N+1", "O-1", "N-1", "C-1"), BONDS[:4], 9)
    assert splits.refused <= splits.rows / 1000, splits.rejected.read_text()[:2000]


def test_qm9_by_folder(tmp_path):
    (tmp_path / "qm9_smiles.csv").write_text(lines("smiles", *some_molecules()))
    assert sum(map(len, qm9(tmp_path, cache=tmp_path, processes=1)[:3])) == 60


@pytest.mark.parametrize(
    "spellings", [("c1ccccc1O", "Oc1ccccc1", "C1=CC=CC=C1O"), ("CC(C)C#N", "N#CC(C)C"), ("c1cc[nH]c1", "[nH]1cccc1")]
)
@pytest.mark.parametrize("aromatic", [False, True])
def test_in_canonical_order_every_spelling_is_one_graph(spellings, aromatic):
    graphs = {encode(text, aromatic, order="canonical")[:3] for text in spellings}
    assert len(graphs) == 1
    atoms, bonds, smiles = graphs.pop()
    assert sanitised(build(atoms, bonds)) == smiles
    letters = [c.upper() for c in smiles if c.isalpha() and c != "H"]
    assert list(atoms) == letters or any(len(name) > 1 for name in atoms)  # as they stand in the SMILES


def test_the_order_of_the_file_keeps_the_names_of_prepared_data(tmp_path):
    assert Settings().key() == [False, None, "refuse"] and Settings(order="canonical").key()[-1] == "canonical"
    (tmp_path / "a.smi").write_text("\n".join("C" * k + "O" for k in range(1, 40)))
    names = {Path(molecules(tmp_path / "a.smi", cache=tmp_path, order=order, processes=1).rejected).name
             for order in ("file", "canonical")}  # fmt: skip
    assert len(names) == 2
    with pytest.raises(ValueError, match="order is 'random', expected file or canonical"):
        molecules(tmp_path / "a.smi", cache=tmp_path, order="random")


def test_matching_molecules_are_repeated(prepared):
    train = prepared().train
    oxygen = sum("O" in smiles for smiles in train.smiles)
    more = train.repeated({"[O]": 3})
    assert 0 < oxygen < len(train) and len(more) == len(train) + 2 * oxygen
    assert set(more.smiles) == set(train.smiles) and sum("O" in smiles for smiles in more.smiles) == 3 * oxygen
    assert len(train.repeated({"[O]": 3, "C": 2}).smiles) > len(more)
    with pytest.raises(ValueError, match="'C[(]' is no SMARTS pattern"):
        train.repeated({"C(": 2})
    with pytest.raises(ValueError, match="repeat of 'C' is 0, expected a whole number of at least 1"):
        train.repeated({"C": 0})
