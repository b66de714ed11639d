"""A model as it is given away: weights, configuration, and a card that says what it is and how good."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ..metrics.tables import markdown
from ..reading import Document
from ..train import export
from ..train.checkpoint import GRIDS, run_of
from ..train.grids import as_document

if TYPE_CHECKING:
    from .models import Model

OF_ONE_MACHINE = ("path", "cache")  # settings that mean nothing elsewhere


def write(model: Model, place: Path, half: bool = False, note: str | None = None, licence: str | None = None) -> Path:
    """A folder with the averaged weights of a model, its configuration, grids and card, each with its checksum.

    Raises: ValueError if there is something at ``place``, or the checkpoint is none of a training.
    """
    if place.exists():
        raise ValueError(f"{place} is there already; choose another folder, or remove it")
    if lacking := [name for name in ("step", "seconds", "seed") if model.state.get(name) is None]:
        raise ValueError(f"{model.folder} does not say its {', '.join(lacking)}; export a checkpoint of a training")
    config = portable(model.config)
    state = {name: model.state.get(name) for name in ("step", "epoch", "seconds", "seed", "precision", "versions")}
    documents: Document = {"README.md": card(place.name, model, config, measured(model.folder), note, licence)}
    documents |= {GRIDS: as_document(model.grids)} if model.grids else {}
    return export(place, model.flow_map, config, state, documents, half)


def portable(config: Document) -> Document:
    """A configuration without the paths of the machine that trained it."""
    result = copy.deepcopy(dict(config))
    settings = result["task"].setdefault("init_args", {})
    settings |= {name: None for name in OF_ONE_MACHINE if name in settings}
    # the name is enough of files of data, judges, runs of first stages and folders of trajectories
    result |= {part: _named(result[part]) for part in ("task", "objective") if part in result}
    if "command" in result:
        result["command"] = re.sub(r"(?<=[\s=])['\"]?/[^\s'\"]*/([^\s/'\"]+)['\"]?", r"\1", str(result["command"]))
    return result


def _named(settings: object) -> object:
    """Settings with names in the place of absolute paths."""
    if isinstance(settings, Mapping):
        return {name: _named(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_named(value) for value in settings]
    return Path(settings).name if isinstance(settings, str) and Path(settings).is_absolute() else settings


def measured(folder: Path) -> Document | None:
    """What `flowmaps evaluate` last wrote about the run of a checkpoint."""
    found = (run_of(folder) or folder.absolute().parent).glob("evaluation*/metrics.json")
    newest = max(found, key=lambda file: file.stat().st_mtime_ns, default=None)
    return None if newest is None else json.loads(newest.read_text(encoding="utf-8"))


def card(
    name: str, model: Model, config: Document, found: Document | None, note: str | None, licence: str | None = None
) -> str:
    """What the model is, how to draw from it, how it was trained, and its numbers; first what a hub reads."""
    licence = licence or ("apache-2.0" if model.shipped else "unknown")
    modality = type(model.task).__name__.lower()
    head = {"license": licence, "library_name": "flowmaps", "tags": ["flowmaps", "flow-map", "few-step", modality]}
    lines = ["---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", ""]
    if note is None and found is None and (before := _before(model.folder)):
        return "\n".join([*lines, before])
    lines += [f"# {name}", "", *([note.strip(), ""] if note else [])]
    lines += ["```python", "import flowmaps", "", f'model = flowmaps.from_pretrained("{name}")  # or "owner/{name}"']
    lines += ["samples = model.sample(16, steps=4, seed=0)", "```", ""]
    lines += ["```console", f"flowmaps sample {name} --n 16", "```", "", *_training(model, config), *_grids(model)]
    if found:
        lines += [f"## {found['n']:,} samples a row, seeds {found['seeds']}", ""]
        lines += [*markdown(found["by_steps"], model.task.headlines), ""]
    settings = yaml.safe_dump({key: config.get(key) for key in ("task", "objective", "trainer")}, sort_keys=False)
    return "\n".join([*lines, "## Settings", "", "```yaml", settings.rstrip(), "```", ""])


def _before(folder: Path) -> str:
    """The card of a model that was given away before, without what a hub reads."""
    file = folder / "README.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return re.sub(r"\A---\n.*?\n---\n\s*", "", text, flags=re.DOTALL)


def _training(model: Model, config: Document) -> list[str]:
    """Size, data, time, versions and command."""
    state, task = model.state, config["task"].get("init_args", {})
    parameters = sum(parameter.numel() for parameter in model.flow_map.parameters())
    versions = ", ".join(f"{key} {value}" for key, value in state.get("versions", {}).items())
    lines = [
        f"A flow map of {parameters:,} parameters, averaged weights; data: {task.get('source', 'its own')}. "
        f"{state['step']:,} updates in {state['seconds']:,.0f} s, seed {state['seed']}; {versions}.",
        "",
    ]
    return lines + (["```console", str(config["command"]), "```", ""] if config.get("command") else [])


def _grids(model: Model) -> list[str]:
    """The grids that were tuned, each with what it gained."""
    if not model.grids:
        return []
    lines = ["| steps | tuned grid | by | tuned | equal steps |", "|---|---|---|---|---|"]
    for steps, tuned in model.grids.items():
        r, which = tuned.record, "equal steps" if tuned.equal else str(tuned.grid)
        tuned_value, equal = f"{r['value']:.4g} ± {r['error']:.2g}", f"{r['uniform']:.4g} ± {r['uniform_error']:.2g}"
        lines.append(f"| {steps} | {which} | {r['metric']} | {tuned_value} | {equal} |")
    return [*lines, ""]
