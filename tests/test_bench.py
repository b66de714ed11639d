"""What the comparisons share."""

from pathlib import Path

import pytest

from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import MLP
from flowmaps.objectives import Eulerian, Lagrangian, LagrangianCE, SemigroupKL
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from flowmaps.times import FullJump
from train.toys import Signalling, trainer


def test_an_interrupted_training_is_refused_and_a_whole_one_is_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    from records import Interrupted, require_whole

    require_whole(trainer(tmp_path / "whole").fit())
    stopped = trainer(tmp_path / "stopped", data=Signalling(3)).fit()
    with pytest.raises(Interrupted, match=f"SIGTERM ended a training after {stopped.step} updates"):
        require_whole(stopped)


def test_conclusions_stay_when_a_table_is_written_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    from records import remarks

    page = tmp_path / "page.md"
    assert remarks(page) == ""
    page.write_text("# Table\n\nold\n\n## What it says\n\nNothing.\n")
    page.write_text("# Table\n\nnew\n" + remarks(page))
    assert page.read_text() == "# Table\n\nnew\n\n## What it says\n\nNothing.\n"
    page.write_text("# Table\n\nnothing yet\n")
    assert remarks(page) == ""


def test_full_jumps_are_for_identities_that_ask_something_of_them(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    from records import jumps

    endpoint, velocity = (kind(GeodesicPath(OneHot(3)), MLP((2, 3), 4, 1)) for kind in (EndpointMap, VelocityMap))
    pairs = [(Lagrangian(), endpoint), (LagrangianCE(), endpoint), (Lagrangian(), velocity), (Eulerian(), endpoint),
             (SemigroupKL(), endpoint), (None, endpoint)]  # fmt: skip
    found = [isinstance(jumps(identity, flow_map, 0.1), FullJump) for identity, flow_map in pairs]
    assert found == [False, False, True, True, True, True]


def test_a_record_keeps_rows_that_are_not_made_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    from records import Record, origins

    def table(result):
        cells = [f"{row['objective']} {row['seed']}: {row['valid']}" for row in result["rows"]]
        return f"{origins(result)}\n" + "\n".join(cells) + "\n"

    out = tmp_path / "table"
    first = Record(out, {"seconds": 2}, table)
    first.made = {"date": "2026-01-02", "commit": "abc"}
    for objective, seed in (("LSD", 0), ("LSD", 1), ("ECLD", 0)):
        first.add({"objective": objective, "seed": seed, "valid": 0.5})
    page = out.with_suffix(".md")
    page.write_text(page.read_text() + "\n## What it says\n\nNothing.\n")
    again = Record(out, {"seconds": 2}, table)
    again.made = {"date": "2026-01-03", "commit": "def"}
    again.add({"objective": "ECLD", "seed": 0, "valid": 0.75})
    head, said = page.read_text().split("\n## What it says\n")
    assert said == "\nNothing.\n"
    assert head.splitlines()[2:] == [
        "- 2026-01-02 (code of abc), seed 0, 1: LSD", "- 2026-01-03 (code of def), seed 0: ECLD",
        "LSD 0: 0.5", "LSD 1: 0.5", "ECLD 0: 0.75",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"rows of \{'seconds': 2\}, expected \{'seconds': 3\}; name another file"):
        Record(out, {"seconds": 3}, table)
