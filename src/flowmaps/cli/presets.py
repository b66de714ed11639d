"""``flowmaps presets``"""

from __future__ import annotations

from collections.abc import Sequence

from .config import parse, parser, presets


def run(arguments: Sequence[str]) -> int:
    parse(parser("presets", "The experiments that come with the package, for `flowmaps train`."), arguments)
    found = presets()
    width = max(map(len, found))
    for name, path in found.items():
        first_line = path.read_text(encoding="utf-8").partition("\n")[0]
        print(f"{name:{width}}  {first_line.removeprefix('#').strip()}")
    return 0
