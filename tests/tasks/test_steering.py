"""Rewards of text and of molecules by name."""

from functools import partial

import pytest
import torch

from flowmaps.fields import Condition
from flowmaps.samplers import Renoise
from flowmaps.steering import Led, Tilted
from flowmaps.tasks.steering import reward
from flowmaps.tasks.text import Text

pytestmark = pytest.mark.filterwarnings("ignore:all .* rows stay")  # the fixture repeats molecules
SAYING = "the quick brown fox jumps over the lazy dog and runs away "


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "sayings.txt").write_text(SAYING * 100)
    cache = str(folder / "shards")
    return Text(str(folder / "sayings.txt"), length=24, cache=cache, order=4, width=16, depth=1, heads=2)


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    pytest.importorskip("rdkit")
    from flowmaps.tasks.molecules import Molecules

    folder = tmp_path_factory.mktemp("molecules")
    rows = ["C" * (k % 5 + 1) + "O" * (k // 25 % 2) + "C" * (k // 5 % 5) + "N" * (k // 50) for k in range(100)]
    (folder / "my.smi").write_text("\n".join([*dict.fromkeys(rows), "C1CC1", "C1CC1C", "C1CC1O", "CC=O", "CCC=O"]))
    return Molecules(str(folder / "my.smi"), cache=str(folder), width=16, edge=8, depth=1, heads=2, paths=4)


def graphs(task, *molecules):
    """Graphs with -1 at padding, as steering gives them to black boxes."""
    from flowmaps.data.molecules_graph import encode

    N, alphabet = task.alphabet.size, task.alphabet
    atoms = torch.full((len(molecules), N), -1)
    bonds = torch.full((len(molecules), N, N), -1)
    for k, smiles in enumerate(molecules):
        parts = [encode(part) for part in smiles.split(".")]
        names = [name for part in parts for name in part.atoms]
        n, offset = len(names), 0
        atoms[k, :n] = torch.tensor([alphabet.atoms.index(name) for name in names])
        bonds[k, :n, :n] = torch.where(torch.ones(n, n).triu(1) > 0, 0, -1)
        for part in parts:
            for i, j, bond in part.bonds:
                bonds[k, offset + i, offset + j] = bond
            offset += len(part.atoms)
    return {"atoms": atoms, "bonds": bonds}


def sizes(task):
    return {"atoms": len(task.alphabet.atoms), "bonds": len(task.alphabet.bonds)}


def test_likelihood_of_text_prefers_the_training_text(text):
    encode = lambda line: text.tokeniser.encode(line)  # noqa: E731
    x_1 = torch.tensor([list(encode(line)) for line in (SAYING[:24], "zzqx vkj wpq ffmx tthe a")])
    for one in (reward(text, "likelihood"), reward(text, "likelihood:")):
        values = one.of_sample(x_1, 27)
        assert values[0] > -0.5 and values[1] < -3
    nats = text.measures.ngrams.nats(x_1.numpy())
    assert values.tolist() == pytest.approx([-float(row.mean()) for row in nats])


def test_text_is_steered_with_the_decoder_of_its_task(text):
    wanted = text.problem(4, torch.Generator(), prompt="the ")
    assert wanted.decoder is text.decoder and wanted.condition.known.sum() == 4
    assert text.problem(4, torch.Generator()).decoder is text.decoder


def test_a_smarts_pattern_is_found_or_not(molecules):
    x_1 = graphs(molecules, "CCO", "CC=O", "C1CC1", "CC=O.C")
    of = lambda pattern: reward(molecules, f"smarts:{pattern}").of_sample(x_1, sizes(molecules)).tolist()  # noqa: E731
    assert of("[CX3]=O") == [0.0, 1.0, 0.0, 0.0]  # a molecule in pieces earns the least
    assert of("O") == [1.0, 1.0, 0.0, 0.0]
    assert of("[r3]") == [0.0, 0.0, 1.0, 0.0]
    for pattern in ("", "C(("):
        with pytest.raises(ValueError, match="no SMARTS pattern"):
            reward(molecules, f"smarts:{pattern}")


def test_similarity_is_that_of_morgan_fingerprints(molecules):
    from flowmaps.metrics.molecules import tanimoto

    x_1 = graphs(molecules, "CCCO", "OCCC", "CCCCN", "C1CC1", "CCCO.C")
    values = reward(molecules, "similar:CCCO").of_sample(x_1, sizes(molecules)).tolist()
    assert values[:2] == [1.0, 1.0] and values[4] == 0.0
    assert values[2:4] == pytest.approx(tanimoto(["CCCO", "CCCCN", "C1CC1"])[0, 1:].tolist())
    assert 0 < values[2] < 1
    for smiles in ("", "C(("):
        with pytest.raises(ValueError, match="no SMILES"):
            reward(molecules, f"similar:{smiles}")


def test_what_is_asked_for_is_read_as_data_are(molecules):
    """Stereochemistry, isotopes, atom maps and drawn hydrogens are not part of any molecule of the data."""
    x_1, K = graphs(molecules, "CC(O)CN", "CCO"), sizes(molecules)
    for smiles in ("C[C@H](O)CN", "C[C@@H]([18OH])CN", "[CH3:1]C(O)C[NH2:2]", "[2H]OC(C)CN", "[H]OC(C)CN"):
        assert reward(molecules, f"similar:{smiles}").of_sample(x_1, K)[0] == 1, smiles
    for pattern in ("[H]O", "[OH:1]", "C[C@H](O)C"):
        assert reward(molecules, f"smarts:{pattern}").of_sample(x_1, K)[0] == 1, pattern
    with pytest.raises(ValueError, match="asks for an isotope"):
        reward(molecules, "smarts:[2H]O")


def test_an_invalid_molecule_earns_the_least(molecules):
    x_1 = graphs(molecules, "CCO", "CCO")
    x_1["bonds"][1, 0, 1] = 3  # O#C-C in some order: oxygen or carbon of too many bonds
    x_1["bonds"][1, 1, 2] = 3
    values = (
        reward(molecules, "smarts:O").of_sample(x_1, sizes(molecules)),
        reward(molecules, "logp").of_sample(x_1, sizes(molecules)),
    )
    assert values[0].tolist() == [1.0, 0.0] and float(values[1][1]) == -10.0


@pytest.fixture
def quickly(tmp_path_factory, monkeypatch):
    """A small surrogate, kept for these tests alone."""
    from flowmaps.metrics import molecules_surrogate as module

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "kept"))
    small = partial(module.cached_surrogate, steps=300, batch=32, width=16, depth=2)
    monkeypatch.setattr(module, "cached_surrogate", small)


