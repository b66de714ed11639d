"""The tables of evaluate: headlines first, modes with their marks, and the lost ones in words."""

from flowmaps.cli.tables import show
from flowmaps.metrics.modes import Measure, flat
from flowmaps.metrics.tables import lost_modes, markdown, tables

SAME, MORE, GONE = Measure(0.15, 0.004), Measure(0.3, 0.005), Measure(0.01, 0.001)


def row(fcd, a, b):
    return {"fcd": fcd, "fcd_error": 0.1, "weight": 2.0, **flat({"aromatic": a, "acid": b, "nitro": Measure(0, 0.01)})}


ROWS = {"1": row(3.0, GONE, MORE), "4": row(2.0, SAME, SAME), "data": row(0.5, SAME, SAME)}


def test_headlines_modes_and_the_rest():
    first, modes, rest = tables(ROWS, ("fcd",))
    assert first.lines == [("fcd", ["3 ± 0.1", "2 ± 0.1", "0.5 ± 0.1"])] and not first.below
    assert rest.lines == [("weight", ["2", "2", "2"])]
    assert modes.lines == [  # without nitro groups, which neither has
        ("aromatic", ["0.01 ± 0.001 <<", "0.15 ± 0.004", "0.15 ± 0.004"]),
        ("acid", ["0.3 ± 0.005 >", "0.15 ± 0.004", "0.15 ± 0.004"]),
    ]
    assert modes.below[1:] == ["lost in 1 step: aromatic"]
    assert lost_modes(ROWS) == {"1": ["aromatic"], "4": []}
    assert [table.title for table in tables(ROWS)] == ["", "modes"]


def test_without_loss_and_without_data():
    alike = tables({name: ROWS[name] for name in ("4", "data")})[1]
    assert alike.below[1:] == ["no mode is lost"]
    alone = tables({"1": ROWS["1"]})[1]
    assert alone.below == [] and alone.lines[0] == ("aromatic", ["0.01 ± 0.001"])


def test_the_terminal_and_the_card_say_the_same(capsys):
    show(ROWS, "here", ("fcd",))
    out, card = capsys.readouterr().out, "\n".join(markdown(ROWS, ("fcd",)))
    assert out.index("fcd") < out.index("aromatic") < out.index("weight")
    for text in ("0.01 ± 0.001 <<", "0.3 ± 0.005 >"):
        assert text in out and text in card
    assert "lost in 1 step: aromatic" in out and "Lost in 1 step: aromatic" in card
