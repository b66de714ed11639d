"""Checkpoints: folders ``step-00001234`` that appear whole, are verified by checksums, and are kept by a rule.

A folder is written under a temporary name beside its place, every file flushed, then renamed; so a power cut or a kill
leaves either the whole checkpoint or none. Nothing in it is executable or pickled: safetensors and JSON only.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import beside, sha256, sweep, write_json, write_text
from ..reading import JSON, check_size, expect, inside, read_json, read_text
from . import shards
from .tensors import CheckpointError, canonical, fill, nbytes, read_tensors, unwritable, write_tensors

Document = dict[str, Any]  # of JSON
SUMS = "SHA256SUMS"
MODEL, EMA_MODEL, TRAINING = "model.safetensors", "ema.safetensors", "training.safetensors"
CONFIG, STATE = "config.json", "state.json"
GRIDS = "grids.json"  # what is added to a checkpoint later, and may be removed: its damage is none of the weights'
LARGEST = 2**35  # bytes of a file of tensors, unless more is allowed
KINDS: dict[str, object] = {
    "step": range(2**53), "seed": int, "seconds": float, "cpu_seconds": float, "epoch": float, "precision": str,
    "ema_updates": range(2**53), "window": {str: float}, "metrics": {str: (float, str, bool, None)},
    "monitor": {"name": str, "value": (float, None)}, "versions": {str: str},
}  # fmt: skip  # of what state.json may hold
_SUM = re.compile(r"([0-9a-f]{64})  (.+)")
_STEP = re.compile(r"step-(\d{8,})")


def place_of(parent: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return parent / f"step-{step:08d}"


def write(
    parent: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, object],
    sums: Mapping[str, str] | None = None,
) -> Path:
    """Write ``parent/step-xxxxxxxx`` with one safetensors file or JSON document for each name.

    Arguments:
        sums: Checksums of shards that lie in the temporary folder already; by default there are none.
    Returns: the folder.
    Raises: CheckpointError if the disk is full or the folder cannot be written; earlier checkpoints are as they were
        and the temporary folder is gone.
    """
    return write_folder(place_of(parent, step), tensors, documents, sums)


def begun(place: Path) -> Path:
    """The temporary folder of a checkpoint at ``place``, made, for several processes to write shards into.

    Raises: CheckpointError if it cannot be made.
    """
    try:
        beside(place).mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(unwritable(place, error, "earlier checkpoints are untouched")) from error
    return beside(place)


def write_folder(
    place: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, object],
    sums: Mapping[str, str] | None = None,
) -> Path:
    """:func:`write` of a folder by any name; a document that is a text is written as it is."""
    temporary, known = beside(place), dict(sums or {})
    try:
        temporary.mkdir(parents=True, exist_ok=bool(known))
        for name, group in tensors.items():
            write_tensors(temporary / name, group)
        for name, document in documents.items():
            text = document if isinstance(document, str) else json.dumps(document, indent=2, allow_nan=False) + "\n"
            (temporary / name).write_text(text, encoding="utf-8")
        names = sorted(path.name for path in temporary.iterdir())
        lines = [f"{known.get(name) or sha256(temporary / name)}  {name}\n" for name in names]
        (temporary / SUMS).write_text("".join(lines), encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        if place.exists():
            _remove(place)
        temporary.rename(place)
        _flush(place.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(unwritable(place, error, "earlier checkpoints are untouched")) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return place


def export(
    place: Path,
    flow_map: nn.Module,
    config: Mapping[str, object],
    state: Mapping[str, object],
    documents: Mapping[str, object],
    half: bool = False,
) -> Path:
    """Write a checkpoint that is there to be drawn from: the weights of ``flow_map`` and no state of a training.

    Arguments:
        half: Write weights of single precision in half precision, which has 11 bits, in half the space.
    Raises: ValueError if a weight is too large for half precision.
    """
    weights = flow_map.state_dict()
    if half:
        weights, aliases = canonical(weights)  # what is shared stays so
        weights = {name: w.half() if w.dtype == torch.float32 else w for name, w in weights.items()}
        if large := [name for name, w in weights.items() if not w.isfinite().all()]:
            raise ValueError(f"{large[0]} is too large for half precision (65,504); export without it")
        weights |= {name: weights[owner] for name, owner in aliases.items()}
    return write_folder(place, {MODEL: weights}, {CONFIG: config, STATE: state, **documents})


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its checksum; none of them is a link out of the folder or a device.

    Raises: CheckpointError naming the first file that is missing, unreadable, not regular or not as written.
    """
    try:
        for name, digest in _sums(folder).items():
            if name == GRIDS:
                continue
            path = inside(folder, name)
            check_size(str(path), path.stat().st_size, LARGEST if path.suffix == ".safetensors" else JSON)
            if sha256(path) != digest:
                raise CheckpointError(f"{path} is damaged (its checksum differs); use another checkpoint")
    except OSError as error:
        name = error.filename or folder
        raise CheckpointError(f"{name} cannot be read ({error.strerror}); use another checkpoint") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{error}; or use another checkpoint") from error


