"""Known distributions of the plane and tables of numbers."""

import gzip
import math

import numpy as np
import pytest
import torch

from flowmaps.data.points import Checkerboard, Drawn, PointData, Ring, Units, drawn, table, uniforms
from flowmaps.data.points_table import read_table
from flowmaps.reading import VARIABLE

KNOWN = [Checkerboard(), Checkerboard(squares=2, half_width=1.0), Checkerboard(squares=6), Ring(), Ring(3, 1.0, 0.5)]
PLAIN = Units([0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("known", KNOWN, ids=repr)
def test_points_have_the_density_they_say(known):
    """The share of every cell of a grid is its exact mass, within 5 standard errors."""
    n, bins = 200_000, 12
    x, p = known.sample(n, seed=1), known.mass(bins)
    assert p.shape == (bins, bins) and abs(float(p.sum()) - 1) < 1e-6
    cell = ((x + known.half_width) * (bins / (2 * known.half_width))).floor().long().clamp(0, bins - 1)
    found = torch.bincount(cell[:, 0] * bins + cell[:, 1], minlength=bins * bins).reshape(bins, bins) / n
    assert bool(((found - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-6).all())


@pytest.mark.parametrize("known", KNOWN, ids=repr)
def test_modes_moments_and_centre(known):
    x = known.sample(100_000, seed=2)
    mode = known.mode(x)
    assert float((mode < 0).double().mean()) < 5e-4
    share = torch.bincount(mode[mode >= 0], minlength=known.modes) / len(x)
    assert len(share) == known.modes and torch.allclose(share, torch.tensor(1 / known.modes), atol=5e-3)
    assert torch.allclose(x.mean(0), torch.zeros(2).double(), atol=0.03)
    assert torch.allclose(x.std(0), torch.full((2,), known.deviation).double(), rtol=0.01)
    assert (known.mode(torch.full((1, 2), 100.0)) == -1).all()


def test_neighbouring_squares_are_empty():
    board = Checkerboard()
    assert board.mode(torch.tensor([[-1.9, -1.9], [-1.9, -0.9], [1.9, 1.9], [1.9, 0.9]])).tolist() == [0, -1, 7, -1]


def test_uniforms_are_uniform_and_a_function_of_their_place():
    u = uniforms(5, torch.arange(50_000), 3)
    assert u.dtype == torch.float64 and 0 <= float(u.min()) and float(u.max()) < 1
    assert torch.allclose(u.mean(0), torch.full((3,), 0.5).double(), atol=0.01)
    assert torch.allclose(u.T.cov(), torch.eye(3).double() / 12, atol=2e-3)
    later = torch.stack([u[:-1, 0], u[1:, 0]]).corrcoef()[0, 1]
    assert abs(float(later)) < 0.02
    assert torch.equal(uniforms(5, torch.tensor([7, 3]), 3), u[[7, 3]])
    assert len({float(uniforms(seed, torch.tensor([0]), 1)) for seed in range(1000)}) == 1000
    far = uniforms(2**62, torch.tensor([2**40]), 2)
    assert bool(((far >= 0) & (far < 1)).all())


def test_drawn_points_do_not_depend_on_order_and_parts_differ():
    splits = drawn(Checkerboard(), 1000, 100, seed=3)
    whole = splits.train.batch(torch.arange(1000)).x_1
    assert whole.dtype == torch.float32 and whole.shape == (1000, 2)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(splits.train.batch(order).x_1, whole[order])
    again, other = drawn(Checkerboard(), 1000, 100, seed=3), drawn(Checkerboard(), 1000, 100, seed=4)
    assert torch.equal(again.train.batch(order).x_1, whole[order])
    firsts = [data.batch(torch.arange(50)).x_1 for s in (splits, other) for data in (s.train, s.valid, s.test)]
    assert all(not torch.isin(a, b).any() for i, a in enumerate(firsts) for b in firsts[:i])
    prints = {data.fingerprint() for s in (splits, again, other) for data in (s.train, s.valid, s.test)}
    assert len(prints) == 6
    assert drawn(Ring(), 1000, 100, seed=3).train.fingerprint() not in prints
    assert torch.allclose(whole.std(0), torch.ones(2), atol=0.05), "points have unit variance"


def test_units_go_there_and_back():
    x = torch.tensor([[1e9, 3.0], [1e9 + 1, 3.0], [1e9 + 2, 3.0]], dtype=torch.float64)
    units = Units.of(x)
    assert units.deviation[1] == 1.0, "a constant coordinate keeps its unit"
    data = PointData(x, units)
    assert torch.allclose(data.batch(torch.arange(3)).x_1.std(0, correction=0), torch.tensor([1.0, 0.0]))
    assert torch.allclose(units.original(data.batch(torch.arange(3)).x_1), x, rtol=0, atol=1e-6)
    assert Units.of(torch.full((1000, 1), 0.1, dtype=torch.float64)).deviation == [1.0], "rounding is no change"
    for large in ([[1e200], [-1e200]], [[1.5e308], [1.5e308]]):
        with pytest.raises(ValueError, match="too large to be squared"):
            Units.of(torch.tensor(large, dtype=torch.float64))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Checkerboard(squares=3), "squares is 3"),
        (lambda: Checkerboard(half_width=math.inf), "half_width is inf"),
        (lambda: Checkerboard().mass(30), "bins is 30, expected a multiple of the 4"),
        (lambda: Ring(modes=0), "modes is 0"),
        (lambda: Ring(spread=0.0), "spread 0"),
        (lambda: Drawn(Ring(), 0, 0, "train", PLAIN), "size is 0"),
        (lambda: PointData(torch.zeros(0, 2), PLAIN), "at least one row"),
        (lambda: PointData(torch.tensor([[math.nan, 0.0]]), PLAIN), "finite"),
    ],
)
def test_impossible_settings_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()


