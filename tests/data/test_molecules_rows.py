"""Tables of SMILES as people keep them: any delimiter, encoding and line end; a damaged row costs itself alone."""

import gzip

import pytest

pytest.importorskip("rdkit")

from flowmaps.data.molecules import molecules
from flowmaps.data.molecules_graph import Unreadable, encode
from flowmaps.data.molecules_rows import read_smiles


def lines(*rows):
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "column", "want"),
    [
        ("a.txt", lines("CCO", "", "C#N"), None, ["CCO", "C#N"]),
        ("a.smi", lines("CCO ethanol", "C#N\tcyanide"), None, ["CCO", "C#N"]),
        ("a.csv", lines("smiles", "CCO", "C#N"), None, ["CCO", "C#N"]),
        ("a.csv", lines("id,SMILES,y", '1,CCO,"2,3"', "2,C#N,4"), None, ["CCO", "C#N"]),
        ("a.csv", lines("id,structure", "1,CCO", "2,C#N"), "Structure", ["CCO", "C#N"]),
        ("a.csv", lines("7,CCO", "8,C#N"), 1, ["CCO", "C#N"]),
        ("a.csv", lines("molecule", "CCO"), None, ["CCO"]),
        ("a.csv", 'smiles,logP\n"CCO\n",5.05\n"C#N\n",3.1\n', None, ["CCO", "C#N"]),
        ("a.tsv", lines("id\tsmiles", "1\tCCO", "2"), None, ["CCO", ""]),
        ("A.CSV", lines("id,smiles", "1,CCO", "2,C#N"), None, ["CCO", "C#N"]),
        ("a.csv", lines("id;smiles;logp", "1;CCO;2,3", "2;C#N;0,5"), None, ["CCO", "C#N"]),
        ("a.csv", lines("7;CCO", "8;C#N"), 1, ["CCO", "C#N"]),
        ("a.csv", lines("sep=;", "smiles;name", "CCO;a, b", "C#N;c, d"), None, ["CCO", "C#N"]),
        ("a.csv", lines("name\tsmiles", "ethyl alcohol\tCCO", "cyanide\tC#N"), None, ["CCO", "C#N"]),
        ("a.tsv", lines("name,smiles", "foo,CCO", "bar,C#N"), None, ["CCO", "C#N"]),
        ("a.txt", lines("smiles,logp", "CCO,1.2", "C#N,0"), None, ["CCO", "C#N"]),
        ("a.txt", lines("name\tsmiles", "ethyl alcohol\tCCO", "cyanide\tC#N"), None, ["CCO", "C#N"]),
        ("a.csv", lines("id,canonical_smiles", "1,CCO", "2,C#N"), None, ["CCO", "C#N"]),
        ("a.csv", lines("2,1,smiles", "x,CCO,O", "y,C#N,N"), "1", ["CCO", "C#N"]),
        ("a.csv", "smiles,name\rCCO,a\rC#N,b\r", None, ["CCO", "C#N"]),
        ("a.tsv", "smiles\tname\r\nCCO\ta\rC#N\tb\n", None, ["CCO", "C#N"]),
        ("a.csv", "\ufeffsmiles,name\nCCO,a\nC#N,b\n", None, ["CCO", "C#N"]),
        ("a.csv", lines("name,smiles", '"2,3-diol, ""pure""",CCO', 'x, "C#N"'), None, ["CCO", "C#N"]),
        ("a.csv", lines("smiles,blob", "CCO," + "x" * 200_000, "C#N,y"), None, ["CCO", "C#N"]),
        ("a.csv", lines("blob,smiles", f'"{"x," * 100_000}",CCO', '"",C#N'), None, ["CCO", "C#N"]),
        ("a.smi", lines("C(C", "CCO", "C#N"), None, ["C(C", "CCO", "C#N"]),
    ],
)
def test_files_of_any_shape(tmp_path, name, content, column, want):
    (tmp_path / name).write_bytes(content.encode())
    (tmp_path / f"{name}.GZ").write_bytes(gzip.compress(content.encode()))
    (tmp_path / f"16-{name}").write_bytes(content.encode("utf-16"))
    for written in (name, f"{name}.GZ", f"16-{name}"):
        assert [text for _, text in read_smiles(tmp_path / written, column)] == want, written


