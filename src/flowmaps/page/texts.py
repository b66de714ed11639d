"""Text on the page: a prompt or gaps that stay, and a temperature."""

from __future__ import annotations

from html import escape
from itertools import groupby

from torch import Tensor

from ..fields import one_field
from ..pictures import heading
from ..samplers import at_temperature
from ..tasks.text import Text
from ..tasks.text_prompts import GAP, Template, template
from .answers import Answer, Panel, real, seconds, short
from .tabs import Field, Line, Slider, Tab, Value

LONGEST = 512  # tokens of a text with gaps
HOTTEST = 2.0


class TextTab(Tab):
    """Texts that continue a prompt or fill in gaps."""

    kind = Text
    packaged = ("novels",)
    about = "All letters of a text at once, from noise. What was given is set in bold."
    copied = "Texts"
    most, first = 8, 4

    def form(self) -> list[Field]:
        return [
            Line("prompt", "Prompt", "How each text begins.", "once upon a time"),
            Line("gaps", "Or a text with gaps", "_ for each missing token, or {12}.", "it was a {20} night", lines=2),
            Slider("temperature", "Temperature", "0 takes the most probable token.", 1, 0, HOTTEST, 0.1),
        ]

    def answer(
        self, n: int, steps: int, seed: int, prompt: Value = "", gaps: Value = "", temperature: Value = 1
    ) -> Answer:
        begin, infill = short("the prompt", prompt, 4 * LONGEST), short("the text with gaps", gaps, 4 * LONGEST)
        wanted = self.wanted(begin, infill)
        heat = real("the temperature", temperature, 0, HOTTEST)
        decoder = at_temperature(heat)
        found = self.drawn(
            lambda k: one_field(self.model.sample(n, k, seed, prompt=begin, infill=infill, decoder=decoder)), steps
        )
        samples, took = found[steps]
        lead = f"{n} texts of {wanted.length} tokens in {heading(str(steps))}, {seconds(took)}."
        rows = self.compared(found, lambda texts: self.panels(texts[:2], wanted))
        text = "\n\n".join(self.task.decoded(samples)) + "\n"
        return Answer(lead, self.panels(samples, wanted), rows, "lines", text)

    def wanted(self, prompt: str | None, infill: str | None) -> Template:
        """What is given and what is free.

        Raises: ValueError if the alphabet cannot say it, if it is too long, or both are given.
        """
        if prompt and infill:
            raise ValueError("there are a prompt and a text with gaps; leave one of them empty")
        numbers = [int(match[3]) for match in GAP.finditer(infill or "") if match[3]]
        if sum(numbers) > LONGEST:
            raise ValueError(f"the gaps have {sum(numbers):,} tokens, expected at most {LONGEST}")
        found = template(self.task.tokeniser, self.task.length, prompt, infill)
        if found.length > LONGEST and infill:
            raise ValueError(f"the text has {found.length:,} tokens, expected at most {LONGEST}")
        return found

    def panels(self, samples: Tensor, wanted: Template) -> list[Panel]:
        """Each text, what was given in bold."""
        decode, known = self.task.tokeniser.decode, wanted.known.tolist()
        shown = []
        for row in samples.tolist():
            pieces = []
            for given, pairs in groupby(zip(known, row, strict=True), key=lambda pair: pair[0]):
                text = escape(decode([token for _, token in pairs]))
                pieces.append(f"<b>{text}</b>" if given else text)
            shown.append(Panel(f'<div class="fm-text">{"".join(pieces)}</div>'))
        return shown
