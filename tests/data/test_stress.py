"""Shards that are made, and epochs that are trained, by processes that are killed hold every token once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data.stress import BATCH, NUMBERS, PIECES, pieces
from flowmaps.data.text_shards import Shards
from train.toys import environment


@pytest.mark.slow
def test_no_token_is_lost_or_repeated(tmp_path):
    """``tests/train/test_sharded.py`` does so with ten shards."""
    shards, kills = 1000, 6
    command = [sys.executable, str(Path(__file__).with_name("stress.py")), str(tmp_path), str(shards), str(kills)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    check_shards(tmp_path / "shards", shards)
    check_epochs(tmp_path, shards, kills)


def check_shards(folder: Path, shards: int) -> None:
    made = Shards(folder)
    assert len(made.hashes) == shards == len(list(folder.glob("*.bin")))
    assert made.tokeniser.decode(made.read(0, len(made))) == "".join(pieces(shards))


def check_epochs(folder: Path, shards: int, kills: int) -> None:
    lives = json.loads((folder / "lives.json").read_text())
    assert len(lives) == kills + 1 and lives[-1]["begun"] > 0
    given: dict[int, list[int]] = {}  # the numbers of each update, by the last life that made it
    for life, told in enumerate(lives):
        files = sorted(folder.glob(f"life-{life}-*"))
        assert len(files) == told["processes"]
        rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        parts = 6 // told["processes"]
        for update in range(max(map(len, rows)) // parts):
            made_by = [row[update * parts : (update + 1) * parts] for row in rows]
            given[told["begun"] + update + 1] = [n for part in made_by for batch in part for n in batch]
    numbers, each = range(shards * PIECES * NUMBERS), shards * PIECES * NUMBERS // BATCH
    assert sorted(given) == list(range(1, 2 * each + 1))
    for epoch in range(2):
        seen = Counter(n for update in range(epoch * each, (epoch + 1) * each) for n in given[update + 1])
        assert seen == Counter(numbers)
    assert given[1] != given[each + 1]