def attach(folder: Path, name: str, document: Document) -> None:
    """Put a document beside the weights of a checkpoint, or in the place of an earlier one, with its checksum.

    The checksum goes first and comes last, so that a kill in between leaves a checkpoint that is whole.

    Raises: CheckpointError if the folder cannot be written.
    """
    try:
        others = [f"{digest}  {other}\n" for other, digest in _sums(folder).items() if other != name]
        write_text(folder / SUMS, "".join(others))
        write_json(folder / name, document)
        write_text(folder / SUMS, "".join([*others, f"{sha256(folder / name)}  {name}\n"]))
    except OSError as error:
        raise CheckpointError(unwritable(folder / name, error, "the weights are as they were")) from error


def attached(folder: Path, name: str) -> Document | None:
    """A document that was attached to a checkpoint; ``None`` if there is none.

    Raises: CheckpointError if it is not as it was written.
    """
    if not os.path.lexists(folder / name):
        return None
    try:
        path = inside(folder, name)
        check_size(str(path), path.stat().st_size, JSON)
    except ValueError as error:
        raise CheckpointError(f"cannot read {folder / name}: {error}") from error
    if _sums(folder).get(name) != sha256(path):
        raise CheckpointError(f"{path} is not as it was written (its checksum in {SUMS} differs or is missing)")
    return _read_document(folder, name)


def _sums(folder: Path) -> dict[str, str]:
    """Checksums by name; every file that a reader opens has one."""
    lines = [_SUM.fullmatch(line) for line in read_text(inside(folder, SUMS), 2**16).splitlines()]
    sums = {match[2]: match[1] for match in lines if match}
    if len(sums) < len(lines):
        raise CheckpointError(f"{folder / SUMS} is damaged; use another checkpoint")
    if not {MODEL, CONFIG, STATE} <= set(sums):
        raise CheckpointError(f"{folder / SUMS} lacks {MODEL}, {CONFIG} or {STATE}; use another checkpoint")
    for name in (EMA_MODEL, TRAINING, *(path.name for path in folder.glob(shards.PATTERN))):
        if name not in sums and os.path.lexists(folder / name):
            raise CheckpointError(f"{folder / name} has no checksum in {SUMS}; use another checkpoint")
    return sums


def steps(parent: Path) -> list[Path]:
    """The checkpoint folders in ``parent``, oldest first."""
    if not parent.is_dir():
        return []
    found = {
        int(match[1]): path
        for path in parent.iterdir()
        if (match := _STEP.fullmatch(path.name)) and not path.is_symlink()
    }
    return [found[step] for step in sorted(found)]


def step_of(folder: Path) -> int:
    """The number of updates behind a checkpoint, by its name."""
    return int(folder.name.removeprefix("step-"))


def newest(parent: Path) -> Path | None:
    """The newest checkpoint that is whole, or ``None`` if there is none at all.

    A damaged one is warned about and passed over.

    Raises: CheckpointError if every checkpoint is damaged.
    """
    damage = None
    for folder in reversed(steps(parent)):
        try:
            verify(folder)
        except CheckpointError as error:
            damage = damage or error
            warnings.warn(f"{error}: falling back to the one before {folder.name}", stacklevel=2)
        else:
            return folder
    if damage is not None:
        raise CheckpointError(f"no whole checkpoint in {parent}: {damage}")
    return None


def best(parent: Path) -> Path | None:
    """The checkpoint whose monitored value is lowest, or ``None`` if none was validated."""
    values = [(value, folder) for folder in steps(parent) if (value := _monitored(folder)) is not None]
    return min(values)[1] if values else None


