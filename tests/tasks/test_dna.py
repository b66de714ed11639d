"""DNA from files to samples: what is given comes back, classes are asked for by name, rewards are what they say."""

import math

import pytest
import torch

import flowmaps
from flowmaps.cli.main import main
from flowmaps.data import dna as D
from flowmaps.fields import one_field
from flowmaps.maps import VelocityMap
from flowmaps.samplers import Euler, Jumps
from flowmaps.tasks import dna_rewards as R
from flowmaps.tasks.dna import DNA
from flowmaps.tasks.steering import reward

SMALL = {"width": 16, "rounds": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dna")
    for k, name in enumerate(("one", "two")):
        x = torch.randint(4, (60 * (k + 1), 30), generator=torch.Generator().manual_seed(k))
        x[:, 10:16] = torch.tensor(D.Bases("ACGT").spell("TATAAA" if k else "GGGCCC"))
        (folder / f"{name}.fa").write_text("".join(f">{i}\n{text}\n" for i, text in enumerate(D.decode(x, "ACGT"))))
    return folder


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(**options):
    torch.manual_seed(0)
    task = DNA("nowhere", **(SMALL | {"conditional": True} | options))
    task.restore({"letters": task.letters, "length": 30, "classes": ["one", "two"], "counts": [48, 96],
                  "given": task.given})  # fmt: skip
    flow_map = task.build_map().eval()
    for parameter in flow_map.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return task, flow_map


@pytest.mark.parametrize("sampler", [Jumps(1), Jumps(3), Euler(2)])
@pytest.mark.parametrize("options", [{}, {"flow_map": VelocityMap}, {"letters": "ACGTN"}])
def test_what_is_given_comes_back(sampler, options):
    task, flow_map = build(**options)
    x = task.sample(flow_map, 5, sampler, seeded(), infill="ac{10}TATA__g")
    assert x.shape == (5, 30) and x.dtype == torch.int64
    for text in D.decode(x, task.letters):
        assert text.startswith("AC") and text[12:16] == "TATA" and text[18] == "G"


def test_n_is_a_free_position_unless_it_is_a_letter():
    task, flow_map = build()
    x = task.sample(flow_map, 20, Jumps(1), seeded(), infill="NNA")
    assert len(x[:, 0].unique()) > 1 and (x[:, 2] == 0).all()
    task, flow_map = build(letters="ACGTN")
    assert (task.sample(flow_map, 3, Jumps(1), seeded(), infill="NA")[:, 0] == 4).all()


def test_classes_are_asked_for_by_name_number_or_share():
    task, flow_map = build()
    assert task.labels(4, "TWO").tolist() == task.labels(4, "1").tolist() == [1] * 4
    assert abs(int((task.labels(300) == 0).sum()) - 100) <= 1 and set(task.labels(4).tolist()) == {0, 1}
    a, b = (task.sample(flow_map, 8, Jumps(1), seeded(), label=name) for name in ("one", "two"))
    assert not torch.equal(a, b)


def test_bad_requests_get_one_clear_line(folder):
    task, flow_map = build()
    plain, other = build(given=False, conditional=False)
    ask = {"n": 2, "sampler": Jumps(1), "generator": seeded()}
    for who, what, options, message in [
        (task, flow_map, {"label": "three"}, "no class 'three'; there are one, two"),
        (plain, other, {"label": "one"}, "unconditional"),
        (plain, other, {"infill": "A"}, "given positions"),
        (task, flow_map, {"infill": "A" * 31}, "31 positions, the sequences 30"),
        (task, flow_map, {"infill": "AXG"}, "cannot say"),
        (task, flow_map, {"n": 0}, "n is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            who.sample(what, **(ask | options))
    for options, message in [({"letters": "ABC"}, "'ACGT' or 'ACGTN'"), ({"drop_label": 2.0}, "drop_label is 2"),
                             ({"motif": "TAZ"}, "letters")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            DNA(**options)
    with pytest.raises(ValueError, match="has no classes"):
        DNA(str(folder / "one.fa"), conditional=True).train_data  # noqa: B018


def test_training_data_hold_both_strands_labels_and_known_positions(folder):
    task = DNA(str(folder), both_strands=True, conditional=True, drop_label=0.5)
    n = len(task.splits.train)
    batch = task.train_data.batch(torch.arange(2 * n))
    x = one_field(batch.x_1)
    assert torch.equal(x[n:], D.reverse_complement(x[:n])) and one_field(batch.condition.known).any()
    assert set(batch.condition.label.tolist()) == {0, 1, 2} and set(task.valid_data.condition.label.tolist()) == {0, 1}
    assert task.state()["counts"] == [48, 96] and task.build_map() is not None


def test_rewards_are_what_they_say(tmp_path):
    task, flow_map = build()
    x = torch.randint(4, (3, 30), generator=seeded())
    x[0, 4:8], x[1, 20:24] = torch.tensor([3, 0, 3, 0]), torch.tensor([3, 0, 3, 0])
    motif = reward(task, "motif:TATA").of_sample(x, 4)
    here = reward(task, "motif:TATA@4").of_sample(x, 4)
    best = 4 * math.log(4 * 0.97)
    assert here[0] == pytest.approx(best, abs=1e-4) and here[1] < here[0] and abs(float(motif[0]) - best) < 1
    (tmp_path / "m.jaspar").write_text(">MA1 TATA\nA [ 0 9 0 9 ]\nC [ 0 0 0 0 ]\nG [ 0 0 0 0 ]\nT [ 9 0 9 0 ]\n")
    same = reward(task, f"pwm:{tmp_path / 'm.jaspar'}@4").of_sample(x, 4)
    assert torch.allclose(same[:2], here[:2], atol=0.15)
    assert reward(task, "matches:TATA").of_sample(x[:2], 4).tolist() == [1, 1]
    assert reward(task, "gc").of_sample(torch.tensor([[0, 1, 2, 3]]), 4).tolist() == [0.5]
    assert reward(task, "gc:0.7").of_sample(torch.tensor([[0, 1, 2, 3]]), 4).tolist() == pytest.approx([-0.2])


@pytest.mark.parametrize(
    ("text", "message"),
    [("A 1 2\nC 1 2\n", "2 rows"), ("1 2\n1\n1 2\n1 2\n", "rows of"), ("1 2\n1 -2\n1 2\n1 2\n", "negative"),
     ("T 1\nA 1\nC 1\nG 1\n", "named TACG")],
)  # fmt: skip
def test_matrices_of_another_form_are_refused(tmp_path, text, message):
    (tmp_path / "m").write_text(text)
    with pytest.raises(ValueError, match=message):
        R.read_matrix(tmp_path / "m")


def test_motifs_that_do_not_fit_are_refused():
    task, _ = build()
    for name in ("motif:TATA@28", "motif:" + "A" * 31):
        with pytest.raises(ValueError, match="does not fit"):
            reward(task, name).of_sample(torch.zeros(1, 30, dtype=torch.int64), 4)
    with pytest.raises(ValueError, match="no share"):
        reward(task, "gc:7")


def test_the_commands_from_training_to_steering(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    train = ["train", "promoters", f"--data.path={folder}", f"--out={run}", "--task.width=16", "--task.rounds=1",
             "--trainer.max_steps=4", "--trainer.batch_size=8", "--trainer.valid_examples=8", "--trainer.curves=false",
             "--trainer.accelerator=cpu"]  # fmt: skip
    assert main(train) == 0
    assert main(["sample", str(run), "--n", "3", "--steps", "1,2", "--label", "two", "--infill", "{10}TATAAA",
                 "--out", str(tmp_path / "x.fa")]) == 0  # fmt: skip
    names = [line for line in (tmp_path / "x.fa").read_text().splitlines() if line.startswith(">")]
    assert names[0] == ">1-step-1 two" and len(names) == 6
    assert all(r.sequence[10:16] == "TATAAA" for r in D.read_sequences(tmp_path / "x.fa"))
    assert main(["evaluate", str(run), "--n", "12", "--steps", "1,2", "--ode", "2", "--profiles"]) == 0
    assert (run / "evaluation" / "profiles.png").stat().st_size > 10_000
    assert "accuracy" in capsys.readouterr().out
    assert main(["steer", str(run), "--reward", "motif:TATAWA", "--particles", "8", "--steps", "2", "--n", "2"]) == 0
    assert main(["steer", str(run), "--reward", "log-class:two", "--particles", "8", "--steps", "2", "--n", "2"]) == 0
    assert main(["score", str(run), "--n", "8"]) == 0


@pytest.mark.filterwarnings("default")
def test_a_grid_is_tuned_by_features_of_validation_sequences(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task = DNA(str(folder), **SMALL)
    aim, valid, test = task.aim(), task.splits.valid, task.splits.test
    assert aim.metric == "frechet" and not aim.rises
    assert aim.measure(one_field(valid.x_1)).value < 1e-6 < aim.measure(one_field(test.x_1)).value
    noise = torch.randint(4, (40, 30), generator=seeded())
    assert aim.measure(noise).value > aim.measure(one_field(test.x_1)).value


def test_the_model_that_comes_with_the_package_designs_around_a_motif(tmp_path):
    """It samples without data, in any number of steps; its classes differ as their data do."""
    assert main(["sample", "promoters", "--n", "16", "--out", str(tmp_path / "x.fa")]) == 0
    assert len(D.read_sequences(tmp_path / "x.fa")) == 16
    model = flowmaps.load("promoters", device="cpu")
    assert sum(path.stat().st_size for path in model.folder.iterdir()) < 2e6 and model.shipped
    x = model.sample(8, steps=2, infill="{168}TATAAAAG", label="human TATA")
    assert x.shape == (8, 251) and all(text[168:176] == "TATAAAAG" for text in D.decode(x, "ACGT"))
    gc = lambda label: float(((x := model.sample(64, label=label)) == 1).logical_or(x == 2).double().mean())  # noqa: E731
    assert gc("human TATA") > 0.45 > 0.4 > gc("Arabidopsis TATA")  # the data have .50 and .34
