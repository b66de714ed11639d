"""DNA on the page: a class, bases that are given, and a motif marked."""

from __future__ import annotations

from itertools import groupby

from torch import Tensor

from ..data.dna import decode
from ..fields import one_field
from ..metrics.dna import gc, places
from ..pictures import heading
from ..tasks.dna import DNA
from ..tasks.dna_pictures import COLOURS
from .answers import Answer, File, Panel, seconds, short
from .tabs import Choice, Field, Line, Tab, Value

ALL = "all, as in the data"


class SequenceTab(Tab):
    """DNA sequences of a class."""

    kind = DNA
    packaged = ("promoters",)
    about = "Promoters, all bases at once. The TATA box is underlined where there is one."
    copied = "Sequences (FASTA)"
    most, first = 12, 4

    @property
    def classes(self) -> list[str]:
        """The classes that can be asked for."""
        return self.task.state()["classes"] if self.task.conditional else []

    def form(self) -> list[Field]:
        classes = [Choice("label", "Class", "", [ALL, *self.classes])] if self.classes else []
        return [*classes, Line("given", "Given bases", "N or _ for a free one, {170} for many.", "{215}TATAAA")]

    def answer(self, n: int, steps: int, seed: int, label: Value = ALL, given: Value = "") -> Answer:
        infill, wanted = short("what is given", given, 2000), None if label in (None, "", ALL) else str(label)
        draw = lambda k: one_field(self.model.sample(n, k, seed, infill=infill, label=wanted))  # noqa: E731
        found = self.drawn(draw, steps)
        samples, took = found[steps]
        texts = decode(samples, self.task.state()["letters"])
        numbers = self.task.labels(n, wanted).tolist() if self.classes else []
        names = [self.classes[k] for k in numbers] or [""] * n
        boxes = places(texts, self.task.motif)
        panels = [panel(*one, len(self.task.motif)) for one in zip(texts, names, samples, boxes, strict=True)]
        rows = self.compared(found, self.strips)
        fasta = "".join(f">{i + 1} {name}\n{text}\n" for i, (text, name) in enumerate(zip(texts, names, strict=True)))
        lead = f"{n} sequences of {samples.shape[1]} bases in {heading(str(steps))}, {seconds(took)}."
        return Answer(lead, panels, rows, "lines", fasta, [File("sequences.fa", "text/x-fasta", fasta)])

    def strips(self, samples: Tensor) -> list[Panel]:
        """A strip of coloured bases for each sequence."""
        return [Panel(strip(text)) for text in decode(samples, self.task.state()["letters"])]


def panel(text: str, name: str, x: Tensor, boxes: list[int], width: int) -> Panel:
    """The coloured letters of a sequence, its motif underlined."""
    inside = [any(box <= i < box + width for box in boxes) for i in range(len(text))]
    pieces = []
    for (letter, boxed), run in groupby(zip(text, inside, strict=True)):
        piece = f'<span style="color:{COLOURS[letter]}">{letter * len(list(run))}</span>'
        pieces.append(f"<u>{piece}</u>" if boxed else piece)
    share = float(gc(x.unsqueeze(0), window=len(text)).nansum())
    found = f"TATA box at {', '.join(str(box + 1) for box in boxes)}" if boxes else "no TATA box"
    note = " · ".join(filter(None, [name, f"{share:.0%} G and C", found]))
    return Panel(f'<div class="fm-bases">{"".join(pieces)}</div>', note=note)


def strip(text: str) -> str:
    """HTML of a sequence as a strip of colours."""
    bars, start = [], 0
    for letter, run in groupby(text):
        width = len(list(run))
        bars.append(f'<rect x="{start}" width="{width}" height="1" fill="{COLOURS[letter]}"/>')
        start += width
    box = f'viewBox="0 0 {len(text)} 1" preserveAspectRatio="none" shape-rendering="crispEdges"'
    return f'<svg class="fm-strip" {box}>{"".join(bars)}</svg>'