def resolve(path: str | os.PathLike, prefer: str = "newest") -> Path:
    """The verified checkpoint folder meant by ``path``: itself, or one inside a run's folder.

    Arguments:
        path: A ``step-...`` folder, the ``checkpoint`` folder around it, or the run's folder around that.
        prefer: ``"newest"`` or ``"best"``, where ``path`` holds several.
    Raises: CheckpointError if there is none or it is damaged.
    """
    path = Path(path)
    if prefer not in ("newest", "best"):
        raise ValueError(f"prefer is {prefer!r}, expected 'newest' or 'best'")
    if (path / STATE).is_file() or (path / SUMS).is_file():
        verify(path)
        return path
    for parent in (path / "checkpoint", path):
        found = (best(parent) if prefer == "best" else None) or newest(parent)
        if found is not None:
            verify(found)
            return found
    raise CheckpointError(f"no checkpoint at {path}; give a folder step-... or the folder of a run that saved one")


def run_of(folder: Path) -> Path | None:
    """The folder of the run that a checkpoint is one of; none if it stands by itself, as an exported model does."""
    parent = folder.absolute().parent
    return parent.parent if parent.name == "checkpoint" else None


def read_config(folder: Path) -> Document:
    """The configuration a checkpoint was trained with."""
    return _read_document(folder, CONFIG)


def read_state(folder: Path) -> Document:
    """Step, seed, versions and metrics of a checkpoint.

    Raises: CheckpointError if a value is of another type than it was written with.
    """
    state = _read_document(folder, STATE)
    try:
        expect(state, {name: kind for name, kind in KINDS.items() if state.get(name) is not None}, STATE)
    except ValueError as error:
        raise CheckpointError(f"{folder / STATE}: {error}; give a whole checkpoint") from error
    return state


def size_of_map(folder: Path) -> int:
    """The bytes of the files that hold a map's weights; those of shards also hold averages and moments."""
    return inside(folder, MODEL).stat().st_size + sum(path.stat().st_size for path in folder.glob(shards.PATTERN))


def load_map(folder: Path, flow_map: nn.Module, ema: bool = True) -> None:
    """Fill a map with the weights of a checkpoint, averaged ones if it has them and ``ema`` is set.

    A map in single precision takes on the double precision of a checkpoint that was trained in it, and reads one that
    was exported in half precision.

    Raises: CheckpointError if a name, shape or type differs; the weights are then as they were.
    """
    averaged = folder / EMA_MODEL
    path = averaged if ema and averaged.exists() else folder / MODEL
    stored, sharing = read_tensors(path, 2 * nbytes(flow_map.state_dict()))
    if any(name in stored and stored[name].dtype == torch.float64 for name, _ in flow_map.named_parameters()):
        flow_map.double()
    stored = {name: w.float() if w.dtype == torch.float16 else w for name, w in stored.items()}
    fill(flow_map.state_dict(), stored, sharing, path)


def prune(parent: Path, keep: int = 2) -> None:
    """Remove all checkpoints but the last ``keep`` and the best."""
    kept = {*steps(parent)[-keep:], best(parent)}
    for folder in steps(parent):
        if folder not in kept:
            _remove(folder)


def tidy(parent: Path, step: int, keep: int) -> None:
    """Before continuing from ``step``: what a kill kept from being removed goes; damaged ones beyond it go aside."""
    sweep(parent)
    for folder in steps(parent):
        if step_of(folder) > step:
            aside = folder.with_name(f"{folder.name}.damaged")
            if aside.exists():
                shutil.rmtree(aside)
            folder.rename(aside)
    prune(parent, keep)


def _monitored(folder: Path) -> float | None:
    try:
        value = read_state(folder)["monitor"]["value"]
    except (CheckpointError, KeyError, TypeError):
        return None
    return value if type(value) in (int, float) and math.isfinite(value) else None


def _read_document(folder: Path, name: str) -> Document:
    try:
        document = read_json(inside(folder, name))
    except ValueError as error:
        raise CheckpointError(f"cannot read {folder / name}: {error}; give a whole checkpoint") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{folder / name} is {document!r:.60}, expected a mapping; give a whole checkpoint")
    return document


def _remove(folder: Path) -> None:
    doomed = beside(folder.with_name(f"{folder.name}.old"))  # a half-removed folder must not look damaged
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
