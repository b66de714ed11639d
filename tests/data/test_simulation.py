"""Molecular dynamics: energies and forces belong together, frames continue bit for bit, and mistakes are one line."""

import json
import math

import pytest
import torch

pytest.importorskip("openmm", reason="needs the extra physics: pip install 'flowmaps[physics]'")

from flowmaps.cli.main import main
from flowmaps.data.potentials import ALANINE, Potential
from flowmaps.data.simulation import Dynamics, read_simulation, simulate
from flowmaps.data.sources import data_folder
from identities.cases import seeded

SHORT = Dynamics(every=5, settle=20)


@pytest.fixture(scope="module")
def alanine():
    return Potential(ALANINE)


@pytest.fixture(scope="module")
def made(alanine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulation")
    return folder, simulate(folder, alanine, 10, SHORT, shard=4)


def test_forces_are_the_slope_of_the_energy(alanine):
    x = torch.from_numpy(alanine.positions) + 0.005 * torch.randn(2, 22, 3, generator=seeded(), dtype=torch.float64)
    v = torch.randn(2, 22, 3, generator=seeded(1), dtype=torch.float64)
    h = 1e-5
    slope = (alanine.energies(x + h * v) - alanine.energies(x - h * v)) / (2 * h)
    assert torch.allclose(slope, -(alanine.forces(x)[1] * v).sum((1, 2)), rtol=1e-5)


def test_the_energy_is_that_of_a_molecule_in_kT(alanine):
    x = torch.from_numpy(alanine.positions)[None]
    axis = torch.linalg.qr(torch.randn(3, 3, generator=seeded(), dtype=torch.float64))[0]
    assert torch.allclose(alanine.energies(x), alanine.energies(x @ (axis * axis.det()) + 1.0), atol=1e-6)
    hot = Potential(ALANINE, temperature=600.0)
    assert torch.allclose(2 * hot.energies(x), alanine.energies(x))
    assert alanine.energies(torch.stack([x[0], x[0] * math.nan])).isfinite().tolist() == [True, False]


def test_torsions_are_found_by_name(alanine):
    names, four = alanine.backbone()
    atoms = [atom.name for atom in alanine.topology.atoms()]
    assert names == ["phi", "psi"]
    assert [[atoms[i] for i in part] for part in four] == [["C", "N", "CA", "C"], ["N", "CA", "C", "N"]]


def test_frames_are_warm_and_their_energies_those_of_the_potential(made, alanine):
    folder, found = made
    assert found.x.shape == (10, 22, 3) and found.potential.atoms == 22
    from safetensors.torch import load_file

    kept = load_file(folder / "frames-00000.safetensors")
    assert torch.allclose(alanine.energies(kept["x"]), kept["u"], atol=0.01)  # coordinates are float32
    assert float(kept["u"][0]) > float(alanine.energies(torch.from_numpy(alanine.positions)[None])[0])
    kinetic = kept["velocity"].square().sum()
    assert 0 < float(kinetic) < 1e4


def test_interrupted_and_continued_is_made_at_once(made, alanine, tmp_path):
    def stop(done):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, alanine, 10, SHORT, shard=4, tell=stop)
    with pytest.raises(ValueError, match=r"lacks 2 files of frames; run `flowmaps simulate` again"):
        read_simulation(tmp_path)
    simulate(tmp_path, alanine, 10, SHORT, shard=4)
    assert torch.equal(read_simulation(tmp_path).x, made[1].x)
    assert json.loads((tmp_path / "simulation.json").read_text()) == json.loads(
        (made[0] / "simulation.json").read_text()
    )


def test_a_longer_simulation_goes_on_from_a_shorter_one(made, alanine, tmp_path):
    for n in (3, 8, 10):  # the last file, which is not full, is made again
        found = simulate(tmp_path, alanine, n, SHORT, shard=4)
        assert torch.equal(found.x, made[1].x[:n])
    with pytest.raises(ValueError, match="holds 10 frames; n is 9, expected as many or more; choose another"):
        simulate(tmp_path, alanine, 9, SHORT, shard=4)


