"""Scoring row by row into a file that an interruption leaves as it is, to go on with."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..files import write_json
from ..hub import Model
from ..likelihood import Estimate, Moments, Row, RowScore, Scorer
from ..reading import Document, read_json
from .checkpoints import origin, place_of, results

ROWS = "scores.jsonl"
PART, SETTINGS = "scores.part.jsonl", "scores.part.json"  # of a scoring that is under way


class Tally:
    """Sums over rows; rows of one group that follow each other are one example, since they share their noise.

    Arguments:
        symbols: Of the bounds.
        K: Categories.
    """

    def __init__(self, symbols: Iterable[str], K: int):
        self.K, self.rows = K, 0
        self.totals = {"tokens": 0, "characters": 0}
        self.moments = {(symbol, per): Moments() for symbol in symbols for per in self.totals}
        self._group, self._open = None, dict[str, float]()

    def add(self, record: Document) -> None:
        """One more line of the file."""
        if record["group"] != self._group:
            self._close()
        self._group, self.rows = record["group"], self.rows + 1
        for name in self.totals:
            self.totals[name] += record[name]
        for name in {*self.totals, *(symbol for symbol, _ in self.moments)}:
            self._open[name] = self._open.get(name, 0.0) + record[name]

    def _close(self) -> None:
        if self._open:
            for (symbol, per), moments in self.moments.items():
                moments.add(self._open[symbol], self._open[per])
        self._group, self._open = None, {}

    def estimates(self, per: str) -> dict[str, Estimate]:
        """The mean bound of each symbol.

        Raises: ValueError if there are not two examples, or nothing was scored.
        """
        self._close()
        found = {symbol: moments for (symbol, what), moments in self.moments.items() if what == per}
        if any(moments.n < 2 or not moments.p for moments in found.values()):
            raise ValueError(
                f"{self.rows} rows with {self.totals[per]} {per} to score, expected two rows at least for an error: "
                "of different prompts, or of none"
            )
        return {symbol: Estimate.of_moments(m, m.p / m.n * math.log(self.K)) for symbol, m in found.items()}

    def of_characters(self, symbol: str) -> dict[str, float]:
        """Bits per character, with its error."""
        estimate = self.estimates("characters")[symbol]
        return {"bits_per_character": estimate.bits_per_position, "bits_per_character_error": estimate.bits_error}

    def counts(self) -> dict[str, int]:
        return {"rows": self.rows, **self.totals}


def record_of(number: int, score: RowScore) -> Document:
    """A row as its line in the file: nats, with the Monte Carlo error of the row alone."""
    row = score.row
    group = sha256(row.group.encode(errors="surrogatepass")).hexdigest()[:12]
    values = {"row": number, "group": group, "tokens": row.tokens, "characters": row.characters}
    for symbol in score.parts:
        values |= {symbol: round(score.nats(symbol), 6), f"{symbol}_error": round(score.error(symbol), 6)}
    return values


def score_rows(
    scorer: Scorer, rows: Iterable[Row], directory: Path, settings: Document, total: int | None = None
) -> Tally:
    """Score rows into ``scores.jsonl``, after those that an interrupted scoring of the same settings left."""
    tally = Tally([bound.symbol for bound in scorer.bounds], scorer.K)
    path, source = directory / PART, iter(rows)
    done = list_whole(path) if (directory / SETTINGS).exists() else 0
    write_json(directory / SETTINGS, settings)
    with progress(total) as bar, open(path, "a+" if done else "w+", encoding="utf-8") as file:
        file.seek(0)
        for line in file:
            tally.add(json.loads(line))
        job = bar.add_task("scoring", total=total, completed=done)
        if done:
            print(f"{directory} goes on after {done} rows", file=sys.stderr)
        for number, score in enumerate(scorer(islice(source, done, None)), done):
            record = record_of(number, score)
            tally.add(record)
            file.write(json.dumps(record) + "\n")
            file.flush()
            bar.advance(job)
    tally.estimates("tokens")
    os.replace(path, directory / ROWS)
    (directory / SETTINGS).unlink()
    return tally


def list_whole(path: Path) -> int:
    """The number of whole lines of a file, whose last one a kill may have cut short; what is left of it is removed."""
    if not path.exists():
        return 0
    with open(path, "rb+") as file:
        count, end = 0, 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            count, end = count + 1, end + len(line)
        file.truncate(end)
    return count


def progress(total: int | None) -> Progress:
    """A bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def unfinished(cfg: Namespace, opened: Model, scorer: Scorer, n: int | None) -> tuple[Path, Document]:
    """The folder of an interrupted scoring with the same settings, or a new one; and the settings.

    Raises: ValueError if the folder that ``--out`` names has one with others.
    """
    settings = settings_of(cfg, opened, scorer, n)
    for place in candidates(cfg, opened):
        if cfg.overwrite:
            (place / SETTINGS).unlink(missing_ok=True)
            (place / PART).unlink(missing_ok=True)
        elif read_json(place / SETTINGS) == settings:
            return place, settings
        elif cfg.out:
            raise ValueError(
                f"{place} has an interrupted scoring with other settings; give them again to go on with it, choose "
                "another --out, or add --overwrite"
            )
    return results(cfg, opened, "score"), settings


def candidates(cfg: Namespace, opened: Model) -> Iterator[Path]:
    """Folders in which a scoring was interrupted."""
    place = place_of(cfg, opened, "score")
    folders = [place] if cfg.out else [place, *sorted(place.parent.glob(f"{place.name}-*"))]
    return (folder for folder in folders if (folder / SETTINGS).is_file())


def settings_of(cfg: Namespace, opened: Model, scorer: Scorer, n: int | None) -> Document:
    """Everything that scores depend on, as JSON values."""
    sums = opened.folder / "SHA256SUMS"
    data = None
    if cfg.data:
        found = Path(cfg.data).stat()
        data = [str(Path(cfg.data).resolve()), found.st_size, found.st_mtime_ns]
    bounds = [
        [b.symbol, b.draws, b.end(scorer.flow_map), [round(share, 9) for share in b.proposal.cells.tolist()]]
        for b in scorer.bounds
    ]
    weights = sha256(sums.read_bytes()).hexdigest() if sums.is_file() else str(origin(opened))
    return {"weights": weights, "data": data, "seed": cfg.seed, "bounds": bounds, "context": cfg.context, "n": n}
