"""Prompts, gaps and suffixes: what is given of a text, and how the rest is filled in, block by block if it is long."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.text_tokens import Tokeniser
from ..evaluation import Readout
from ..fields import FREE, Condition, first_leaf
from ..maps import FlowMap
from ..reading import UNPACKED, check_size
from ..samplers import Decoder, Sampler, Stochastic, generate

GAP = re.compile(r"\\([_{\\])|(_+)|\{(\d{1,12})\}")  # an escaped character, or a gap


class Template(NamedTuple):
    """A text of which a part is given.

    Arguments:
        tokens: Categories ``(length,)``, 0 where nothing is given.
        known: Bool ``(length,)``.
    """

    tokens: Tensor
    known: Tensor

    @property
    def length(self) -> int:
        return len(self.tokens)


def template(
    tokeniser: Tokeniser, length: int, prompt: str | None = None, infill: str | None = None, suffix: str | None = None
) -> Template:
    """What to fill in.

    Arguments:
        length: Tokens of the whole, unless ``infill`` says it.
        prompt, suffix: The beginning and the end.
        infill: A text with gaps: ``_`` for each missing token, or ``{12}`` for twelve of them; ``\\_``, ``\\{`` and
            ``\\\\`` are an underscore, a brace and a backslash.
    Raises: ValueError if nothing is left to fill in, or the alphabet cannot say what is given.

    >>> from ..data.text_tokens import Letters
    >>> template(Letters(), 0, infill="a __ night").known.int().tolist()
    [1, 1, 0, 0, 1, 1, 1, 1, 1, 1]
    """
    if infill is not None:
        if prompt is not None or suffix is not None:
            raise ValueError("infill stands alone: write prompt and suffix into its text")
        parts = [_empty(part) if isinstance(part, int) else given_text(tokeniser, part) for part in _pieces(infill)]
        if all(part.known.all() for part in parts):
            raise ValueError(f"infill {infill!r} has no gap; write _ for each missing token, or {{12}} for twelve")
    else:
        head = given_text(tokeniser, prompt) if prompt else Template(torch.zeros(0).long(), torch.zeros(0).bool())
        tail = given_text(tokeniser, suffix) if suffix else Template(torch.zeros(0).long(), torch.zeros(0).bool())
        rest = length - head.length - tail.length
        if rest < 1:
            given = head.length + tail.length
            raise ValueError(f"prompt and suffix have {given} tokens, the text {length}; ask for a greater length")
        parts = [head, _empty(rest), tail]
    return Template(torch.cat([p.tokens for p in parts]), torch.cat([p.known for p in parts]))


def fill(
    flow_map: FlowMap,
    sampler: Sampler,
    given: Template,
    n: int,
    length: int,
    generator: torch.Generator,
    decoder: Decoder | None = None,
    overlap: int | None = None,
) -> Tensor:
    """Samples of a template, int64 ``(n, template.length)``.

    A short text is filled in within a window of the length seen in training, whose rest is thrown away. A longer one is
    filled in block by block: each window begins with ``overlap`` tokens that are known already.

    Arguments:
        length: Tokens of a window, as in training.
        overlap: Tokens of context for each further block; half a window by default.
    Invariant: what is known in the template comes back token for token.
    """
    device = generator.device
    size = max(given.length, length)
    tokens, known = torch.zeros(n, size, dtype=torch.int64, device=device), torch.zeros(size, dtype=torch.bool)
    tokens[:, : given.length] = given.tokens.to(device)
    known[: given.length] = given.known
    overlap = length // 2 if overlap is None else overlap
    if not 0 <= overlap < length:
        raise ValueError(f"overlap is {overlap}, expected 0 to {length - 1} of the {length} tokens of a window")
    start = 0
    while True:
        window = slice(start, start + length)
        if not known[window].all():
            tokens[:, window] = _window(flow_map, sampler, tokens[:, window], known[window], generator, decoder)
            known[window] = True
        if start + length >= size:
            return tokens[:, : given.length]
        start = min(start + length - overlap, size - length)


def _window(
    flow_map: FlowMap,
    sampler: Sampler,
    tokens: Tensor,
    known: Tensor,
    generator: torch.Generator,
    decoder: Decoder | None,
) -> Tensor:
    shape = tuple(tokens.shape)
    if not known.any():
        return generate(flow_map, sampler, shape, generator, condition=FREE, decoder=decoder)
    condition = Condition(known=known.to(tokens.device).expand(shape))
    return generate(flow_map, sampler, shape, generator, condition=condition, given=tokens, decoder=decoder)


def _pieces(infill: str) -> list[str | int]:
    """The given texts of an infill and the lengths of its gaps, in order."""
    pieces: list[str | int] = []
    text, start = "", 0
    for match in GAP.finditer(infill):
        text, start = text + infill[start : match.start()], match.end()
        literal, underscores, number = match.groups()
        if literal:
            text += literal
            continue
        pieces += [text, len(underscores or "") or int(number)]
        text = ""
    return [piece for piece in [*pieces, text + infill[start:]] if piece]


def given_text(tokeniser: Tokeniser, text: str) -> Template:
    """A text that is given whole.

    Raises: ValueError if the alphabet cannot say it; a warning tells if it merely reads it in another way.
    """
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{text!r} is no UTF-8 text; write it in UTF-8")
    tokens = torch.tensor(tokeniser.spell(text).tolist(), dtype=torch.int64)
    said = tokeniser.decode(tokens.tolist())
    if not len(tokens) or text.strip() and not said.strip():
        raise ValueError(f"{text!r} has no token of the alphabet {tokeniser.name}; write it in that alphabet")
    if tokeniser.unsaid(text):
        lost = "".join(c for c in dict.fromkeys(text) if tokeniser.unsaid(c))
        raise ValueError(
            f"{text!r} has characters that the alphabet {tokeniser.name} cannot say ({lost[:20]}); "
            "leave them out, or use a model with another tokeniser, such as bytes"
        )
    if "".join(said.split()).casefold() != "".join(text.split()).casefold():
        warnings.warn(f"{text!r} is read as {said!r}: the alphabet {tokeniser.name} has no more", stacklevel=2)
    return Template(tokens, torch.ones(len(tokens), dtype=torch.bool))


def _empty(length: int) -> Template:
    check_size(f"a gap of {length:,} tokens", 8 * length, UNPACKED)
    return Template(torch.zeros(length, dtype=torch.int64), torch.zeros(length, dtype=torch.bool))


def until(text: str, stops: str | Sequence[str]) -> str:
    """A text up to the first of some others.

    >>> until("one. two! three", ["!", "."]), until("one", "")
    ('one', 'one')
    """
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text


class Wish(NamedTuple):
    """One text that is asked for.

    Arguments:
        wanted: What is given of it.
        seed: Of its noise and decoding.
        decoder: From scores to its tokens.
    """

    wanted: Template
    seed: int
    decoder: Decoder


@torch.no_grad()
def fill_each(
    flow_map: FlowMap[Tensor], sampler: Sampler, wishes: Sequence[Wish], length: int, device: torch.device
) -> list[Tensor]:
    """Samples of templates that differ, int64 ``(wanted.length,)`` each, drawn together where they are equally long.

    Arguments:
        length: Tokens of a window, as in training.
        device: Of the map.
    Invariant: a sample is a function of its wish and the sampler, not of the others, up to rounding
        (``tests/tasks/test_text.py``).
    """
    found: dict[int, Tensor] = {}
    sizes = [max(wish.wanted.length, length) for wish in wishes]
    together = not isinstance(sampler, Stochastic)  # noise on the way comes from the generator of one wish
    for size in sorted(set(sizes)):
        group = [i for i, other in enumerate(sizes) if other == size]
        for part in [group] if together else [[i] for i in group]:
            chosen = [wishes[i] for i in part]
            found.update(zip(part, _filled(flow_map, sampler, chosen, size, length, device), strict=True))
    return [found[i][: wish.wanted.length] for i, wish in enumerate(wishes)]


def _filled(
    flow_map: FlowMap[Tensor], sampler: Sampler, wishes: Sequence[Wish], size: int, length: int, device: torch.device
) -> Tensor:
    tokens = torch.zeros(len(wishes), size, dtype=torch.int64, device=device)
    known = torch.zeros(len(wishes), size, dtype=torch.bool, device=device)
    for i, (wanted, _, _) in enumerate(wishes):
        tokens[i, : wanted.length], known[i, : wanted.length] = wanted.tokens.to(device), wanted.known.to(device)
    generators = [torch.Generator(device).manual_seed(wish.seed) for wish in wishes]
    start = 0
    while True:
        window = slice(start, start + length)
        rows = (~known[:, window].all(1)).nonzero().flatten().tolist()
        if rows:
            given, free = tokens[rows, window], ~known[rows, window]
            own = [generators[i] for i in rows]
            scores = _scores(flow_map, sampler, given, ~free, own)
            drawn = given.clone()
            for k, i in enumerate(rows):
                scores_k = Readout(scores.read, scores.h[k : k + 1])
                drawn[k] = first_leaf(wishes[i].decoder(scores_k, own[k], flow_map.chunk))[0]
            tokens[rows, window] = torch.where(free, drawn, given)
            known[rows, window] = True
        if start + length >= size:
            return tokens.cpu()
        start = min(start + length - length // 2, size - length)


def _scores(
    flow_map: FlowMap[Tensor], sampler: Sampler, given: Tensor, known: Tensor, generators: Sequence[torch.Generator]
) -> Readout:
    """What a window is decoded from, its noise drawn row by row."""
    condition = Condition(known=known) if bool(known.any()) else FREE
    noise = torch.cat([flow_map.path.start(flow_map.noise((1, given.shape[1]), g)) for g in generators])
    x = flow_map.path.clamp(noise, flow_map.space.encode(given).to(noise.dtype), condition)
    generator = generators[0] if isinstance(sampler, Stochastic) else None
    scores = sampler.from_noise()(flow_map, x, condition, generator)
    assert isinstance(scores, Readout)  # of one field
    return scores
