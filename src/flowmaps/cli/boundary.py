"""What happens at the edge of a command: an exception becomes a line, and Ctrl-C is answered at any moment."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from importlib.util import find_spec
from types import FrameType

from .. import __version__
from ..configuration.extras import EXTRA_OF, lacking

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST = 480  # characters of a line


class CtrlC:
    """Within the block Ctrl-C raises KeyboardInterrupt and is noted in ``pressed``, as libraries may turn it into an
    error of their own; while ``importing`` it ends the process, because there they may also swallow it, and nothing is
    there yet to be saved. A shell's decision that Ctrl-C is to be ignored is respected.
    """

    def __init__(self) -> None:
        self.importing, self.pressed, self._installed = False, False, False

    def __enter__(self) -> CtrlC:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        if self.importing:
            os.write(2, b"flowmaps: interrupted\n")
            os._exit(128 + number)
        raise KeyboardInterrupt


def explain(error: BaseException) -> str:
    """One line about a mistake that the user can mend: the value and the remedy; empty for a fault of this package."""
    text = " ".join(str(error).split())
    if isinstance(error, ImportError):
        package = (error.name or "").split(".")[0]
        return lacking(package) if package in EXTRA_OF and find_spec(package) is None else ""
    if isinstance(error, MemoryError) or "allocate memory" in text or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({text[:LONGEST] or 'MemoryError'}); ask for fewer samples, a smaller batch or network"
    if isinstance(error, OSError) and error.errno is not None:
        remedy = "free some space" if error.errno in FULL else "choose a path that can be used"
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; {remedy}; earlier files are as they were"
    return shorter(text) if isinstance(error, ValueError | OSError | ArithmeticError) else ""


def shorter(text: str) -> str:
    """A line whose middle is left out if it is too long, since remedies stand at the end; nothing moves the cursor."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 160]} ... {text[-150:]}"


def report(error: Exception, arguments: list[str]) -> str:
    """Keep the traceback of a fault of this package in a file, and ask for it in one line."""
    import shlex
    import traceback
    from tempfile import NamedTemporaryFile

    text = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
    trace = "".join(traceback.format_exception(error))
    try:
        with NamedTemporaryFile("w", prefix="flowmaps-", suffix=".txt", delete=False, encoding="utf-8") as file:
            file.write(f"flowmaps {__version__}, Python {sys.version}\n{shlex.join(arguments)}\n\n{trace}")
    except OSError as full:
        return f"{text}; this is a fault of flowmaps, please report it (no file for its traceback: {full.strerror})"
    return f"{text}; this is a fault of flowmaps, please report it with {file.name}, which holds the traceback"
