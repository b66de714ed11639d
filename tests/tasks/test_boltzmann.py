"""A molecule by a normalising flow, through the command line: simulated, trained, sampled, weighed."""

import json
import math

import pytest
import torch

pytest.importorskip("openmm", reason="needs the extra physics: pip install 'flowmaps[physics]'")
pytest.importorskip("zuko", reason="needs the extra flows")
pytest.importorskip("ot", reason="needs the extra ot")

from flowmaps.cli.main import main
from flowmaps.data.base import fingerprint
from flowmaps.data.conformations import topology_of
from flowmaps.hub import load
from flowmaps.samplers import Jumps
from flowmaps.tasks.boltzmann import Boltzmann

SMALL = ["--task.framed=true", "--task.flow=RealNVP", "--task.flow.layers=2", "--task.flow.width=16",
         "--task.flow.depth=1", "--trainer.batch_size=64", "--trainer.max_steps=20", "--trainer.curves=false",
         "--trainer.valid_examples=20", "--trainer.schedule.warmup=5"]  # fmt: skip


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames") / "simulation"
    short = ["--nanoseconds=4e-3", "--every=20", "--settle=500"]
    assert main(["simulate", "alanine-dipeptide", "--out", str(folder), *short]) == 0
    return folder


@pytest.fixture(scope="module")
def run(frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "flow"
    assert main(["train", "alanine-dipeptide", "--data.path", str(frames), "--out", str(folder), *SMALL]) == 0
    return folder


def test_it_learns_and_writes_molecules_and_a_picture(run):
    lines = (run / "samples-1.pdb").read_text().splitlines()
    assert sum(line.startswith("MODEL") for line in lines) == 100 and (run / "samples.png").stat().st_size > 20_000
    first = [line for line in lines if line.startswith("ATOM")][:22]
    assert [line[12:16].strip() for line in first][8] == "CA" and {len(line) for line in first} == {78}
    nll = json.loads((run / "metrics.json").read_text())["last"]["valid/nll"]
    assert math.isfinite(nll)


def test_samples_have_the_weights_of_their_energy(run, tmp_path):
    model = load(run)
    samples = model.sample(50, seed=3)
    y, log_p = model.flow_map.sample((50,), torch.Generator().manual_seed(3))
    coordinates = model.task.coordinates
    assert torch.allclose(samples["x"], coordinates.frames(y))
    assert torch.allclose(samples["log_q"], log_p.double() - coordinates.log_factor(y))
    assert main(["evaluate", str(run), "--n=200", "--out", str(tmp_path / "e")]) == 0
    found = json.loads((tmp_path / "e/metrics.json").read_text())["by_steps"]
    assert (
        set(found) == {"1", "data"} and 1 / 200 <= found["1"]["ess"] <= 1 and found["data"]["ess"] == pytest.approx(1)
    )
    assert found["data"]["energy_w1"] < 5 < found["1"]["energy_w1_plain"]  # kT; dynamics differ by little
    assert main(["sample", str(run), "--steps=4"]) == 2


def test_both_kinds_of_coordinates_keep_energies_and_torsions(frames):
    tasks = {framed: Boltzmann(str(frames), framed=framed) for framed in (False, True)}
    for task in tasks.values():
        y = task.splits.train.batch(torch.arange(40)).x_1
        x = task.coordinates.frames(y)
        assert torch.allclose(
            task.splits.potential.energies(x), -task._weighed(task.splits.train.x[:40])["log_q"], atol=0.01
        )
        assert torch.allclose(task.torsions(x), task.torsions(task.splits.train.x[:40].double()), atol=1e-3)


@pytest.mark.parametrize("framed", [False, True])
def test_a_checkpoint_knows_its_coordinates_without_data(frames, framed):
    task, again = Boltzmann(str(frames), framed=framed), Boltzmann("nowhere", framed=framed)
    again.restore(json.loads(json.dumps(task.state())))
    assert again.build_map().shape == (60 if framed else 66,)
    y = task.splits.valid.batch(torch.arange(4)).x_1
    assert torch.allclose(again.coordinates.frames(y), task.coordinates.frames(y))
    state = again.state()
    wrong = {"four": [[0, 1, 2, 99]], "three": [1, 1, 2], "unit": -1.0} if framed else {"four": [[0, 1]], "unit": 0.0}
    for name, value in wrong.items():
        if not (framed and name == "unit"):
            with pytest.raises(ValueError, match="state of config.json"):
                Boltzmann("nowhere", framed=framed).restore({**state, name: value})


def test_pairs_of_transport_train_it_and_others_are_refused(run, frames, tmp_path, capsys):
    folder = tmp_path / "pairs"
    assert main(["pairs", str(run), "--by=ot", "--n=200", "--out", str(folder)]) == 0
    regression = ["--objective=flowmaps.objectives.RegFlow", f"--task.paired={folder}"]
    arguments = ["train", "alanine-dipeptide", "--data.path", str(frames), *SMALL, *regression]
    assert main([*arguments, "--out", str(tmp_path / "r")]) == 0
    before = fingerprint(*load(run).flow_map.state_dict().values())
    assert before != fingerprint(*load(tmp_path / "r").flow_map.state_dict().values())
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "s"), "--task.framed=false"]) == 2
    said = capsys.readouterr().err
    assert "pairs of another flow: their points have shape (60,), expected (66,)" in said and said.count("\n") == 1


