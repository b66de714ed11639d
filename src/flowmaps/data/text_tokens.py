"""Tokenisers: 27 letters, bytes, or a learned alphabet of subwords. Each is its own description, kept in checkpoints.

Between two documents a text has the character U+001E (record separator): a space for letters, itself for bytes, a token
of its own for subwords.
"""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEPARATOR = "\x1e"
END = "<|end|>"


class Tokeniser(ABC):
    """A finite alphabet and how text is written in it.

    Invariant: ``decode(encode(text)) == normalise(text)``.
    """

    name: str
    size: int
    joint: tuple[int, ...] = ()  # tokens between two pieces of one text that were encoded apart

    @abstractmethod
    def encode(self, text: str) -> NDArray[np.integer]:
        """Tokens of a text, one-dimensional, in 0..size-1."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """The text that tokens spell."""

    def spell(self, part: str) -> NDArray[np.integer]:
        """Tokens of a part of a sentence, such as a prompt: spaces at its ends count."""
        return self.encode(part)

    def normalise(self, text: str) -> str:
        """The part of a text that the alphabet can say."""
        return text

    def describe(self) -> dict[str, Any]:
        """What :func:`from_description` builds this tokeniser from: plain JSON."""
        return {"name": self.name}


class Letters(Tokeniser):
    """27 categories: space and a to z, by the text8 filter (lower case, everything else becomes one space).

    >>> Letters().decode(Letters().encode("It was, I think, 9 o'clock."))
    'it was i think o clock'
    """

    name, size, joint = "letters", 27, (0,)

    def normalise(self, text: str) -> str:
        return re.sub("[^a-z]+", " ", text.lower()).strip()

    def encode(self, text: str) -> NDArray[np.integer]:
        return self.spell(self.normalise(text))

    def spell(self, part: str) -> NDArray[np.integer]:
        raw = np.frombuffer(re.sub("[^a-z]+", " ", part.lower()).encode("ascii"), dtype=np.uint8)
        return np.where(raw == 32, 0, raw - 96).astype(np.uint16)

    def decode(self, tokens: Iterable[int]) -> str:
        raw = np.asarray(list(tokens), dtype=np.int64)
        return np.where(raw == 0, 32, raw + 96).astype(np.uint8).tobytes().decode("ascii")


class Bytes(Tokeniser):
    """256 categories: the bytes of UTF-8. Bytes that are no whole character are shown as U+FFFD.

    >>> Bytes().encode("né").tolist()
    [110, 195, 169]
    """

    name, size = "bytes", 256

    def encode(self, text: str) -> NDArray[np.integer]:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.uint16)

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(int(token) for token in tokens).decode("utf-8", errors="replace")


class Characters(Tokeniser):
    """The characters of a corpus, in the order of their code points; others are left out.

    >>> Characters("ba!").encode("abc").tolist()
    [1, 2]
    """

    name = "characters"

    def __init__(self, alphabet: Iterable[str]):
        self.alphabet = "".join(sorted(set(alphabet)))
        self.size = len(self.alphabet)
        if self.size < 2:
            raise ValueError(f"the alphabet {self.alphabet!r} has fewer than two characters; give a longer text")
        self._index = {character: i for i, character in enumerate(self.alphabet)}

    def normalise(self, text: str) -> str:
        return "".join(character for character in text if character in self._index)

    def encode(self, text: str) -> NDArray[np.integer]:
        return np.asarray([self._index[c] for c in text if c in self._index], dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.alphabet[int(token)] for token in tokens)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "alphabet": self.alphabet}


class Subwords(Tokeniser):
    """Byte-pair or WordPiece units by the ``tokenizers`` library (extra ``text``).

    Arguments:
        content: The text of a ``tokenizer.json``, or an already built ``tokenizers.Tokenizer``.
    Raises: ValueError if the library is missing or the content is no tokeniser.
    """

    name = "subwords"

    def __init__(self, content: Any):
        library = _library()
        if isinstance(content, str):
            try:
                content = library.Tokenizer.from_str(content)
            except Exception as error:  # the library raises a bare Exception
                raise ValueError(f"the tokeniser cannot be read ({error}); give a whole tokenizer.json") from None
        self._tokeniser = content
        self.size = content.get_vocab_size()
        self._end = content.token_to_id(END)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Subwords:
        """A tokeniser from a ``tokenizer.json``."""
        try:
            return cls(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}); give the path of a tokenizer.json") from None

    @classmethod
    def train(cls, texts: Iterable[str], size: int, kind: str = "bpe") -> Subwords:
        """Learn an alphabet from texts: ``"bpe"`` on bytes, or ``"wordpiece"`` on lower-cased words."""
        if kind not in ("bpe", "wordpiece"):
            raise ValueError(f"kind of subwords is {kind!r}, expected 'bpe' or 'wordpiece'")
        library = _library()
        parts, special = library.models, {"special_tokens": [END], "vocab_size": size, "show_progress": False}
        if kind == "bpe":
            tokeniser = library.Tokenizer(parts.BPE())
            tokeniser.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokeniser.decoder = library.decoders.ByteLevel()
            alphabet = library.pre_tokenizers.ByteLevel.alphabet()
            trainer = library.trainers.BpeTrainer(initial_alphabet=alphabet, **special)
        else:
            tokeniser = library.Tokenizer(parts.WordPiece(unk_token="[UNK]"))
            tokeniser.normalizer = library.normalizers.BertNormalizer(lowercase=True)
            tokeniser.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
            tokeniser.decoder = library.decoders.WordPiece()
            trainer = library.trainers.WordPieceTrainer(**{**special, "special_tokens": [END, "[UNK]"]})
        tokeniser.train_from_iterator((text.replace(SEPARATOR, " ") for text in texts), trainer)
        return cls(tokeniser)

    def encode(self, text: str) -> NDArray[np.integer]:
        documents = text.split(SEPARATOR)
        tokens: list[int] = []
        for i, document in enumerate(self._tokeniser.encode_batch(documents, add_special_tokens=False)):
            tokens += [self._end] if i and self._end is not None else []
            tokens += document.ids
        return np.asarray(tokens, dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        documents: list[list[int]] = [[]]
        for token in tokens:
            documents.append([]) if token == self._end else documents[-1].append(int(token))
        return SEPARATOR.join(self._tokeniser.decode_batch(documents, skip_special_tokens=False))

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "tokenizer": self._tokeniser.to_str()}

    def save(self, path: str | os.PathLike) -> None:
        """Write the ``tokenizer.json``."""
        Path(path).write_text(self._tokeniser.to_str(), encoding="utf-8")


def from_description(description: Mapping[str, Any]) -> Tokeniser:
    """The tokeniser that :meth:`Tokeniser.describe` described.

    >>> from_description({"name": "letters"}).size
    27
    """
    match description.get("name"):
        case "letters":
            return Letters()
        case "bytes":
            return Bytes()
        case "characters":
            return Characters(description["alphabet"])
        case "subwords":
            return Subwords(description["tokenizer"])
        case name:
            raise ValueError(f"tokeniser {name!r} is unknown; expected letters, bytes, characters or subwords")


def tokeniser(kind: str, texts: Iterable[str] = (), size: int = 8192) -> Tokeniser:
    """A tokeniser by name: ``letters``, ``bytes``, ``characters``, ``bpe``, ``wordpiece``, or a ``tokenizer.json``.

    Arguments:
        kind: Its name or path.
        texts: The corpus, for those that are learned from it.
        size: Size of a learned alphabet of subwords.
    """
    if kind in ("letters", "bytes"):
        return from_description({"name": kind})
    if kind == "characters":
        return Characters({character for text in texts for character in set(text)})
    if kind in ("bpe", "wordpiece"):
        return Subwords.train(texts, size, kind)
    if kind.endswith(".json"):
        return Subwords.load(kind)
    raise ValueError(
        f"tokeniser {kind!r} is unknown; expected letters, bytes, characters, bpe, wordpiece or a tokenizer.json"
    )


def to_description(value: Tokeniser) -> str:
    """A line that differs between different tokenisers: part of the name of prepared data."""
    return json.dumps(value.describe(), sort_keys=True)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ValueError("subwords need the library tokenizers; pip install 'flowmaps[text]'") from None
    return tokenizers
