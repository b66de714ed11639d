"""Where the windows of texts come from: corpora by name, path or URL, prepared shards, and mixtures of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data import Dataset
from ..data.mixture import Mixture
from ..data.sources import is_url
from ..data.text import TextSplits, shards_splits, text_splits
from ..data.text_corpora import corpus
from ..data.text_shards import Shards, prepared
from ..data.text_tokens import Tokeniser
from .base import preparing


def load(
    source: str,
    path: str | os.PathLike | None = None,
    tokeniser: str | Tokeniser = "letters",
    length: int = 128,
    **options: Any,  # noqa: ANN401  (those of text_splits)
) -> TextSplits:
    """A text by name (``tiny_shakespeare``, ``text8``, ``novels``, ``lm1b``, ``openwebtext``), path or URL, as windows.

    Arguments:
        source: Name, or path or URL of a file or folder; one of prepared shards brings its own tokeniser.
        path: Where the file of a named corpus lies.
        options: Of :func:`flowmaps.data.text.text_splits`.
    Raises: ValueError if prepared shards are written in another alphabet than one that was learned before.
    """
    placed = path is None and (is_url(source) or Path(source).expanduser().exists())
    if placed and prepared(source):
        shards = Shards(source)
        if isinstance(tokeniser, Tokeniser) and tokeniser.describe() != shards.tokeniser.describe():
            raise ValueError(f"{source} is written in another alphabet than the other data; prepare it with theirs")
        kept = {name: value for name, value in options.items() if name in ("stride", "fractions", "packed")}
        return shards_splits(shards, Path(source).name, length, **kept)
    text = corpus(None, source) if placed else corpus(source, path)
    with preparing(text.name, text.size or None) as progress:
        return text_splits(text, tokeniser, length, progress=progress, **options)


def mixed_with(
    splits: TextSplits,
    shares: Mapping[str, float],
    length: int,
    **options: Any,  # noqa: ANN401  (those of text_splits)
) -> Dataset:
    """The training windows of a text, mixed with those of others in the same alphabet.

    Arguments:
        shares: Of the other texts, by name, path or URL; the first has the rest.
        options: As for :func:`load`.
    Raises: ValueError if the shares leave nothing to the first text.
    """
    if not shares:
        return splits.train
    if min(shares.values()) <= 0 or sum(shares.values()) >= 1:
        raise ValueError(f"mixed is {dict(shares)}, expected positive shares that leave some of 1 to the source")
    others = [load(place, None, splits.tokeniser, length, **options).train for place in shares]
    return Mixture([splits.train, *others], [1 - sum(shares.values()), *shares.values()])
