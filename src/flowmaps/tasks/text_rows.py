"""Texts to be scored: files of plain text, or of one JSON object a line, as rows of windows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.text import Windows
from ..data.text_corpora import PIECE, from_path
from ..data.text_tokens import Tokeniser
from ..likelihood import Row, Window
from ..reading import JSON, UNPACKED, characters, check_size, packing

Tokens = NDArray[np.integer]


class TextRows:
    """How texts become rows for a map of windows.

    Arguments:
        tokeniser: The alphabet.
        length: Tokens of a window, as in training.
        context: Tokens before a window that are given to it, in texts longer than one; 0 cuts them into windows that
            know nothing of each other.
        given: Whether the map was trained with given positions.
    Raises: ValueError if the context leaves nothing to score, or the map can be given nothing.
    """

    def __init__(self, tokeniser: Tokeniser, length: int, context: int = 0, given: bool = True):
        if not 0 <= context < length:
            raise ValueError(f"context is {context}, expected 0 to {length - 1} of the {length} tokens of a window")
        if context and not given:
            raise ValueError(f"context is {context}, but the model was trained with given: false; leave it at 0")
        self.tokeniser, self.length, self.context, self.given = tokeniser, length, context, given

    def of_text(self, text: str, group: str) -> Row:
        """A whole text."""
        return self._row(self.tokeniser.encode(text), 0, group)

    def of_pair(self, prompt: str, answer: str, group: str) -> Row:
        """An answer after its prompt.

        Raises: ValueError if the alphabet has nothing of the answer, or the map can be given no prompt.
        """
        tokens, known = pair(self.tokeniser, prompt, answer)
        if known and not self.given:
            raise ValueError("a prompt needs a model trained with given positions; train it with given: true")
        if answer.strip() and not self.tokeniser.decode(tokens[known:].tolist()).strip():
            raise ValueError(
                f"{answer!r} has no token of the alphabet {self.tokeniser.name}; write it in that alphabet"
            )
        return self._row(tokens, known, group)

    def of_file(self, path: str | os.PathLike[str]) -> Iterator[Row]:
        """The rows of a file, read as they are needed.

        A name that ends in ``.jsonl`` has an object a line: ``{"text": ...}``, or ``{"prompt": ..., "answer": ...}``;
        rows with one prompt, or one ``"group"``, see the same noise. Any other is a text, whose windows are the rows.

        Raises: ValueError naming the line that is no such object.
        """
        name = str(path).removesuffix(packing(path)).lower()
        return self._of_lines(path) if name.endswith((".jsonl", ".ndjson")) else self._of_plain(path)

    def _of_lines(self, path: str | os.PathLike[str]) -> Iterator[Row]:
        for number, line in enumerate(lines(path), 1):
            if not line.strip():
                continue
            try:
                yield self._of_object(json.loads(line), number)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from None

    def _of_object(self, value: object, number: int) -> Row:
        match value:
            case {"prompt": str(prompt), "answer": str(answer)}:
                return self.of_pair(prompt, answer, group_of(value, prompt))
            case {"text": str(text)}:
                return self.of_text(text, group_of(value, f"line {number}"))
        raise ValueError(f"{str(value)[:80]!r} is no row; write an object with text, or with prompt and answer")

    def _of_plain(self, path: str | os.PathLike[str]) -> Iterator[Row]:
        joint = np.asarray(self.tokeniser.joint, dtype=np.int64)
        encoded = (self.tokeniser.encode(piece) for piece in from_path(path).pieces())
        parts = chain.from_iterable(([joint] if i else []) + [piece] for i, piece in enumerate(encoded))
        yield from self._windows(parts)

    def held_out(self, windows: Windows) -> Iterator[Row]:
        """The windows of a part of the data."""
        starts = range(windows.start, windows.stop, PIECE)
        parts = (windows.shards.read(start, min(start + PIECE, windows.stop)) for start in starts)
        return self._windows(parts)

    def _windows(self, parts: Iterable[Tokens]) -> Iterator[Row]:
        for i, window in enumerate(stream(parts, self.length, self.context)):
            scored = window.tokens[window.known :].numpy()
            yield Row((window,), f"window {i}", self.tokeniser.characters(scored))

    def _row(self, tokens: Tokens, known: int, group: str) -> Row:
        windows = tuple(cut(torch.from_numpy(tokens.astype(np.int64)), known, self.length, self.context))
        return Row(windows, group, self.tokeniser.characters(tokens[known:]) if len(tokens) > known else 0)


def group_of(value: object, default: str) -> str:
    """The group that an object names."""
    match value:
        case {"group": str() | int() as group}:
            return str(group)
    return default


def pair(tokeniser: Tokeniser, prompt: str, answer: str) -> tuple[Tokens, int]:
    """Tokens of prompt and answer, and how many are the prompt's: cut where the prompt's own tokens end, if it is
    written in the same ones with and without the answer, as one space between both is."""
    if not prompt:
        return tokeniser.spell(answer), 0
    before, whole = tokeniser.spell(prompt), tokeniser.spell(prompt + answer)
    if np.array_equal(whole[: len(before)], before):
        return whole, len(before)
    return np.concatenate([before, tokeniser.spell(answer)]), len(before)


def cut(tokens: Tensor, known: int, length: int, context: int) -> Iterator[Window]:
    """Windows that score every token from ``known`` on once, each after ``context`` earlier ones, or as many more as
    fit. After a prompt they are half a window at least.

    >>> [(len(w.tokens), w.known) for w in cut(torch.arange(10), 3, 4, 2)]
    [(4, 2), (4, 2), (4, 2), (4, 3)]
    >>> [(len(w.tokens), w.known) for w in cut(torch.arange(10), 0, 4, 0)]
    [(4, 0), (4, 0), (2, 0)]
    """
    place, n = known, len(tokens)
    reserve = max(context, length // 2) if known else context
    while place < n:
        end = min(n, place + length - min(place, reserve))
        before = min(place, length - (end - place)) if reserve else 0
        yield Window(tokens[place - before : end], before)
        place = end


def stream(parts: Iterable[Tokens], length: int, context: int) -> Iterator[Window]:
    """The windows of :func:`cut` of a text that comes in parts, of which only one is held."""
    before, held = (np.zeros(0, dtype=np.int64) for _ in range(2))
    for part in parts:
        held = np.concatenate([held, part.astype(np.int64)])
        while len(held) >= (size := length - min(len(before), context)):
            whole = np.concatenate([before[len(before) - (length - size) :], held[:size]])
            yield Window(torch.from_numpy(whole), length - size)
            before, held = whole, held[size:]
    if len(held):
        known = min(len(before), length - len(held)) if context else 0
        yield Window(torch.from_numpy(np.concatenate([before[len(before) - known :], held])), known)


def lines(path: str | os.PathLike[str]) -> Iterator[str]:
    """The lines of a text file, packed or not, of which only one is held.

    Raises: ValueError as :func:`~flowmaps.reading.characters` does, or if a line is longer than 32 MiB.
    """
    rest = ""
    for text in characters(Path(path)):
        *whole, rest = (rest + text).split("\n")
        check_size(f"a line of {path}", len(rest), max(JSON, UNPACKED) // 2)
        yield from whole
    if rest:
        yield rest
