"""Points on the page: places on the globe, and points of any other space."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from ..fields import one_field
from ..pictures import heading
from ..tasks.earth import Earth
from ..tasks.of_points import OfPoints
from .answers import COMPARED, Answer, File, Panel, Strip, png, seconds
from .tabs import Field, Tab


class PointTab(Tab):
    """Points of a curved or flat space."""

    kind = OfPoints
    packaged = ("earthquakes",)
    about = "A flow that stays on its curved space: each point moves along great circles to where it ends."
    copied = "Points (CSV)"
    most, first = 2000, 600

    def form(self) -> list[Field]:
        return []

    def answer(self, n: int, steps: int, seed: int) -> Answer:
        found = self.drawn(lambda k: one_field(self.model.sample(n, k, seed)), steps)
        samples, took = found[steps]
        names, kind = self.task.state()["names"], "places" if isinstance(self.task, Earth) else "points"
        table = "\n".join([",".join(names), *(",".join(f"{value:.6g}" for value in x) for x in samples.tolist())])
        rows = [Strip(heading(str(k)), found[k][1], [self.panel(found[k][0], heading(str(k)))]) for k in COMPARED]
        lead = f"{n:,} {kind} in {heading(str(steps))}, {seconds(took)}."
        shown = [self.panel(samples, heading(str(steps)))]
        return Answer(lead, shown, rows, "maps", table + "\n", [File("points.csv", "text/csv", table + "\n")])

    def panel(self, samples: Tensor, title: str) -> Panel:
        """A picture of points."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "points.png"
            self.task.picture(path, {title: samples})
            return Panel(png(path.read_bytes(), f"generated points, {title}"))
