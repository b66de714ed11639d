"""``flowmaps score CHECKPOINT``"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..configuration.parsing import parse
from ..files import write_json
from ..likelihood import Bound, CrossEntropyOnly, CutOff, Estimate
from ..maps import EndpointMap
from ..train.logs import finite
from .checkpoints import check_out, checkpoint_parser, open_checkpoint, origin, results

HELP = """Upper bounds on the negative log-likelihood of held-out data, with standard errors: B1, and B3 which needs the
cross-entropy alone, side by side."""


def run(arguments: Sequence[str]) -> int:
    p = checkpoint_parser("score", HELP)
    p.add_argument("--bound", type=Bound | None, help="one bound instead: CutOff, Averaged, CrossEntropyOnly or Grid")
    p.add_argument("--n", type=int, default=1024, help="held-out data, at most")
    cfg = parse(p, arguments)
    if cfg.n < 2:
        raise ValueError(f"n is {cfg.n}, expected at least 2 for an error")
    bound = p.instantiate(cfg).bound
    opened = open_checkpoint(cfg)
    check_out(cfg, opened.task)
    if not isinstance(opened.flow_map, EndpointMap):
        raise ValueError(f"{opened.folder} holds a {type(opened.flow_map).__name__}; the bounds need an EndpointMap")
    found = {}
    for b in [bound] if bound is not None else [CutOff(), CrossEntropyOnly()]:
        with torch.no_grad():
            estimate = opened.task.likelihood(opened.flow_map, opened.generator(cfg.seed), b, cfg.n)
        found[b.symbol] = estimate
    directory = results(cfg, opened, "score")
    values = {name: as_numbers(estimate) for name, estimate in found.items()}
    write_json(directory / "metrics.json", finite({**origin(opened), "seed": cfg.seed, "bounds": values}))
    show(found)
    print(f"wrote {directory / 'metrics.json'}")
    return 0


def as_numbers(estimate: Estimate) -> dict[str, float]:
    """An estimate as ``metrics.json`` has it; a vacuous one is no better than a uniform distribution."""
    perplexity = estimate.perplexity
    return {
        "nats": estimate.nats,
        "nats_error": estimate.error,
        "bits_per_position": estimate.bits_per_position,
        "bits_per_position_error": estimate.bits_error,
        "perplexity": perplexity,
        "perplexity_error": estimate.perplexity_error,
        "n": estimate.n,
        "vacuous": estimate.vacuous,
    }


def show(found: dict[str, Estimate]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("bound", "nats", "bits per position", "perplexity", "data", "")
    for name, estimate in found.items():
        v = as_numbers(estimate)
        pairs = [f"{v[key]:.4g} ± {v[key + '_error']:.2g}" for key in ("nats", "bits_per_position", "perplexity")]
        table.add_row(name, *pairs, str(estimate.n), "vacuous" if estimate.vacuous else "")
    Console().print(table)
    if any(estimate.vacuous for estimate in found.values()):
        print("vacuous: no better than a uniform distribution over the categories")
