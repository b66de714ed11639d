"""Reading files that others wrote: regular ones only, inside their folder, and no more of them than was agreed.

A reader holds at most ``HELD`` bytes of a file, JSON ``JSON`` bytes, and a packed file or a picture may unpack to
``UNPACKED`` bytes or ``RATIO`` times its size, whichever is more. The environment variable ``FLOWMAPS_MAX_BYTES``
(``4G``) raises all of these. Files that are streamed, such as plain texts, have no limit.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import math
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIABLE = "FLOWMAPS_MAX_BYTES"
Document = dict[str, Any]  # a JSON object
HELD, JSON, UNPACKED, RATIO = 2**30, 2**25, 2**26, 32
BLOCK = 2**18
MARKS = (  # UTF-32's little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def most_bytes(default: int = HELD) -> int:
    """The limit in force: ``default``, or ``$FLOWMAPS_MAX_BYTES`` where that is more.

    Raises: ValueError if the variable is no number of bytes, such as 2000000 or 4G.
    """
    text = os.environ.get(VARIABLE) or "0"
    match = re.fullmatch(r"\s*(\d{1,18})\s*([KMGT]?)I?B?\s*", text.upper(), re.ASCII)
    if match is None:
        raise ValueError(f"{VARIABLE} is {text!r}, expected a number of bytes such as 2000000 or 4G")
    return max(default, int(match[1]) << 10 * " KMGT".index(match[2] or " "))


def check_size(what: str, size: int, default: int = HELD) -> None:
    """Refuse before memory is taken.

    Arguments:
        what: Begins the complaint, such as "data.csv.gz unpacked".
        size: Bytes it needs.
        default: Bytes it may need.
    Raises: ValueError naming both and the way to raise the limit.
    """
    if size > (most := most_bytes(default)):
        raise ValueError(
            f"{what} needs at least {size:,} bytes, more than the limit of {most:,}; "
            f"if that is right, set the environment variable {VARIABLE} to more"
        )


def check_unpacked(what: str, size: int, packed: int) -> None:
    """:func:`check_size` of what a file of ``packed`` bytes unpacks to, ``size`` bytes so far or as announced."""
    check_size(what, size, max(UNPACKED, RATIO * packed))


def regular(path: str | os.PathLike) -> int:
    """The size of a regular file.

    Raises: ValueError if there is no such file, or it is a folder, a device, a pipe or the like.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} does not exist; give the path of an existing file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read ({reason}); check the path and its rights") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
        raise ValueError(f"{path} is {kind}, expected a regular file; give the path of a file")
    return found.st_size


def inside(folder: str | os.PathLike, name: object) -> Path:
    """The regular file ``name`` of a folder, where ``name`` was read from a file and may be anything.

    Raises: ValueError if the name is not plain, or the file is missing, not regular, or a link out of the folder.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\:\x00-\x1f]", name):
        raise ValueError(f"{folder} lists a file {name!r:.80}, expected the plain name of a file in that folder")
    path = Path(folder) / name
    regular(path)
    if path.resolve().parent != Path(folder).resolve():
        raise ValueError(f"{path} is a link to {path.resolve()}, out of its folder; put the file itself there")
    return path


def packing(path: str | os.PathLike) -> str:
    """``.gz`` or ``.xz`` in lower case if the name ends so, else nothing."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in (".gz", ".xz") else ""


def blocks(path: str | os.PathLike, kind: str | None = None) -> Iterator[bytes]:
    """The content of a file, unpacked where its name says so, some at a time.

    Arguments:
        kind: How it is packed, where that is not what :func:`packing` says.
    Raises: ValueError naming the file if it is missing, not regular, cut short, damaged, or unpacks to too much.
    """
    packed, kind, done = regular(path), packing(path) if kind is None else kind, 0
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(kind, open)
    try:
        with opener(path, "rb") as file:
            while block := file.read(BLOCK):
                done += len(block)
                if kind:
                    check_unpacked(f"{path} unpacked", done, packed)
                yield block
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error):
        raise ValueError(f"{path} is cut short or no whole {kind} file; fetch it again") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path and its rights") from None
    except MemoryError:
        raise ValueError(f"{path} asks for more memory than there is; pack it with smaller settings") from None


def read_bytes(path: str | os.PathLike, default: int = HELD) -> bytes:
    """The whole content of a file, unpacked where its name says so.

    Arguments:
        default: Bytes it may have.
    Raises: ValueError as :func:`blocks` does, or if there is too much of it.
    """
    size, content = regular(path), bytearray()
    if not packing(path):
        check_size(str(path), size, default)
    for block in blocks(path):
        content += block
        check_size(str(path), len(content), default)
    return bytes(content)


