"""``flowmaps plan PRESET``"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from jsonargparse import ArgumentParser, Namespace

from ..configuration.parsing import parse
from ..files import write_text
from ..planning.draft import Draft, Machine, Way
from ..reading import Document
from ..train.parallel import SHARDED
from ..train.settings import Hardware
from ..train.strategy import blocks_of
from .config import Experiment, experiment, preset_of, training_parser

HELP = """What a training takes before it begins: weights, operations, memory of a device and time. The objective itself
is run on tensors without memory, so chunks, teachers, derivatives and precision count as they are. Every value can be
overridden by its dotted name, as for `flowmaps train`."""
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15}


def run(arguments: Sequence[str]) -> int:
    p = plan_parser()
    preset = preset_of(p, arguments, "flowmaps plan digits")
    if preset is None:
        return 0
    cfg = parse(p, [f"--config={preset}", *arguments[1:]])
    chosen = experiment(p, cfg)
    draft = draft_of(chosen, machine_of(cfg))
    trainer = chosen.trainer
    draft, way = fitted(draft, trainer["batch_size"]) if cfg.fit else (draft, as_set(draft, trainer))
    found = facts(draft, way, amount("tokens", cfg.tokens) if cfg.tokens else None, trainer["max_steps"])
    found["overrides"] = overrides(draft, way, trainer)
    print(json.dumps(found, indent=2) if cfg.json else "\n".join(told(preset.stem, draft, found)))
    if cfg.out:
        write_text(cfg.out, as_yaml(found["overrides"]))
    return 0


def plan_parser() -> ArgumentParser:
    """Options of the machine beside those of a training."""
    p = training_parser("plan PRESET", HELP)
    p.add_argument("--gpus", type=int, default=1, help="devices that share an update")
    p.add_argument("--memory", type=str, default="80GB", help="of each")
    p.add_argument("--reserve", type=float, default=0.1, help="share of it left to kernels, communication and gaps")
    p.add_argument("--flops", type=str, default="989T", help="operations a second of a device at its best")
    p.add_argument("--utilisation", type=float, default=0.4, help="share of them that the training reaches")
    p.add_argument("--tokens", type=str | None, help="positions to be trained on, such as 2.1T (default: of max_steps)")
    p.add_argument("--fit", action="store_true", help="change what must change so that it fits, and print it")
    p.add_argument("--out", type=str | None, help="file of what was changed, for --config of `flowmaps train`")
    p.add_argument("--json", action="store_true", help="everything as JSON")
    return p


def machine_of(cfg: Namespace) -> Machine:
    """The devices that the options describe."""
    if cfg.gpus < 1:
        raise ValueError(f"gpus is {cfg.gpus}, expected at least 1")
    if not 0 <= cfg.reserve < 1 or not 0 < cfg.utilisation <= 1:
        raise ValueError(f"reserve is {cfg.reserve} and utilisation {cfg.utilisation}, expected shares of 1")
    return Machine(cfg.gpus, amount("memory", cfg.memory), cfg.reserve, amount("flops", cfg.flops), cfg.utilisation)


def amount(name: str, text: str) -> float:
    """A number with a unit.

    >>> amount("memory", "80GB"), amount("memory", "24 GiB"), amount("tokens", "2.1T")
    (80000000000.0, 25769803776.0, 2100000000000.0)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([KMGBTP]?)(I?)B?(?:LOP/?S)?\s*", text.upper())
    if found is None or not float(found[1]) > 0:
        raise ValueError(f"{name} is {text!r}, expected a number above 0 such as 80GB, 24GiB, 989T or 2.1T")
    unit = 2.0 ** (10 * " KMGTP".index(found[2])) if found[3] else UNITS[found[2]]
    return float(found[1]) * unit


def draft_of(chosen: Experiment, machine: Machine) -> Draft:
    """The training of an experiment, on the meta device."""
    outline = chosen.task.outline()
    with torch.device("meta"):
        objective = chosen.objective(outline.build())
    trainer = chosen.trainer
    hardware = Hardware(**{part.name: trainer[part.name] for part in fields(Hardware)})
    averaged = trainer["ema"] is not None
    return Draft(objective.train(), outline.batch, trainer["optimizer"], hardware, averaged, machine)


def as_set(draft: Draft, trainer: Document) -> Way:
    """An update as the settings of the trainer divide it."""
    return draft.way(trainer["batch_size"], trainer["accumulation"], trainer["strategy"] == SHARDED)