def test_a_step_is_all_there_is(run, frames):
    model = load(run)
    assert list(model.task.rows([1, 2])) == ["1"]
    with pytest.raises(ValueError, match="a bijection samples in one step"):
        model.task.sample(model.flow_map, 2, Jumps(2), torch.Generator())


def test_missing_frames_say_how_to_make_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "alanine-dipeptide", "--out", "r"]) == 2
    said = capsys.readouterr().err
    assert "flowmaps simulate alanine-dipeptide --out simulations/alanine-dipeptide" in said and said.count("\n") == 1


def test_frames_of_a_file_have_the_log_density_of_samples(run, frames, tmp_path, capsys):
    """What samples are told with is what their own file scores."""
    model = load(run)
    samples = model.sample(30, seed=5)
    _trajectory(samples["x"], model.task, tmp_path / "samples.dcd")
    assert main(["score", str(run), "--data", str(tmp_path / "samples.dcd"), "--out", str(tmp_path / "s")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "s/scores.jsonl").read_text().splitlines()]
    log_q = torch.tensor([row["log_q"] for row in rows], dtype=torch.float64)
    assert torch.allclose(log_q, samples["log_q"], atol=0.05)  # a file has single precision
    told = json.loads((tmp_path / "s/metrics.json").read_text())
    assert told["rows"] == 30 and "perplexity" not in told["bounds"]["exact"]
    assert told["bounds"]["exact"]["nats"] == pytest.approx(sum(row["nats"] for row in rows) / 30)
    assert main(["score", str(run), "--data", str(frames), "--n=9", "--out", str(tmp_path / "f")]) == 0
    assert len((tmp_path / "f/scores.jsonl").read_text().splitlines()) == 9
    other = (frames / "alanine-dipeptide.pdb").read_text().splitlines()
    atoms = [i for i, line in enumerate(other) if line.startswith(("ATOM", "HETATM"))]
    other[atoms[0]], other[atoms[1]] = other[atoms[1]], other[atoms[0]]
    (tmp_path / "other.pdb").write_text("\n".join(other))
    (tmp_path / "less.pdb").write_text("\n".join(line for i, line in enumerate(other) if i != atoms[-1]))
    for name, message in (("other", "atom 1 of"), ("less", "frames of 21 atoms, but the model has 22")):
        capsys.readouterr()
        assert main(["score", str(run), "--data", str(tmp_path / f"{name}.pdb"), "--out", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def _trajectory(x, task, path):
    mdtraj = pytest.importorskip("mdtraj")
    mdtraj.Trajectory(x.numpy(), topology_of(task.state()["atoms"])).save_dcd(str(path))
