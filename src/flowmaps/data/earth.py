"""Places on Earth: four catalogues of disasters, and files of one's own."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from .columns import Columns, by_name, plain, read_columns
from .points import PointSplits
from .sources import data_folder, download
from .splits import parted

MIRROR = "https://raw.githubusercontent.com/oxcsml/riemannian-score-sde/5b48a7f7e175894afb6933f5e5f367b5a0eb65d7/data/"
CATALOGUES = {
    "volcano": ("volerup.csv", "f7bbaf32a412f5fe82350f48e0c55100be260803969c16557343f687fd0593fc"),
    "earthquake": ("quakes_all.csv", "3e5e1a10fb2faf1899106264289334037d039f00f5265d13dad388a93d8ff2f7"),
    "flood": ("flood.csv", "ffb1e3182c3053afcdeceec4727c262a29da10255d20747c08144da5b0963486"),
    "fire": ("fire.csv", "c5c6c9490b1d8c58ba9eb78d9e2f82d1c1e62694ca5cff917c54600d3d83f459"),
}
LATITUDE, LONGITUDE = ("lat", "latitude"), ("lon", "long", "lng", "longitude")


def earth(
    source: str,
    path: str | os.PathLike | None = None,
    columns: str | None = None,
    skip: bool = False,
    fetch: bool = False,
    seed: int = 42,
) -> PointSplits:
    """Places as unit vectors, split 80 / 10 / 10 per cent at random.

    Arguments:
        source: ``volcano`` (827 eruptions), ``earthquake`` (6,120), ``flood`` (4,875) or ``fire`` (12,809), or a file.
        path: Folder of the catalogues; default ``$FLOWMAPS_DATA/earth``, else a cache folder.
        columns: Names or numbers of latitude and longitude in a file; without, they are found by their names.
        skip: Leave damaged rows out instead of refusing the file.
        fetch: Download a catalogue if it is missing, with a checksum.
        seed: Of the split.
    Raises: ValueError naming the lines of rows without a latitude and longitude in degrees.
    Reference: Mathieu and Nickel 2020, *Riemannian continuous normalizing flows*, arXiv 2006.10605 (the catalogues, of
    NOAA NGDC, the Dartmouth Flood Observatory and NASA FIRMS).
    """
    file = source
    if source in CATALOGUES:
        name, digest = CATALOGUES[source]
        file = data_folder("earth", path) / name
        if fetch and not file.exists():
            download([MIRROR + name], file, digest)
    return parted(unit_vectors(torch.from_numpy(places(file, columns, skip).numbers)), ["latitude", "longitude"], seed)


def places(path: str | os.PathLike, columns: str | None = None, skip: bool = False) -> Columns:
    """Latitude and longitude of the rows of a file, in degrees."""

    def choose(names: list[str] | None, row: list[str]) -> list[int]:
        if columns is not None:
            found = by_name(columns, names, row)
            if len(found) != 2:
                raise ValueError(f"columns is {columns!r}, expected latitude and longitude, such as lat,lon or 3,4")
            return found
        if names is None:
            if len(row) != 2:
                raise ValueError(
                    f"it has {len(row)} columns without names; say which are latitude and longitude by "
                    "--task.columns 3,4"
                )
            return [0, 1]
        each = [[i for i, name in enumerate(names) if plain(name) in known] for known in (LATITUDE, LONGITUDE)]
        if any(len(found) != 1 for found in each):
            raise ValueError(
                f"its columns are {', '.join(names)}, of which not one each is latitude and longitude by name; say "
                "which by --task.columns lat,lon"
            )
        return [found[0] for found in each]

    return read_columns(path, choose, _check, skip)


def _check(values: Sequence[float]) -> str | None:
    latitude, longitude = values
    if abs(latitude) > 90:
        return f"latitude is {latitude:g}, expected -90 to 90"
    if not -180 <= longitude <= 360:
        return f"longitude is {longitude:g}, expected -180 to 180 or 0 to 360"
    return None


def unit_vectors(degrees: Tensor) -> Tensor:
    """Latitude and longitude in degrees ``(..., 2)`` as unit vectors ``(..., 3)``."""
    latitude, longitude = (degrees.double() * (math.pi / 180)).unbind(-1)
    across = latitude.cos()
    return torch.stack([across * longitude.cos(), across * longitude.sin(), latitude.sin()], dim=-1)


def latitudes(x: Tensor) -> Tensor:
    """The inverse of :func:`unit_vectors`; longitudes are from -180 to 180."""
    a, b, c = x.double().unbind(-1)
    return torch.stack([torch.atan2(c, torch.hypot(a, b)), torch.atan2(b, a)], dim=-1) * (180 / math.pi)