def fitted(draft: Draft, batch_size: int) -> tuple[Draft, Way]:
    """An update that fits, if it must with activations that are computed anew.

    Raises: ValueError if the smallest micro-batch does not.
    """
    way = draft.fitted(batch_size)
    if way is None and not draft.hardware.compile and blocks_of(draft.objective):
        draft = draft.lean()
        way = draft.fitted(batch_size)
    if way is None:
        n, micro = draft.machine.devices, draft.least
        times = max(math.ceil(batch_size / (n * micro)), 1)
        taken = draft.way(n * micro * times, times, n > 1).memory.total
        raise ValueError(
            f"a device has room for {draft.machine.room / 1e9:.1f} GB, but {times} micro-batches of {micro} on each of "
            f"{n} take {taken / 1e9:.1f} GB; take more devices or memory, a smaller chunk, a smaller network or a "
            "smaller trainer.batch_size"
        )
    return draft, way


def overrides(draft: Draft, way: Way, trainer: Document) -> dict[str, int | str]:
    """The settings of the trainer that are not as they were."""
    wanted: dict[str, int | str] = {"batch_size": way.batch_size, "accumulation": way.accumulation,
                                    "recompute": draft.hardware.recompute}  # fmt: skip
    if way.sharded != (trainer["strategy"] == SHARDED):
        wanted["strategy"] = SHARDED if way.sharded else "auto"
    return {f"trainer.{name}": value for name, value in wanted.items() if trainer[name] != value}


def as_yaml(changes: Mapping[str, object]) -> str:
    """Dotted names as a document that a configuration takes."""
    import yaml

    document: Document = {}
    for name, value in changes.items():
        *path, last = name.split(".")
        place = document
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return yaml.safe_dump(document)


def facts(draft: Draft, way: Way, tokens: float | None, steps: int) -> Document:
    """A plan in plain values: bytes, operations, seconds."""
    machine, trace, positions = draft.machine, draft.trace(way.micro), draft.positions()
    update = way.batch_size * positions
    wanted, rate = tokens or float(steps * update), draft.rate(way)
    return {
        "parameters": draft.parameters(), "examples": way.batch_size, "positions": positions,
        "devices": machine.devices, "accumulation": way.accumulation, "micro_batch": way.micro,
        "sharded": way.sharded,
        "operations_a_position": draft.operations(way), "forward_share": trace.forward / trace.flops,
        "operations_an_update": draft.operations(way) * update,
        "memory": {**way.memory._asdict(), "total": way.memory.total}, "room": machine.room, "fits": draft.fits(way),
        "positions_a_second": rate, "seconds_an_update": update / rate,
        "updates": math.ceil(wanted / update), "positions_in_all": wanted, "days": wanted / rate / 86400,
    }  # fmt: skip


def told(name: str, draft: Draft, found: Document) -> list[str]:
    """A plan for people."""
    machine = draft.machine
    split = ", ".join(f"{part} {short(n)}" for part, n in found["parameters"].items() if n and part != "all")
    spread = "in shards (fsdp2)" if found["sharded"] else "whole on each device"
    shares = f"{found['devices']:,} x {found['accumulation']:,} micro-batches of {found['micro_batch']:,}"
    memory = {part: size for part, size in found["memory"].items() if size}
    rows = [
        ("parameters", f"{found['parameters']['all']:,}: {split}"),
        ("update", f"{found['examples']:,} examples of {found['positions']:,} positions: {shares}"),
        ("weights", spread),
        ("operations", f"{short(found['operations_a_position'])} a position ({found['forward_share']:.0%} of them in "
                       f"the forward pass), {short(found['operations_an_update'])} an update"),
        ("memory, GB", ", ".join(f"{part} {size / 1e9:.3g}" for part, size in memory.items())),
        ("", f"{'fits' if found['fits'] else 'does NOT fit'} in {machine.memory / 1e9:.1f} GB, of which "
             f"{machine.reserve:.0%} stay free" + ("" if found["fits"] else "; --fit finds settings that do")),
        ("speed", f"{short(found['positions_a_second'])} positions a second, {found['seconds_an_update']:.3g} s an "
                  f"update, at {machine.utilisation:.0%} of {short(machine.speed)} operations a second"),
        ("training", f"{found['updates']:,} updates, {short(found['positions_in_all'])} positions: "
                     f"{found['days']:.3g} days"),
    ]  # fmt: skip
    if found["overrides"]:
        rows.append(("changed", " ".join(f"--{name}={value}" for name, value in found["overrides"].items())))
    return [
        f"{name} on {machine.devices} device{'s' * (machine.devices > 1)}",
        *(f"{title:12}{text}" for title, text in rows),
    ]


def short(number: float) -> str:
    """Three digits and a unit.

    >>> short(1734139409), short(12), short(4.92e10)
    ('1.73 G', '12', '49.2 G')
    """
    unit = next((unit for unit in "PTGMK" if number >= UNITS[unit]), "")
    return f"{number / UNITS[unit]:.3g} {unit}".strip()