def test_a_property_is_led_by_its_surrogate(molecules, quickly):
    led, plain = reward(molecules, "logp", surrogate=True), reward(molecules, "logp")
    assert isinstance(led, Led) and led.about["surrogate_r2"] > 0.8 and not plain.differentiable
    x_1 = graphs(molecules, "CCCO", "CCCCN", "CCCCCCCC")
    assert torch.equal(led.of_sample(x_1, sizes(molecules)), plain.of_sample(x_1, sizes(molecules)))
    near = led.by.of_sample(x_1, sizes(molecules))
    assert torch.allclose(near, plain.of_sample(x_1, sizes(molecules)), atol=0.6)
    target = reward(molecules, "logp:3.4", surrogate=True)
    assert isinstance(target, Led)
    values = target.by.of_sample(x_1, sizes(molecules))  # minus the distance, or -14.4 for what is invalid
    assert values.argmax() == 2 and bool((values < 0).all()) and bool((values > -14.4).all())


def test_molecules_are_tilted_with_the_gradient_of_a_surrogate(molecules, quickly):
    torch.manual_seed(0)
    flow_map = molecules.build_map().eval()
    for parameter in flow_map.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    g = torch.Generator().manual_seed(0)
    shape, condition, given, decoder = molecules.problem(24, g)
    assert isinstance(condition, Condition)
    result = Tilted(Renoise(3))(
        flow_map,
        reward(molecules, "logp", surrogate=True),
        shape,
        24,
        g,
        strength=0.3,
        condition=condition,
        decoder=decoder,
    )
    assert result.evaluations == 24 * (3 * 3 - 2) and result.effective_size > 1
    assert float(result.weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["smarts:O", "similar:C", "magic"])
def test_there_is_a_surrogate_of_properties_alone(molecules, name):
    with pytest.raises(ValueError, match="no (surrogate|reward) .*; there are .*logp, qed"):
        reward(molecules, name, surrogate=True)