ROWS = ["C" * (k % 12 + 1) + "O" * (k % 3) for k in range(168)]


@pytest.mark.parametrize("stray", ['CCN,"open', '"CCN,n', 'CCN,"a" b', "CCN,\"''\"x", '"""CCN,n', 'CCN,"a\\"b"'])
@pytest.mark.parametrize("places", [(23,), (23, 24), (23, 90), (0, 5, 90, 166), (167,)])
def test_a_stray_quotation_mark_costs_its_own_row(tmp_path, stray, places):
    rows = [stray if k in places else f"{text},n" for k, text in enumerate(ROWS)]
    (tmp_path / "a.csv").write_text(lines("smiles,name", *rows))
    read = read_smiles(tmp_path / "a.csv")
    assert len(read) == 168 and [line for line, _ in read] == list(range(2, 170))
    assert [text for k, (_, text) in enumerate(read) if k not in places] == [
        text for k, text in enumerate(ROWS) if k not in places]  # fmt: skip
    for k in places:
        with pytest.raises(Unreadable, match="quotation mark"):
            encode(read[k][1])


def test_quoted_cells_may_go_over_lines_that_are_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text(
        'smiles,note\nCCO,"first, line\n\nsecond, ""line""\nthird"\nC#N,"x\ny"\n"CCC\n",z\n'
    )
    assert read_smiles(tmp_path / "a.csv") == [(2, "CCO"), (6, "C#N"), (8, "CCC")]


def test_a_row_whose_smiles_may_have_moved_is_left_out(tmp_path):
    """A comma in a name that is not quoted: neither cell can be believed."""
    (tmp_path / "a.csv").write_text(lines("name,smiles", "ethanol,CCO", "N,C,CCN", "x,CC,"))
    texts = [text for _, text in read_smiles(tmp_path / "a.csv")]
    assert texts == ["CCO", "N,C,CCN", "CC"]
    with pytest.raises(Unreadable, match="more cells than the header"):
        encode(texts[1])


def test_line_numbers_are_those_of_the_file(tmp_path):
    (tmp_path / "a.csv").write_text(lines("smiles", "CCO", "", "C#N"))
    assert [number for number, _ in read_smiles(tmp_path / "a.csv")] == [2, 4]


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [("", None, "holds no row"), ("a,b\n", "c", "no column 'c'; its first row is 'a', 'b'"),
     ("a,b\n", 2, "no column 2"),
     (" \n\r\n\t\n", None, "holds no row"), ("smiles\n", None, "a header and no row"), ("C\n", "\u00b2", "no column"),
     ("C\0C\n", None, "zero byte"), ("a,b\n", -1, "no column -1"), (b"C\0\n\0" * 9, None, "zero byte"),
     ("x_smiles,y_smiles\nC,C\n", None, "several columns of SMILES"),
     ("smiles\n\xb5".encode("latin-1"), None, "UTF-8")],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, content, column, message):
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_smiles(tmp_path / "a.csv", column)


def test_folders_and_bombs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder, expected a regular file"):
        read_smiles(tmp_path)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"\n" * 5_000_000))
    with pytest.raises(ValueError, match="as rows needs at least .* more than the limit"):
        read_smiles(tmp_path / "bomb.csv.gz")
    (tmp_path / "one.txt").write_text(lines("C" * 1000, *["CO", "CN"] * 1100))
    with pytest.raises(ValueError, match="bonds of 2,201 molecules, padded to the 1,000 atoms.*max_atoms"):
        molecules(tmp_path / "one.txt", cache=tmp_path, processes=1)
