"""Images on the page: a class, and the same noise at several numbers of steps."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from torch import Tensor

from ..fields import one_field
from ..pictures import heading
from ..tasks.images import Images
from .answers import Answer, Panel, png, seconds
from .tabs import Choice, Field, Tab, Value

ALL = "all in turn"


class ImageTab(Tab):
    """Images of a class, or of all in turn."""

    kind = Images
    packaged = ("mnist",)
    about = "Every pixel is a category: black or white, or one of a few grey levels."
    copied = ""
    first = 10
    most = 20

    @property
    def classes(self) -> int:
        """How many classes can be asked for."""
        return self.task.state()["classes"] if self.task.conditional else 0

    def form(self) -> list[Field]:
        options = [ALL, *map(str, range(self.classes))]
        return [Choice("label", "Class", "", options)] if self.classes else []

    def answer(self, n: int, steps: int, seed: int, label: Value = ALL) -> Answer:
        wanted = self.class_of(label)
        found = self.drawn(lambda k: one_field(self.model.sample(n, k, seed, label=wanted)), steps)
        labels = self.task.labels(n, wanted).tolist() if self.classes else None
        rows = self.compared(found, self.panels)
        lead = f"{n} images in {heading(str(steps))}, {seconds(found[steps][1])}."
        return Answer(lead, self.panels(found[steps][0], labels), rows, "images")

    def class_of(self, label: Value) -> int | None:
        """The number of a class that is asked for.

        Raises: ValueError if there is none.
        """
        if label in (None, "", ALL):
            return None
        if not str(label).isdecimal() or int(str(label)) >= self.classes:
            raise ValueError(f"the class is {label!r}, expected 0 to {self.classes - 1}, or {ALL!r}")
        return int(str(label))

    def panels(self, images: Tensor, labels: list[object] | None = None) -> list[Panel]:
        """The images with their classes."""
        levels = self.task.state()["levels"]
        names = labels or [""] * len(images)
        return [Panel(pixels(x, levels), str(name)) for x, name in zip(images, names, strict=True)]


def pixels(x: Tensor, levels: int) -> str:
    """HTML of an image of categories, the highest drawn black, with sharp pixels."""
    grey = (255 - x.double() * (255 / (levels - 1))).round().byte().cpu().numpy()
    file = BytesIO()
    Image.fromarray(grey).save(file, format="PNG")
    return png(file.getvalue(), "generated image")