TABLES = {
    "plain": "1,2\n3,4\n",
    "header": "a,b\n1,2\n3,4\n",
    "windows": "\ufeffa;b\r\n1;2\r\n\r\n3;4",
    "tabs": "1\t2\n3\t4\n",
    "spaces": "# x y\n  1.0   2e0\n 3 4.\n",
    "quoted": '"a, first",b\n"1",2\n3," 4"\n',
    "signs": "+1,2.0E+0\n3.,.4e1\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_people_write_them(name, tmp_path):
    (tmp_path / "my.csv").write_text(TABLES[name], encoding="utf-8", newline="")
    found = read_table(tmp_path / "my.csv")
    assert found.numbers.tolist() == [[1, 2], [3, 4]] and found.numbers.dtype == np.float64
    assert found.names == {"header": ["a", "b"], "windows": ["a", "b"], "quoted": ["a, first", "b"]}.get(
        name, ["x1", "x2"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no row of numbers"),
        ("a,b\n", "holds no row of numbers"),
        ("# nothing\n\n", "holds no row of numbers"),
        ("1,2\n3\n", "line 2 has 1 cells where the first row has 2"),
        ("1,2\n\n3,4,5\n", "line 3 has 3 cells"),
        ("1,2\n3,\n", "line 2, column 2 is ''"),
        ("1,2\n3,four\n", "line 2, column 2 is 'four', expected a number"),
        ("1,x\n3,4\n", "line 1, column 2 is 'x'"),
        ("a,b\nc,d\n1,2\n", "line 2, column 1 is 'c'"),
        ("1;2,5\n3;4\n", "'2,5', expected a number; write it with a decimal point"),
        ("1,nan\n", "'nan', expected a finite number"),
        ("1,2\n-inf,2\n", "line 2, column 1 is '-inf'"),
        ("1,1e999\n", "'1e999', expected a finite number"),
        ("1_000,2\n", "'1_000', expected a number"),
        ("1,0x10\n", "'0x10'"),
    ],
)
def test_broken_tables_name_line_and_cell(text, said, tmp_path):
    (tmp_path / "my.csv").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        read_table(tmp_path / "my.csv")
    assert "my.csv" in str(error.value)


def test_tables_may_be_packed_and_are_limited(tmp_path, monkeypatch):
    rows = "\n".join(f"{i},{i / 7}" for i in range(1000))
    with gzip.open(tmp_path / "my.csv.gz", "wt") as file:
        file.write(rows)
    assert read_table(tmp_path / "my.csv.gz").numbers[999].tolist() == [999, 999 / 7]
    (tmp_path / "long.csv").write_text("1 " * 2**20)
    with pytest.raises(ValueError, match="more than 1,048,576 characters"):
        read_table(tmp_path / "long.csv")
    monkeypatch.setattr("flowmaps.data.points_table.OFTEN", 10)
    monkeypatch.setattr("flowmaps.data.points_table.check_size", lambda what, size: _refuse(size))
    with pytest.raises(MemoryError):
        read_table(tmp_path / "my.csv.gz")
    with pytest.raises(ValueError, match="does not exist"):
        read_table(tmp_path / "none.csv")


def _refuse(size: int) -> None:
    if size > 1000:
        raise MemoryError(VARIABLE)


def test_a_table_is_split_and_standardised_by_its_training_part(tmp_path):
    x = np.random.RandomState(0).randn(200, 3) * [1, 10, 1e-5] + [5, 0, 1]
    np.savetxt(tmp_path / "my.txt", x)
    splits = table(tmp_path / "my.txt")
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [140, 20, 40]
    batch = splits.train.batch(torch.arange(140)).x_1
    assert torch.allclose(batch.mean(0), torch.zeros(3), atol=1e-4) and torch.allclose(
        batch.std(0), torch.ones(3), atol=0.01
    )
    rows = torch.cat([part.original(200) for part in (splits.train, splits.valid, splits.test)])
    assert sorted(rows[:, 0].tolist()) == sorted(x[:, 0].tolist())
    assert splits.known is None and splits.names == ["x1", "x2", "x3"]
    (tmp_path / "few.csv").write_text("1,2\n3,4\n")
    with pytest.raises(ValueError, match=r"few.csv: 2 data cannot fill 3 parts"):
        table(tmp_path / "few.csv")
