"""Entry point: finds the command, and turns what the user can mend into one line and an exit code."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from .extras import EXTRA_OF, lacking

COMMANDS = {
    "quickstart": "train on real handwritten digits, sample them in 1, 2, 4 and 8 steps, and measure: a first look",
    "train": "train a preset, or a YAML file of one's own",
    "sample": "draw samples from a checkpoint, as files and pictures",
    "steer": "pull samples towards a reward at test time, and compare with plain samples",
    "evaluate": "measure samples of a checkpoint at several step counts, beside real data",
    "score": "bounds on the likelihood of held-out data under a checkpoint",
    "info": "what a checkpoint is: its step, settings, size and records",
    "export": "keep what sampling needs of a checkpoint, with a card",
    "presets": "the experiments that come with the package",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Arguments:
        argv: Arguments after the program's name; those of the process by default.
    Returns: 0; 2 after a mistake that the user can mend, told in one line on standard error; 130 and 143 if a training
        was interrupted or terminated, after saving.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "--version"):
        print(_version() if name == "--version" else _usage())
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = _warn  # type: ignore[assignment]
        try:
            if name not in COMMANDS:
                from .config import closest

                raise ValueError(f"no command {name!r}{closest(name, COMMANDS)}; `flowmaps --help` lists them")
            return _module(name).run(arguments[1:])
        except KeyboardInterrupt:
            return _fail(name, "interrupted", 130)
        except (ValueError, OSError, ArithmeticError, ImportError) as error:
            if isinstance(error, ImportError) and not _optional(error):
                raise
            return _fail(name, explain(error), 2)


def explain(error: BaseException) -> str:
    """One line about a mistake: the value and the remedy."""
    if isinstance(error, ImportError):
        return lacking(error.name or "")
    if isinstance(error, OSError) and error.errno is not None:
        remedy = "free some space" if error.errno in FULL else "choose a path that can be used"
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; {remedy}; earlier files are as they were"
    return " ".join(str(error).split())


def _optional(error: ImportError) -> bool:
    package = (error.name or "").split(".")[0]
    return package in EXTRA_OF and find_spec(package) is None


def _module(name: str):
    return import_module(f".{name}", __package__)


def _fail(name: str, text: str, code: int) -> int:
    print(f"flowmaps {name}: {text}", file=sys.stderr)
    return code


def _warn(message, category, filename, lineno, file=None, line=None) -> None:
    if Path(filename).is_relative_to(Path(__file__).parent.parent):
        print(f"flowmaps: {' '.join(str(message).split())}", file=sys.stderr)


def _version() -> str:
    from .. import __version__

    return f"flowmaps {__version__}"


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: flowmaps COMMAND ...", "", "Few-step generation of categorical data with flow maps.", "", *lines, "",
         "`flowmaps COMMAND --help` explains one; `flowmaps --version` names the version."]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
