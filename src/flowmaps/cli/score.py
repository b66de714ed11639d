"""``flowmaps score CHECKPOINT``"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from math import isfinite
from pathlib import Path

import torch
from jsonargparse import Namespace

from ..configuration.parsing import parse
from ..files import write_json, write_text
from ..hub import Model
from ..likelihood import Averaged, Bound, CrossEntropyOnly, CutOff, Estimate, Grid, OwnScore, Proposal, Row, Scorer
from ..maps import EndpointMap
from ..train.logs import finite
from .checkpoints import check_out, checkpoint_parser, open_checkpoint, origin, results
from .score_rows import ROWS, Tally, score_rows, unfinished

HELP = """Upper bounds on the negative log-likelihood under a checkpoint, with standard errors: B1, and B3 which needs
the cross-entropy alone, side by side. Of held-out data, or of --data: a text, or a .jsonl file with {"text": ...} or
{"prompt": ..., "answer": ...} a line. Texts are scored row by row into scores.jsonl; after an interruption the same
command goes on where it stopped. Normalising flows and autoencoders have a likelihood of their own, exact or with its
own bound, and score rows of a table of angles, frames of a molecule, or images into scores.jsonl, too.
Examples: flowmaps score runs/novels --data book.txt --bounds B1,B3,B4; flowmaps score runs/flow --data angles.csv"""
HELD_OUT = 1024  # rows, unless --n says otherwise


def run(arguments: Sequence[str]) -> int:
    p = checkpoint_parser("score", HELP)
    p.add_argument(
        "--data",
        type=str | None,
        help="to score instead of held-out data: text, .jsonl; table, frames, images of a flow",
    )
    p.add_argument("--bounds", default="B1,B3", help="B1, B2, B3, B4, separated by commas")
    p.add_argument("--bound", type=Bound | None, help="one bound instead: CutOff, Averaged, CrossEntropyOnly or Grid")
    p.add_argument("--draws", type=int, default=8, help="points of the integral over u for each row, stratified")
    p.add_argument("--steps", type=int, default=16, help="steps of B4")
    p.add_argument("--importance", type=bool, default=True, help="for texts, draw u where the map's integrand is large; false: uniformly")  # fmt: skip  # noqa: E501
    p.add_argument("--context", type=int, default=0, help="tokens before a window that are given to it, in texts longer than one")  # fmt: skip  # noqa: E501
    p.add_argument("--batch", type=int, default=128, help="states of one network evaluation of texts")
    p.add_argument("--n", type=int | None, help=f"rows at most (default: all of --data, {HELD_OUT} of held-out data)")
    cfg = parse(p, arguments)
    if cfg.n is not None and cfg.n < 2:
        raise ValueError(f"n is {cfg.n}, expected at least 2 for an error")
    bound = p.instantiate(cfg).bound
    named(cfg.bounds, cfg.draws, cfg.steps)  # refused before anything is loaded
    opened = open_checkpoint(cfg)
    check_out(cfg, opened.task, ROWS)
    most = cfg.n or (None if cfg.data else HELD_OUT)
    own = cfg.context == 0 and opened.task.own_likelihood(
        opened.flow_map, opened.generator(cfg.seed), bound, most, cfg.data
    )
    if own:
        return exactly(cfg, opened, own)
    rows = opened.task.scored(cfg.data, cfg.context)  # refused where nothing but held-out data can be scored
    if not isinstance(opened.flow_map, EndpointMap):
        raise ValueError(f"{opened.folder} holds a {type(opened.flow_map).__name__}; the bounds need an EndpointMap")
    with torch.no_grad():
        return by_row(cfg, opened, opened.flow_map, rows, bound)


def by_row(
    cfg: Namespace, opened: Model, flow_map: EndpointMap, rows: Iterator[Row] | None, bound: Bound | None
) -> int:
    """Score row by row where the modality can, else held-out data as a whole."""
    if rows is None:
        bounds = [bound] if bound is not None else named(cfg.bounds, cfg.draws, cfg.steps)
        found = {
            b.symbol: opened.task.likelihood(flow_map, opened.generator(cfg.seed), b, cfg.n or HELD_OUT) for b in bounds
        }
        return as_whole(cfg, opened, found)
    proposal = opened.task.proposal(flow_map, opened.generator(cfg.seed)) if cfg.importance else Proposal()
    bounds = [bound] if bound is not None else named(cfg.bounds, cfg.draws, cfg.steps, proposal)
    n = cfg.n or (None if cfg.data else HELD_OUT)
    scorer = Scorer(flow_map, bounds, cfg.seed, cfg.batch)
    directory, settings = unfinished(cfg, opened, scorer, n)
    tally = score_rows(scorer, islice(rows, n), directory, settings, total=n)
    found = tally.estimates(per="tokens")
    values = {name: as_numbers(estimate) | tally.of_characters(name) for name, estimate in found.items()}
    told = {**origin(opened), "seed": cfg.seed, "data": cfg.data, **tally.counts(), "bounds": values}
    return finish(directory, told, found, tally, rows=True)


def exactly(cfg: Namespace, opened: Model, own: OwnScore) -> int:
    """Write and print what rows score by a map that needs no bounds."""
    found, columns = {own.name: own.estimate()}, {"nats": own.nats, **own.columns}
    directory = results(cfg, opened, "score")
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    records = (finite({"row": i, **dict(zip(columns, row, strict=True))}) for i, row in enumerate(rows))
    write_text(directory / ROWS, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
    told = {**origin(opened), "seed": cfg.seed, "data": cfg.data, "rows": len(own.nats)}
    values = {name: as_numbers(estimate) for name, estimate in found.items()}
    return finish(directory, {**told, "bounds": values}, found, rows=True)


def as_whole(cfg: Namespace, opened: Model, found: dict[str, Estimate]) -> int:
    """Write and print what held-out data score as a whole."""
    values = {name: as_numbers(estimate) for name, estimate in found.items()}
    return finish(results(cfg, opened, "score"), {**origin(opened), "seed": cfg.seed, "bounds": values}, found)


def named(names: str, draws: int, steps: int, proposal: Proposal | None = None) -> list[Bound]:
    """Bounds by their symbols.

    Raises: ValueError if one is unknown.
    """
    makers = {
        "B1": lambda: CutOff(draws=draws, proposal=proposal),
        "B2": lambda: Averaged(draws=draws, proposal=proposal),
        "B3": lambda: CrossEntropyOnly(draws=draws, proposal=proposal),
        "B4": lambda: Grid(steps),
    }
    symbols = list(dict.fromkeys(part.strip().upper() for part in names.split(",")))
    for symbol in symbols:
        if symbol not in makers:
            raise ValueError(f"bounds are {names!r}, expected some of {', '.join(makers)}, separated by commas")
    return [makers[symbol]() for symbol in symbols]


def finish(
    directory: Path, told: dict[str, object], found: dict[str, Estimate], tally: Tally | None = None, rows: bool = False
) -> int:
    """Write ``metrics.json`` and print the table; ``rows`` says whether there is a file of rows beside."""
    write_json(directory / "metrics.json", finite(told))
    show(found, tally)
    written = [directory / ROWS] * rows + [directory / "metrics.json"]
    print("wrote " + ", ".join(map(str, written)))
    return 0


def as_numbers(estimate: Estimate) -> dict[str, float]:
    """An estimate as ``metrics.json`` has it; a vacuous one is no better than a uniform distribution.

    Densities of numbers have no perplexity.
    """
    perplexity = {"perplexity": estimate.perplexity, "perplexity_error": estimate.perplexity_error}
    return {
        "nats": estimate.nats,
        "nats_error": estimate.error,
        "bits_per_position": estimate.bits_per_position,
        "bits_per_position_error": estimate.bits_error,
        **(perplexity if isfinite(estimate.uniform) else {}),
        "n": estimate.n,
        "vacuous": estimate.vacuous,
    }


def show(found: dict[str, Estimate], tally: Tally | None = None) -> None:
    from rich.console import Console
    from rich.table import Table

    categories = all(isfinite(estimate.uniform) for estimate in found.values())
    keys = ["nats", "bits_per_position", *["bits_per_character"] * (tally is not None), *["perplexity"] * categories]
    table = Table("bound", *(key.replace("_", " ") for key in keys), "data", "")
    for name, estimate in found.items():
        v = as_numbers(estimate) | (tally.of_characters(name) if tally else {})
        pairs = [f"{v[key]:.4g} ± {v[key + '_error']:.2g}" for key in keys]
        table.add_row(name, *pairs, str(estimate.n), "vacuous" if estimate.vacuous else "")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if any(estimate.vacuous for estimate in found.values()):
        print("vacuous: no better than a uniform distribution over the categories")
