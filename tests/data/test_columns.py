"""Columns out of tables with texts: which are taken, what is refused, and that no row is lost."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps.data.columns import read_columns
from flowmaps.data.earth import CATALOGUES, earth, latitudes, places, unit_vectors
from flowmaps.data.sources import data_folder
from flowmaps.data.torsions import RNA, angles, radians, torsions
from flowmaps.spaces.torus import wrapped


def write(tmp_path, text: str):
    path = tmp_path / "my.csv"
    path.write_text(text, encoding="utf-8")
    return path


CATALOGUE = 'time,Latitude (deg),LON,depth,place\n2020,10.5,-170,33,"7 km E of A, B"\n2021,-90,359.5,,\n'


def test_columns_are_found_by_name_beside_texts_and_quoted_commas(tmp_path):
    found = places(write(tmp_path, CATALOGUE))
    assert found.names == ["Latitude (deg)", "LON"] and found.left_out == []
    assert found.numbers.tolist() == [[10.5, -170.0], [-90.0, 359.5]]


@pytest.mark.parametrize("columns", ["latitude,lon", "2,3", "Latitude (deg), lon"])
def test_columns_by_name_or_number(tmp_path, columns):
    assert places(write(tmp_path, CATALOGUE), columns).numbers[0].tolist() == [10.5, -170.0]


def test_both_ways_to_count_longitudes_are_one(tmp_path):
    east = places(write(tmp_path, "lat;lng\n10;350\n10;190\n")).numbers
    west = places(write(tmp_path, "lat;lng\n10;-10\n10;-170\n")).numbers
    assert torch.allclose(unit_vectors(torch.from_numpy(east)), unit_vectors(torch.from_numpy(west)))


@pytest.mark.parametrize(("text", "said"), [
    ("1,2\n90.5,3\n", r"1 of 2 rows are damaged \(line 2: latitude is 90.5, expected -90 to 90\)"),
    ("1,2\n3,361\n", "line 2: longitude is 361, expected -180 to 180 or 0 to 360"),
    ("lat,lon\n1,\n", "line 2: lon is '', expected a number"),
    ("lat,lon\n1,2\nx,3\n", "line 3: lat is 'x', expected a number"),
    ("lat,lon\n1,2\n4,nan\n", "line 3: lon is 'nan', expected a finite number"),
    ("lat,lon\n1,2\n1,2,3\n", "line 3: it has 3 cells where the first row has 2"),
    ("lat,lon\n\"1,5\",2\n", "line 2: lat is '1,5', expected a number; write it with a decimal point"),
    ("a,b,c\n1,2,3\n", "its columns are a, b, c, of which not one each is latitude and longitude"),
    ("lat,latitude,lon\n1,2,3\n", "not one each"),
    ("1,2,3\n", "3 columns without names"),
    ("# nothing\n", "holds no row"),
])  # fmt: skip
def test_what_is_refused_and_what_is_said(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        places(write(tmp_path, text))


def test_columns_that_are_not_there(tmp_path):
    path = write(tmp_path, CATALOGUE)
    with pytest.raises(ValueError, match="no column 'lattitude'; its columns are time, Latitude"):
        places(path, "lattitude,lon")
    with pytest.raises(ValueError, match="expected latitude and longitude"):
        places(path, "lon")
    with pytest.raises(ValueError, match="no column '9'; its columns are 1 to 2, without names"):
        angles(write(tmp_path, "1,2\n"), "1,9")


def test_damaged_rows_are_counted_and_may_be_left_out(tmp_path):
    path = write(tmp_path, "lat,lon\n" + "".join(f"{i},{'x' if i % 2 else i}\n" for i in range(20)))
    with pytest.raises(ValueError, match=r"10 of 20 rows are damaged \(line 3: .*and 5 more\); mend.*--task.skip true"):
        places(path)
    with pytest.warns(UserWarning, match="10 of 20 rows are damaged .*; they are left out"):
        found = places(path, skip=True)
    assert len(found.numbers) == len(found.left_out) == 10 and found.numbers[:, 0].tolist() == list(range(0, 20, 2))
    with pytest.raises(ValueError, match="and none is left"):
        places(write(tmp_path, "lat,lon\nx,y\n"), skip=True)


CELL = st.one_of(
    st.floats(-400, 400).map(lambda x: f"{x:.6g}"), st.sampled_from(["", "NA", "12.5", "-7", "nan", "1e999"])
)


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_every_row_is_read_or_told(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "my.csv"
    path.write_text("lat,lon\n" + "".join(f"{a},{b}\n" for a, b in rows))
    good = [i for i, (a, b) in enumerate(rows) if _is_place(a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not good:
            with pytest.raises(ValueError, match="none is left"):
                places(path, skip=True)
            return
        found = places(path, skip=True)
    assert found.numbers.tolist() == [[float(cell) for cell in rows[i]] for i in good]
    told = [int(text.removeprefix("line ").split(":")[0]) - 2 for text in found.left_out]
    assert sorted(told + good) == list(range(len(rows)))


def _is_place(a: str, b: str) -> bool:
    try:
        return abs(float(a)) <= 90 and -180 <= float(b) <= 360
    except ValueError:
        return False


def test_degrees_and_unit_vectors_are_inverse():
    degrees = torch.tensor(
        [[0.0, 0.0], [90.0, 0.0], [-45.0, -135.0], [12.5, 179.9], [1e-7, -1e-7]], dtype=torch.float64
    )
    x = unit_vectors(degrees)
    assert torch.allclose(x.norm(dim=1), torch.ones(5).double()) and torch.allclose(latitudes(x), degrees, atol=1e-12)
    assert torch.allclose(unit_vectors(torch.tensor([0.0, 90.0])), torch.tensor([0.0, 1.0, 0.0]).double(), atol=1e-15)


def test_angles_are_those_columns_that_begin_with_a_number(tmp_path):
    path = write(tmp_path, "1abc\tG\t-69.5\t530\n2def\tA\t0\t-181\n")
    assert angles(path).names == ["x3", "x4"]
    x = radians(torch.from_numpy(angles(path).numbers))
    assert torch.allclose(x, torch.tensor([[-69.5, 170.0], [0.0, 179.0]]).double() * math.pi / 180)
    with pytest.raises(ValueError, match="no number"):
        angles(write(tmp_path, "a,b\nc,d\n"))
    with pytest.raises(ValueError, match="1e\\+07 is no angle"):
        angles(write(tmp_path, "1,2\n3,1e7\n"))
    with pytest.raises(ValueError, match="line 2: x is 'G'"):
        angles(write(tmp_path, "x\nG\n"), "x")


def test_radians_are_asked_about(tmp_path):
    text = "phi,psi\n" + "".join(f"{math.sin(i)},{math.cos(i)}\n" for i in range(30))
    path = write(tmp_path, text)
    with pytest.warns(UserWarning, match="--task.unit radians"):
        in_degrees = torsions(str(path))
    in_radians = torsions(str(path), unit="radians")
    assert torch.allclose(in_degrees.train.original(9) * (180 / math.pi), in_radians.train.original(9))
    with pytest.raises(ValueError, match="unit is 'turns'"):
        torsions(str(path), unit="turns")


def test_a_chooser_that_refuses_names_the_file(tmp_path):
    def choose(names, row):
        raise ValueError("not these")

    with pytest.raises(ValueError, match="my.csv: not these"):
        read_columns(write(tmp_path, "1\n"), choose, lambda values: None)


COUNTS = {"volcano": 827, "earthquake": 6120, "flood": 4875, "fire": 12809}  # fire has one line that is a comment


@pytest.mark.parametrize("name", CATALOGUES)
def test_the_catalogues(name):
    file = data_folder("earth") / CATALOGUES[name][0]
    if not file.exists():
        pytest.skip(f"{file} is not there")
    found = earth(name)
    sizes = [len(part) for part in found[:3]]
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert sum(sizes) == len(lines) - any("lat" in line.lower() for line in lines[:1])
    assert abs(sum(sizes) - COUNTS[name]) <= 3 and abs(sizes[0] / sum(sizes) - 0.8) < 0.01
    assert torch.allclose(found.train.original(99).norm(dim=1), torch.ones(99).double())


@pytest.mark.parametrize(("name", "rows", "names"), [("rna", 9478, RNA), ("protein", 204_995, ["phi", "psi"])])
def test_the_torsions(name, rows, names):
    if not data_folder("torsions").exists():
        pytest.skip("no torsions")
    found = torsions(name)
    assert found.names == names and sum(len(part) for part in found[:3]) == rows
    assert float(found.train.original(10**6).abs().max()) <= math.pi + 1e-9
    assert np.isfinite(found.test.original(10).numpy()).all()
    assert torch.allclose(wrapped(found.train.original(9) + 2 * math.pi), found.train.original(9))
