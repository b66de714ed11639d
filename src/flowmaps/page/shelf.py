"""Which models the page shows: those of the package and the runs that are named, each loaded once for all users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ..configuration.extras import EXTRA_OF, lacking
from ..hub import load, packaged
from ..tasks.base import Task
from .tabs import Tab

KINDS = {  # titles, modules of this package, classes
    "Molecules": ("molecules", "MoleculeTab"),
    "Images": ("images", "ImageTab"),
    "Text": ("texts", "TextTab"),
    "DNA": ("sequences", "SequenceTab"),
    "Curved data": ("points", "PointTab"),
}


@dataclass
class Place:
    """One modality on the page.

    Arguments:
        title: Its name.
        tabs: Its models.
        missing: Why there is none, or fewer than there could be; a line each.
    """

    title: str
    tabs: list[Tab[Task]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def places(runs: Sequence[str] = ()) -> list[Place]:
    """Every modality of the page, with the models of the package and of ``runs``.

    Raises: CheckpointError, ValueError if a run cannot be used, or is of a modality that the page does not show.
    """
    found, classes = [], {}
    for title, (module, name) in KINDS.items():
        place = Place(title)
        found.append(place)
        try:
            classes[title] = getattr(import_module(f".{module}", __package__), name)
        except ImportError as error:
            place.missing.append(why(error))
    for run in runs:
        model = load(run)
        fitting = [title for title, kind in classes.items() if isinstance(model.task, kind.kind)]
        if not fitting:
            kinds = ", ".join(title.lower() for title in classes)
            raise ValueError(f"{run} is a model of {type(model.task).__name__}; the page shows {kinds}")
        place = next(place for place in found if place.title == fitting[0])
        place.tabs.append(classes[fitting[0]](model, Path(run).resolve().name))
    for place in found:
        if place.title in classes:
            stock(place, classes[place.title])
    return found


def stock(place: Place, kind: type[Tab[Task]]) -> None:
    """Add the models of the package that are there."""
    for name in kind.packaged:
        if packaged(name) is not None:
            place.tabs.append(kind(load(packaged(name) or name), name))
    if not place.tabs:
        place.missing.append(
            f"No model of {place.title.lower()} comes with this package; `flowmaps demo RUN` shows one of your own."
        )


def why(error: ImportError) -> str:
    """One line about an extra that is not installed.

    Raises: ImportError if it is no extra that is missing.
    """
    package = (error.name or "").split(".")[0]
    if package not in EXTRA_OF or find_spec(package) is not None:
        raise error
    return f"Not here: {lacking(package)}"
