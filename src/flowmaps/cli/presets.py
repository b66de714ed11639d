"""``flowmaps presets``, and how a preset is found by its name; nothing here waits for torch."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from ..configuration.names import closest

PRESETS = Path(__file__).parent.parent / "presets"


def run(arguments: Sequence[str]) -> int:
    p = ArgumentParser("flowmaps presets", description="The experiments that `flowmaps train` finds by name.")
    _, unknown = p.parse_known_args(arguments)
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not expected here: `flowmaps presets` takes no argument but --help")
    found = presets()
    width = max(map(len, found))
    for name, path in found.items():
        first_line = path.read_text(encoding="utf-8").partition("\n")[0]
        print(f"{name:{width}}  {first_line.removeprefix('#').strip()}")
    return 0


def presets() -> dict[str, Path]:
    """The shipped presets by name."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}


def find_preset(name: str) -> Path:
    """The file of a preset, by name or path.

    Raises: ValueError if there is none.
    """
    known = presets()
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    raise ValueError(
        f"no preset {name!r}{closest(name, known)}; `flowmaps presets` lists them, or give the path of a YAML file"
    )