def test_a_damaged_file_and_another_simulation_are_refused(made, alanine, tmp_path):
    folder, _ = made
    with pytest.raises(ValueError, match=r"holds another simulation: seed is 0, expected 1; choose another"):
        simulate(folder, alanine, 11, Dynamics(every=5, settle=20, seed=1), shard=4)
    simulate(tmp_path, alanine, 1, SHORT)
    file = tmp_path / "frames-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is not as it was written"):
        read_simulation(tmp_path)


def amber(tmp_path, atoms=22):
    folder = data_folder("peptide")
    if not (folder / "alanine-dipeptide.prmtop").exists():
        pytest.skip("needs peptide/alanine-dipeptide.prmtop; set FLOWMAPS_DATA")
    lines = (folder / "alanine-dipeptide.crd").read_text().splitlines()
    kept = lines if atoms == 22 else [lines[0], f"{atoms:6d}", *lines[2 : 2 + atoms // 2]]
    (tmp_path / "start.crd").write_text("\n".join(kept) + "\n")
    return folder / "alanine-dipeptide.prmtop", tmp_path / "start.crd"


def test_an_amber_topology_brings_its_own_parameters(tmp_path):
    topology, start = amber(tmp_path)
    potential = Potential(topology, start)
    assert potential.backbone() == Potential(ALANINE).backbone()
    found = simulate(tmp_path / "out", potential, 2, Dynamics(every=5, settle=0))
    assert found.potential.energies(found.x).isfinite().all()


def simulation(*arguments):
    return main(["simulate", *map(str, arguments)])


def test_the_command_and_its_mistakes(tmp_path, capsys):
    short = ("--nanoseconds=2e-5", "--every=10", "--settle=0", f"--out={tmp_path / 'a'}")
    assert simulation("alanine-dipeptide", *short) == 0
    assert "2 frames of 22 atoms" in capsys.readouterr().out
    pdb = ALANINE.read_text()
    damaged = {
        "other.pdb": (pdb.replace("HB3 ALA", "XX9 ALA"), "is no topology that can be simulated: No template found"),
        "same.pdb": (
            pdb.replace("2.274  -1.296   2.684", "2.781  -0.517   2.111"),
            "nearest atoms 19 and 20 are 0.0000 nm apart",
        ),
        "empty.pdb": ("", "is no topology that can be simulated"),
    }
    for name, (text, message) in damaged.items():
        (tmp_path / name).write_text(text)
        assert simulation(tmp_path / name, *short[:-1], f"--out={tmp_path / 'b'}") == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, told
    wrong = {"--step=20": "the molecule flew apart; take a shorter step than 20 fs", "--step=0": "step 0.0",
             "--temperature=-1": "expected kelvin above 0", "--nanoseconds=0": "too short for a frame"}  # fmt: skip
    far = (f"--out={tmp_path / 'c'}", "--nanoseconds=1e-3", "--every=10", "--settle=100")
    for option, message in wrong.items():
        assert simulation("alanine-dipeptide", *far, option) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, told


def test_a_topology_that_does_not_fit_the_coordinates_is_told_in_one_line(tmp_path, capsys):
    topology, start = amber(tmp_path, atoms=20)
    assert simulation(topology, f"--coordinates={start}", f"--out={tmp_path / 'a'}") == 2
    told = capsys.readouterr().err
    assert "has coordinates of 20 atoms, but" in told and "is a topology of 22" in told and told.count("\n") == 1
    with pytest.raises(ValueError, match=r"\(1, 20, 3\), but .* is a topology of 22 atoms"):
        Potential(ALANINE).energies(torch.zeros(1, 20, 3))
    assert simulation(topology, f"--out={tmp_path / 'a'}") == 2
    assert "holds no coordinates; give a file of them" in capsys.readouterr().err
