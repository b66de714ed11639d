"""``flowmaps export CHECKPOINT FOLDER``"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..configuration.parsing import parse
from ..hub import Model
from ..reading import Document
from ..train import export
from ..train.checkpoint import GRIDS
from ..train.grids import as_document
from .checkpoints import checkpoint_parser, open_checkpoint
from .tables import markdown

HELP = """Keep what sampling needs of a checkpoint: averaged weights, configuration, and a card with what was measured
(of `flowmaps evaluate`, if it was run). Every command takes the folder in the place of a run."""
OF_ONE_MACHINE = ("path", "cache")  # settings that mean nothing elsewhere


def run(arguments: Sequence[str]) -> int:
    p = checkpoint_parser("export", HELP)
    p.add_argument("folder", type=str, help="where to write; its name is the model's")
    p.add_argument("--half", action="store_true", help="write weights in half precision, in half the space")
    p.add_argument("--note", type=str | None, help="a file of Markdown that the card begins with")
    cfg = parse(p, arguments)
    place = Path(cfg.folder)
    if place.exists():
        raise ValueError(f"{place} is there already; choose another folder, or remove it")
    note = None if cfg.note is None else Path(cfg.note).read_text(encoding="utf-8")
    opened = open_checkpoint(cfg)
    if lacking := [name for name in ("step", "seconds", "seed") if opened.state.get(name) is None]:
        raise ValueError(f"{opened.folder} does not say its {', '.join(lacking)}; export a checkpoint of a training")
    config = portable(opened.config)
    state = {name: opened.state.get(name) for name in ("step", "epoch", "seconds", "seed", "precision", "versions")}
    documents: Document = {"README.md": card(place.name, opened, config, measured(opened.folder), note)}
    documents |= {GRIDS: as_document(opened.grids)} if opened.grids else {}
    export(place, opened.flow_map, config, state, documents, cfg.half)
    size = sum(path.stat().st_size for path in place.iterdir())
    print(f"wrote {place}: {size / 1e6:.1f} MB; draw from it by `flowmaps sample {place}`")
    return 0


def portable(config: Document) -> Document:
    """A configuration without the paths of the machine that trained it."""
    result = copy.deepcopy(dict(config))
    settings = result["task"].setdefault("init_args", {})
    settings |= {name: None for name in OF_ONE_MACHINE if name in settings}
    learned = result.get("objective", {}).get("init_args") or {}
    if learned.get("base"):  # the run of a first stage, of which the name is enough
        learned["base"] = Path(learned["base"]).name
    return result


def measured(folder: Path) -> Document | None:
    """What `flowmaps evaluate` last wrote about the run of a checkpoint."""
    parent = folder.absolute().parent
    found = (parent.parent if parent.name == "checkpoint" else parent).glob("evaluation*/metrics.json")
    newest = max(found, key=lambda file: file.stat().st_mtime_ns, default=None)
    return None if newest is None else json.loads(newest.read_text(encoding="utf-8"))


def card(name: str, opened: Model, config: Document, found: Document | None, note: str | None) -> str:
    """What the model is, how to draw from it, how it was trained, and its numbers."""
    state, task = opened.state, config["task"]["init_args"]
    parameters = sum(parameter.numel() for parameter in opened.flow_map.parameters())
    versions = ", ".join(f"{key} {value}" for key, value in state.get("versions", {}).items())
    lines = [f"# {name}", "", note.strip() + "\n" if note else None]
    lines += ["```console", f"flowmaps sample {name} --n 16", "```", ""]
    lines += [
        f"A flow map of {parameters:,} parameters, float32, averaged weights; data: {task.get('source', 'its own')}. "
        f"{state['step']:,} updates in {state['seconds']:,.0f} s, seed {state['seed']}; {versions}.",
        "",
    ]
    if found:
        lines += [
            f"## {found['n']:,} samples a row, seeds {found['seeds']}",
            "",
            *markdown(found["by_steps"], opened.task.headlines),
            "",
        ]
    settings = yaml.safe_dump({key: config.get(key) for key in ("task", "objective", "trainer")}, sort_keys=False)
    lines += ["## Settings", "", "```yaml", settings.rstrip(), "```", ""]
    return "\n".join(line for line in lines if line is not None)
