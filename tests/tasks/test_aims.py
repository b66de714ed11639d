"""What grids are tuned for, and who decides: fresh noise, its error, and the guards."""

import pytest
import torch

from flowmaps.metrics.text import Measure, mean
from flowmaps.samplers.grids import TimeGrid
from flowmaps.tasks.aims import Aim
from flowmaps.tasks.images import Images
from flowmaps.tasks.points import Points
from flowmaps.tasks.text import Text
from flowmaps.tasks.tuning import Tuner, stream
from identities.cases import randomised, seeded


def ink(samples) -> Measure:
    return mean(samples.flatten(1).double().mean(1).numpy())


class Inky(Images):
    """Digits whose grid is chosen by their ink."""

    guards: dict = {}

    def aim(self) -> Aim:
        return Aim("ink", ink, rises=True, guards=self.guards, n=48)


class Guarded(Inky):
    guards = {"ink": ink}


class Constant(Inky):
    def aim(self) -> Aim:
        return Aim("nothing", lambda samples: Measure(1.0, 0.0), guards={}, n=16)


@pytest.fixture(scope="module")
def flow_map():
    """A map of digits whose jumps depend on their times, for it is random."""
    return randomised(Images(width=8, lower=(8,), heads=2).build_map(), scale=1.0).float().eval()


def test_a_gain_beyond_its_error_is_kept(flow_map):
    told = []
    found = Tuner(Inky(), flow_map, "metric", told=told.append)(2)
    record = found.record
    assert not found.equal and record["value"] > record["uniform"] and record["n"] == 48 and record["guards"] == {}
    assert {one.samples for one in told} == {12, 24, 48} and all(one.whole == (one.samples == 48) for one in told)
    again = Tuner(Inky(), flow_map, "metric")
    assert again(2) == found and again(4).grid.steps == 4
    with torch.no_grad():
        fresh = [ink(Inky().sample(flow_map, 200, grid.sampler(), seeded(1))).value
                 for grid in (found.grid, TimeGrid.uniform(2))]  # fmt: skip
    assert fresh[0] > fresh[1], "on noise that the tuning never saw"


def test_a_gain_that_a_guard_pays_is_not(flow_map):
    found = Tuner(Guarded(), flow_map, "metric")(2)
    assert found.equal and found.record["guards"]["ink"]["value"] == found.record["guards"]["ink"]["uniform"]


def test_where_nothing_is_gained_steps_stay_equal(flow_map):
    found = Tuner(Constant(), flow_map, "both")(2)
    assert found.equal and found.record["value"] == found.record["uniform"] == 1 and found.record["by"] == "both"


def test_the_path_alone_needs_no_aim(flow_map):
    found = Tuner(Images(), flow_map, "path", n=16)(3)
    assert found.record["metric"] == "path" and found.record["value"] <= found.record["uniform"]
    assert found.grid.overshoot == 0 and found.record["n"] == 16


def test_no_user_draws_the_noise_of_a_tuning():
    seeds = {stream(seed, purpose) for seed in range(50) for purpose in ("search", "decide", "path")}
    assert len(seeds) == 150 and all(seed >= 2**63 for seed in seeds)
    draws = {tuple(torch.randn(2, generator=seeded(seed)).tolist()) for seed in range(200)}
    assert not draws & {tuple(torch.randn(2, generator=torch.Generator().manual_seed(seed)).tolist()) for seed in seeds}


def test_images_are_compared_with_the_validation_part():
    task = Images()
    aim, valid, test = task.aim(), task.splits.valid.x_1, task.splits.test.x_1
    assert aim.metric == "frechet" and not aim.rises
    assert aim.measure(valid).value < 1e-6 < aim.measure(test).value
    noise = torch.randint(0, 17, valid.shape, generator=seeded())
    assert aim.measure(noise).value > 5 * aim.measure(test).value and aim.measure(noise).error > 0


def test_points_by_their_density_or_by_validation_points(tmp_path):
    known = Points(size=64, held_out=16)
    aim = known.aim()
    assert (aim.metric, aim.n) == ("kl", 50_000)
    assert aim.measure(known.real(4000)).value < aim.measure(known.real(4000) * 0.5).value
    rows = torch.randn(400, 2, generator=seeded())
    (tmp_path / "table.csv").write_text("a,b\n" + "\n".join(f"{a},{b}" for a, b in rows.tolist()))
    table = Points(path=str(tmp_path / "table.csv"))
    aim = table.aim()
    assert aim.metric == "energy"
    assert aim.measure(table.real(200)).value < aim.measure(table.real(200) + 1).value


def test_words_of_letters_guarded_by_entropy_and_perplexity_of_subwords(tmp_path):
    (tmp_path / "book.txt").write_text("the quick brown fox jumps over the lazy dog and runs away " * 200)
    task = Text(source=str(tmp_path / "book.txt"), length=32, n=8, cache=str(tmp_path))
    aim = task.aim()
    assert aim.metric == "word_validity" and aim.rises and aim.n == 8
    real = task.splits.test.batch(torch.arange(4)).x_1
    noise = torch.randint(0, task.tokeniser.size, real.shape, generator=seeded())
    assert aim.measure(real).value > 0.9 > aim.measure(noise).value
    repeated = real[:1, :1].expand_as(real)
    held_out = task.splits.valid.batch(torch.arange(4)).x_1
    for guard in ("entropy_lacking", "distinct_3_lacking"):
        assert aim.guards[guard](repeated).value > 0 == aim.guards[guard](held_out).value
    assert aim.guards["entropy_lacking"](noise).value == 0  # more than the text has is no collapse


@pytest.mark.filterwarnings("always:.*rows stay", "ignore::DeprecationWarning")
def test_molecules_by_validity_guarded_by_their_distance(tmp_path):
    pytest.importorskip("rdkit")
    pytest.importorskip("fcd")
    from flowmaps.tasks.molecules import Molecules

    rows = ["C" * (k % 5 + 1) + "O" * (k // 25 % 2) + "C" * (k // 5 % 5) + "N" * (k // 50) for k in range(100)]
    (tmp_path / "my.csv").write_text("\n".join(["smiles", *rows]))
    task = Molecules(source=str(tmp_path / "my.csv"), cache=str(tmp_path))
    aim, N, C = task.aim(), task.alphabet.size, task.alphabet.atoms.index("C")
    sample = {"atoms": torch.full((3, N), -1), "bonds": torch.zeros(3, N, N, dtype=torch.long)}
    sample["atoms"][:, :2] = C
    sample["bonds"][:2, 0, 1] = sample["bonds"][:2, 1, 0] = 1  # two of ethane, one of two methanes
    assert aim.metric == "valid_connected" and aim.rises
    assert aim.measure(sample).value == pytest.approx(2 / 3)
    assert aim.guards["fcd"](sample).value > 1 and aim.guards["fcd"](sample).error == pytest.approx(0, abs=1e-6)


def test_without_data_molecules_have_no_guard(tmp_path):
    pytest.importorskip("rdkit")
    import flowmaps
    from flowmaps.tasks.molecules import Molecules

    task = Molecules(path=str(tmp_path), cache=str(tmp_path))
    task.restore(flowmaps.load("qm9", "cpu").task.state())
    with pytest.warns(UserWarning, match="grids are not guarded by FCD: "):
        assert not task.aim().guards
