"""Draw docs/house.svg: the rooms by floor, and who imports whom, read from the imports themselves.

python docs/draw_house.py
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from test_architecture import FILES, FLOORS, name, rooms_used  # noqa: E402  (the test that keeps the floors)

HIDDEN = {"__init__", "__main__"}


def lines_of(room: str) -> int:
    """Lines of code of a room."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES if name(path)[0] == room)


def below(room: str, edges: dict[str, set[str]]) -> set[str]:
    """Every room that a room stands on, directly or over others."""
    return edges[room].union(*(below(other, edges) for other in edges[room]))


def main() -> None:
    edges: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        edges[name(path)[0]] |= rooms_used(path)
    # An import that a longer way down implies is not drawn.
    direct = {room: used.difference(*(below(other, edges) for other in used)) for room, used in list(edges.items())}
    rooms = {name(path)[0] for path in FILES} - HIDDEN
    place = {}
    figure, axes = plt.subplots(figsize=(11, 1.05 * len(FLOORS) + 0.6))
    for height, floor in enumerate(FLOORS):
        here = sorted(floor & rooms)
        for i, room in enumerate(here):
            place[room] = ((i + 0.5) / len(here), height)
    for room, used in direct.items():
        for other in used & place.keys():
            if room in place and place[room][1] > place[other][1]:
                (x, y), (u, v) = place[room], place[other]
                axes.plot([x, u], [y - 0.2, v + 0.2], color="#7a8ca5", linewidth=0.9, alpha=0.8, zorder=1)
    for room, (x, y) in place.items():
        size = lines_of(room)
        axes.text(
            x,
            y,
            f"{room}\n{size:,} lines",
            ha="center",
            va="center",
            fontsize=8,
            zorder=2,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "#eef3fa", "edgecolor": "#33507a"},
        )
    for height in range(len(FLOORS)):
        axes.text(-0.03, height, str(height), ha="center", va="center", fontsize=9, color="#33507a")
    axes.set_xlim(-0.06, 1.03)
    axes.set_ylim(-0.6, len(FLOORS) - 0.4)
    axes.axis("off")
    matplotlib.rcParams["svg.hashsalt"] = "house"
    figure.savefig(Path(__file__).with_name("house.svg"), metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
