"""Tokenisers: 27 letters, bytes, or a learned alphabet of subwords. Each is its own description, kept in checkpoints.

Between two documents a text has the character U+001E (record separator): a space for letters, itself for bytes, a token
of its own for subwords.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..reading import UNPACKED, check_size, read_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SEPARATOR = "\x1e"
END = "<|end|>"
ENDS = (END, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")  # as other people's tokenisers call it


class Tokeniser(ABC):
    """A finite alphabet and how text is written in it.

    Invariant: ``decode(encode(text)) == normalise(text)``.
    """

    name: str
    size: int
    joint: tuple[int, ...] = ()  # tokens between two pieces of one text that were encoded apart
    laborious = False  # whether encoding takes longer than reading
    boundary: int | None = None  # the token that stands between two documents, if that is all it says

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

    def characters(self, tokens: NDArray[np.integer]) -> int:
        """The number of characters that tokens spell: what bits per character are divided by."""
        return len(self.decode(tokens.tolist()))

    def unsaid(self, text: str) -> Counter[str]:
        """How often each character of a text does not come back; case, accents and spaces do not count."""
        return _plain(text) - _plain(self.decode(self.spell(text)))

    def lost(self, text: str) -> tuple[int, int]:
        """How many letters of a text do not come back, and how many it has."""
        letters = lambda counts: sum(n for c, n in counts.items() if c.isalpha())  # noqa: E731
        return letters(self.unsaid(text)), letters(_plain(text))

    def describe(self) -> dict[str, str]:
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

    def unsaid(self, text: str) -> Counter[str]:
        """Letters alone: that the filter drops figures and signs is its purpose."""
        return Counter({c: n for c, n in super().unsaid(text).items() if c.isalpha()})

    def decode(self, tokens: Iterable[int]) -> str:
        raw = np.asarray(list(tokens), dtype=np.int64)
        return np.where(raw == 0, 32, raw + 96).astype(np.uint8).tobytes().decode("ascii")


class Bytes(Tokeniser):
    """256 categories: the bytes of UTF-8. Bytes that are no whole character are shown as U+FFFD.

    >>> Bytes().encode("né").tolist()
    [110, 195, 169]
    """

    name, size, boundary = "bytes", 256, ord(SEPARATOR)

    def encode(self, text: str) -> NDArray[np.integer]:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.uint16)

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(int(token) for token in tokens).decode("utf-8", errors="replace")

    def characters(self, tokens: NDArray[np.integer]) -> int:
        """The bytes that begin a character, so that the counts of two parts add up wherever they were cut."""
        return int((np.asarray(tokens) & 0xC0 != 0x80).sum())


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
        self.boundary = self._index.get(SEPARATOR)

    def normalise(self, text: str) -> str:
        return "".join(character for character in text if character in self._index)

    def encode(self, text: str) -> NDArray[np.integer]:
        return np.asarray([self._index[c] for c in text if c in self._index], dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.alphabet[int(token)] for token in tokens)

    def describe(self) -> dict[str, str]:
        return {"name": self.name, "alphabet": self.alphabet}


class Subwords(Tokeniser):
    """Units of the ``tokenizers`` library (extra ``text``): byte-pair, WordPiece, or any other ``tokenizer.json``.

    Tokens are numbered 0..size-1 in the order of the file's ids, which may have holes. Truncation and padding that a
    file asks for are switched off: they are for batches of sentences. Special tokens written in a text are text.

    Arguments:
        content: The text of a ``tokenizer.json``, or an already built ``tokenizers.Tokenizer``.
    Raises: ValueError if the library is missing or the content is no tokeniser.
    """

    name, laborious = "subwords", True

    def __init__(self, content: str | Tokenizer):
        library = _library()
        with _complaints("the tokeniser cannot be read", "give a whole tokenizer.json"):
            built: Tokenizer = library.Tokenizer.from_str(content) if isinstance(content, str) else content
        built.no_truncation()
        built.no_padding()
        built.encode_special_tokens = True  # not as the special token that they look like
        self._tokeniser = built
        vocabulary = built.get_vocab(with_added_tokens=True)
        self._ids = np.unique(np.fromiter(vocabulary.values(), dtype=np.int64, count=len(vocabulary)))
        self.size = len(self._ids)
        if self.size < 2:
            raise ValueError(f"the tokeniser has {self.size} tokens, expected at least 2; give a whole tokenizer.json")
        highest = int(self._ids[-1])  # the library walks through all ids to write its file
        check_size(f"a tokeniser whose highest id is {highest:,}", 4 * highest, UNPACKED)
        self._end = next((vocabulary[end] for end in ENDS if end in vocabulary), None)
        if self._end is not None:
            self.boundary = int(np.searchsorted(self._ids, self._end))
        self._unknown = vocabulary.get(getattr(built.model, "unk_token", None) or "<unk>")

    @classmethod
    def load(cls, path: str | os.PathLike) -> Subwords:
        """A tokeniser from a ``tokenizer.json``."""
        content = read_text(path, UNPACKED)
        try:
            return cls(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

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
        documents = text.split(SEPARATOR) if self._end is not None else [text.replace(SEPARATOR, "\n")]
        ids: list[int] = []
        with _complaints(f"the tokeniser cannot write {text[:40]!r}", "give one that has a token for what it lacks"):
            encoded = self._tokeniser.encode_batch(documents, add_special_tokens=False)
        for i, document in enumerate(encoded):
            ids += [self._end, *document.ids] if i and self._end is not None else document.ids
        tokens = np.searchsorted(self._ids, np.asarray(ids, dtype=np.int64))
        if not np.array_equal(self._ids[np.minimum(tokens, self.size - 1)], ids):
            raise ValueError("the tokeniser gave a token that its vocabulary lacks; give a whole tokenizer.json")
        return tokens.astype(np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        documents: list[list[int]] = [[]]
        for token in self._ids[np.asarray(list(tokens), dtype=np.int64)].tolist():
            documents.append([]) if token == self._end else documents[-1].append(token)
        return SEPARATOR.join(self._tokeniser.decode_batch(documents, skip_special_tokens=False))

    def characters(self, tokens: NDArray[np.integer]) -> int:
        """The number of characters, an unknown one counted once whatever it is written as."""
        return len(self.decode(self._known(tokens).tolist())) + len(tokens) - len(self._known(tokens))

    def unsaid(self, text: str) -> Counter[str]:
        return _plain(text) - _plain(self.decode(self._known(self.encode(text)).tolist()))

    def _known(self, tokens: NDArray[np.integer]) -> NDArray[np.integer]:
        return tokens if self._unknown is None else tokens[self._ids[tokens] != self._unknown]

    def describe(self) -> dict[str, str]:
        return {"name": self.name, "tokenizer": self._tokeniser.to_str()}

    def save(self, path: str | os.PathLike) -> None:
        """Write the ``tokenizer.json``."""
        Path(path).write_text(self._tokeniser.to_str(), encoding="utf-8")


def from_description(description: Mapping[str, object]) -> Tokeniser:
    """The tokeniser that :meth:`Tokeniser.describe` described.

    >>> from_description({"name": "letters"}).size
    27
    """
    match description:
        case {"name": "letters"}:
            return Letters()
        case {"name": "bytes"}:
            return Bytes()
        case {"name": "characters", "alphabet": str(alphabet)}:
            return Characters(alphabet)
        case {"name": "subwords", "tokenizer": str(content)}:
            return Subwords(content)
    raise ValueError(
        f"tokeniser {str(description)[:80]!r} is unknown; expected letters, bytes, characters with their alphabet, or "
        "subwords with their tokenizer"
    )


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
    if kind.lower().endswith(".json"):
        return Subwords.load(kind)
    raise ValueError(
        f"tokeniser {kind!r} is unknown; expected letters, bytes, characters, bpe, wordpiece or a tokenizer.json"
    )


def size_of(kind: str, size: int) -> int | None:
    """Categories of a tokeniser that has not seen its text; ``None`` if only the text can say.

    Arguments:
        kind: As for :func:`tokeniser`.
        size: The most that an alphabet of subwords has; short texts have fewer.
    """
    if kind == "characters":
        return None
    return size if kind in ("bpe", "wordpiece") else tokeniser(kind).size


def to_description(value: Tokeniser) -> str:
    """A line that differs between different tokenisers: part of the name of prepared data."""
    return json.dumps(value.describe(), sort_keys=True)


def _plain(text: str) -> Counter[str]:
    """How often each character occurs, without case, accents and spaces."""
    counts = Counter(unicodedata.normalize("NFKD", text).casefold())
    return Counter({c: n for c, n in counts.items() if not (c.isspace() or unicodedata.category(c)[0] == "M")})


@contextmanager
def _complaints(what: str, remedy: str) -> Iterator[None]:
    """The library raises a bare Exception, or a panic that is none."""
    try:
        yield
    except MemoryError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{what} ({str(error)[:200]}); {remedy}") from None


def _library() -> ModuleType:
    try:
        import tokenizers
    except ImportError:
        raise ValueError("subwords need the library tokenizers; pip install 'flowmaps[text]'") from None
    return tokenizers
