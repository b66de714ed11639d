"""Scoring texts row by row: what the file says, and that an interrupted scoring goes on."""

import json
import math
import os

import pytest

from flowmaps.cli.score import named
from flowmaps.cli.score_rows import PART, ROWS, SETTINGS


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"it was the {'best' * (i % 3)} of ", "answer": "times"[: 1 + i % 5]} for i in range(80)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_texts_are_scored_by_row(words, tell, tmp_path):
    (tmp_path / "book.txt").write_text("The age of wisdom! " * 30)
    code, out, err = tell("score", words, "--data", tmp_path / "book.txt", "--bounds", "B1,B3,B4", "--steps", 4,
                          "--context", 4, "--draws", 4, "--out", tmp_path / "s")  # fmt: skip
    assert code == 0, err
    assert "bits per character" in out
    rows, told = records(tmp_path / "s" / ROWS), json.loads((tmp_path / "s" / "metrics.json").read_text())
    assert [row["row"] for row in rows] == list(range(told["rows"]))
    assert (
        sum(row["tokens"] for row in rows) == told["tokens"] == told["characters"] == len("the age of wisdom ") * 30 - 1
    )
    assert all(row["B1"] <= row["B3"] for row in rows)
    for name in ("B1", "B3", "B4"):
        bound = told["bounds"][name]
        total = sum(row[name] for row in rows)
        assert bound["nats"] * told["rows"] == pytest.approx(total)
        assert bound["bits_per_character"] == pytest.approx(total / told["characters"] / math.log(2))
        assert bound["perplexity"] == pytest.approx(math.exp(total / told["tokens"]))
        assert bound["bits_per_character_error"] > 0
    code, _, err = tell("score", words, "--data", tmp_path / "book.txt", "--out", tmp_path / "s")
    assert code == 2 and "is there already" in err


def test_held_out_text_is_scored_by_row(words, tell, tmp_path):
    assert tell("score", words, "--n", 4, "--draws", 2, "--importance", "false", "--out", tmp_path)[0] == 0
    assert len(records(tmp_path / ROWS)) == 4


def test_an_interrupted_scoring_goes_on(words, tell, tmp_path, pairs):
    options = ("--draws", 2, "--batch", 6)
    assert tell("score", words, "--data", pairs, *options, "--out", tmp_path / "whole")[0] == 0
    good, stamp = pairs.read_bytes(), os.stat(pairs).st_mtime_ns
    pairs.write_bytes(good[:-3] + b"??\n")  # the last line is none, and found when it is reached
    os.utime(pairs, ns=(stamp, stamp))
    code, _, err = tell("score", words, "--data", pairs, *options, "--out", tmp_path / "cut")
    assert code == 2 and "line 80" in err
    done = records(tmp_path / "cut" / PART)
    assert 0 < len(done) < 80 and not (tmp_path / "cut" / ROWS).exists()
    with open(tmp_path / "cut" / PART, "a") as file:
        file.write('{"row": 7')  # as a kill leaves it
    pairs.write_bytes(good)
    os.utime(pairs, ns=(stamp, stamp))
    code, _, err = tell("score", words, "--data", pairs, *options, "--seed", 3, "--out", tmp_path / "cut")
    assert code == 2 and "interrupted scoring with other settings" in err
    code, _, err = tell("score", words, "--data", pairs, *options, "--out", tmp_path / "cut")
    assert code == 0 and f"goes on after {len(done)} rows" in err
    assert not (tmp_path / "cut" / PART).exists() and not (tmp_path / "cut" / SETTINGS).exists()
    whole, again = (records(tmp_path / name / ROWS) for name in ("whole", "cut"))
    assert again[: len(done)] == done and [row["row"] for row in again] == list(range(80))
    assert [row["B1"] for row in again] == pytest.approx([row["B1"] for row in whole], rel=1e-4)
    told = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "cut")]
    assert told[0]["bounds"]["B1"]["nats"] == pytest.approx(told[1]["bounds"]["B1"]["nats"], rel=1e-4)


def test_rows_of_one_prompt_are_one_example(words, tell, tmp_path):
    path = tmp_path / "same.jsonl"
    answers = [{"prompt": "it was ", "answer": answer} for answer in ("best", "worst", "best")]
    path.write_text("\n".join(map(json.dumps, answers)))
    code, _, err = tell("score", words, "--data", path, "--draws", 2, "--out", tmp_path / "s")
    assert code == 2 and "of different prompts" in err
    rows = records(tmp_path / "s" / PART)
    assert rows[0]["B1"] == rows[2]["B1"] != rows[1]["B1"], "a score is a function of the row and the seed"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--bounds", "B7"), "expected some of B1, B2, B3, B4"),
        (("--draws", "0"), "draws is 0"),
        (("--data", "nowhere.jsonl"), "nowhere.jsonl: No such file"),
        (("--context", "16"), "context is 16, expected 0 to 15"),
    ],
)
def test_mistakes(words, tell, options, said):
    code, _, err = tell("score", words, *options)
    assert code == 2 and said in err


def test_other_modalities_read_no_file(trained, tell, tmp_path):
    code, _, err = tell("score", trained, "--data", "mine.txt", "--out", tmp_path)
    assert code == 2 and "Images cannot score with a file; leave it out" in err


def test_bounds_by_name():
    assert [bound.symbol for bound in named("b1, B4,B2", 3, 5)] == ["B1", "B4", "B2"]
    assert named("B4", 3, 5)[0].draws == 5