def characters(path: str | os.PathLike) -> Iterator[str]:
    """The text of a file, some at a time: UTF-8, or what its byte-order mark says; any line ends become ``\\n``,
    and marks are left out.

    Raises: ValueError as :func:`blocks` does, or if it is not such a text, with the place.
    """
    place, decoder = 0, None
    try:
        for block in blocks(path):
            if decoder is None:
                name = next((name for mark, name in MARKS if block.startswith(mark)), "utf-8")
                decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(name)(), translate=True)
            place += len(block)
            text = decoder.decode(block)
            if "\0" in text:
                at = place - len(block) + max(block.find(0), 0)
                raise ValueError(f"{path} has a zero byte near byte {at}: it is no text, or UTF-16 without a mark; "
                                 "give a UTF-8 text, e.g. with iconv -t utf-8")  # fmt: skip
            yield text.replace("\ufeff", "")  # a mark amid a text is left from files that were joined
        if decoder is not None:
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        at = place - len(error.object) + error.start
        raise ValueError(
            f"{path} is not {error.encoding.upper()} near byte {at}; convert it, e.g. with iconv -t utf-8"
        ) from None


def read_text(path: str | os.PathLike, default: int = HELD) -> str:
    """The whole text of a file by :func:`characters`, of at most ``default`` characters."""
    parts, size = [], 0
    for part in characters(path):
        size += len(part)
        check_size(str(path), size, default)
        parts.append(part)
    return "".join(parts)


def read_json(path: str | os.PathLike, default: int = JSON) -> Any:  # noqa: ANN401  (whatever the file says)
    """The value of a JSON file.

    Raises: ValueError if it cannot be read, is too large, no JSON, or nested too deeply.
    """
    text = read_text(path, default)
    try:
        return json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); write it again") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply for what it should hold; write it again") from None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def expect(value: object, pattern: object, what: str) -> None:
    """Refuse a JSON value that is not of a pattern.

    Arguments:
        pattern: ``int``, ``float`` (finite, whole or not), ``str``, ``bool`` or ``None``; a ``range`` that holds the
            number; ``[pattern]`` for a list of such, ``[one, other]`` for one of as many; ``{"name": pattern}`` for a
            mapping with at least these names, ``{str: pattern}`` for one of any names; a tuple of patterns of which
            one fits.
        what: Names the value in the complaint.
    Raises: ValueError naming the place, the value and what was expected.

    >>> expect({"levels": 2, "shape": [8, 8]}, {"levels": range(2, 257), "shape": [int]}, "state")
    >>> expect({"levels": "2"}, {"levels": range(2, 257)}, "state")
    Traceback (most recent call last):
    ValueError: state.levels is '2', expected a whole number from 2 to 256
    """
    if isinstance(pattern, dict) and isinstance(value, dict):
        for name in value if str in pattern else pattern:
            if name not in value:
                raise ValueError(f"{what} has no {name!r}, expected {_said(pattern[name])} of that name")
            expect(value[name], pattern[str if str in pattern else name], f"{what}.{name:.80}")
    elif isinstance(pattern, list) and isinstance(value, list):
        if len(pattern) > 1 and len(value) != len(pattern):
            raise ValueError(f"{what} has {len(value)} values, expected {len(pattern)}")
        for i, part in enumerate(value):
            expect(part, pattern[i % len(pattern)], f"{what}[{i}]")
    elif isinstance(pattern, tuple) and any(_is(value, part) for part in pattern):
        expect(value, next(part for part in pattern if _is(value, part)), what)
    elif not _is(value, pattern):
        raise ValueError(f"{what} is {value!r:.80}, expected {_said(pattern)}")


def _is(value: object, pattern: object) -> bool:
    """Whether a value is of a pattern as far as its own kind goes."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(pattern, range) or pattern is int:
        return number and isinstance(value, int) and (not isinstance(pattern, range) or value in pattern)
    if pattern is float:
        return isinstance(value, int | float) and number and abs(value) <= sys.float_info.max and math.isfinite(value)
    return isinstance(value, pattern if isinstance(pattern, type) else type(pattern))


def _said(pattern: object) -> str:
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", None: "null"}
    if isinstance(pattern, tuple):
        return " or ".join(map(_said, pattern))
    if isinstance(pattern, range):
        return f"a whole number from {pattern[0]} to {pattern[-1]}"
    if isinstance(pattern, list | dict):
        return "a list" if isinstance(pattern, list) else "a mapping"
    return next(word for kind, word in words.items() if kind is pattern)
