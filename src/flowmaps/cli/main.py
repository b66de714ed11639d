"""Entry point: finds the command, and turns every exception into one line and an exit code. No torch here."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from .. import __version__
from ..configuration.names import closest
from .boundary import CtrlC, explain, report

COMMANDS = {
    "quickstart": "train on real handwritten digits, sample them in 1, 2, 4 and 8 steps, and measure: a first look",
    "new": "settings fitted to data of your own, in a commented file to train from",
    "plan": "what a training takes before it begins: operations, memory of a device, days; settings that fit",
    "prepare": "make the data of a preset ready: downloaded, tokenised on all cores, split; restartable",
    "train": "train a preset, or a YAML file of one's own",
    "sample": "draw samples from a checkpoint, as files and pictures",
    "steer": "pull samples towards a reward at test time, and compare with plain samples",
    "evaluate": "measure samples of a checkpoint at several step counts, beside real data",
    "score": "bounds on the likelihood of held-out data under a checkpoint",
    "evaluate-lm": "language benchmarks of a text model by lm-evaluation-harness",
    "info": "what a checkpoint is: its step, settings, size and records",
    "simulate": "molecular dynamics of a small molecule, to train Boltzmann generators on",
    "pairs": "pairs of noise and points, on which RegFlow trains a normalising flow",
    "trajectories": "paths of a trained flow, stored: what few jumps are learned from",
    "tune": "find the times of few jumps that suit a trained map, and keep them with it",
    "export": "keep what sampling needs of a checkpoint, with a card",
    "serve": "completions of a text model for OpenAI's clients",
    "demo": "a web page of the models of the package, and of any runs",
    "compare": "runs side by side, by table and picture, with their spread over seeds",
    "plot": "the curves of a run",
    "presets": "the experiments that come with the package",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the one boundary where exceptions become lines.

    Arguments:
        argv: Arguments after the program's name; those of the process by default.
    Returns: 0; 2 after a mistake that the user can mend, explained in one line on standard error; 1 after a fault of
        this package, whose traceback is kept in a file; 130 and 143 if it was interrupted or terminated (a training
        saves first); 141 if the reader of its output went away.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    with CtrlC() as ctrl_c, warnings.catch_warnings():
        warnings.showwarning = _warn  # pyright: ignore[reportAttributeAccessIssue]  (a function of fewer arguments)
        try:
            code = _run(name, arguments[1:], ctrl_c)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            return _fail(name, "interrupted", 130)
        except BrokenPipeError:  # `flowmaps presets | head -1`; what is left in the buffer has nowhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except Exception as error:
            if ctrl_c.pressed:
                return _fail(name, "interrupted", 130)
            text = explain(error)
            return _fail(name, text, 2) if text else _fail(name, report(error, arguments), 1)


def _run(name: str, arguments: Sequence[str], ctrl_c: CtrlC) -> int:
    if name in ("-h", "--help", "--version"):
        print(f"flowmaps {__version__}" if name == "--version" else _usage())
        return 0
    if name not in COMMANDS:
        raise ValueError(f"no command {name!r}{closest(name, COMMANDS)}; `flowmaps --help` lists them")
    ctrl_c.importing = True
    module = import_module(f".{name.replace('-', '_')}", __package__)
    ctrl_c.importing = False
    return module.run(arguments)


def _fail(name: str, text: str, code: int) -> int:
    print(f"flowmaps {name}: {text}", file=sys.stderr)
    return code


def _warn(message, category, filename, lineno, file=None, line=None) -> None:
    if Path(filename).is_relative_to(Path(__file__).parent.parent):
        print(f"flowmaps: {' '.join(str(message).split())}", file=sys.stderr)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: flowmaps COMMAND ...", "", "Few-step generation of categorical data with flow maps.", "", *lines, "",
         "`flowmaps COMMAND --help` explains one; `flowmaps --version` names the version."]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
