"""``flowmaps new smiles|text|images|dna FILE``"""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from ..configuration.parsing import parse, parser
from ..files import write_text
from ..train import Trainer
from ..train.verdict import in_words, too_short
from .checkpoints import check_absent
from .config import Experiment, experiment, training_parser
from .new_data import KINDS, Fit, Size, text

HELP = """Look at your data, and write a commented YAML file of settings that suit them: the network, the alphabet, the
batch, and the time. A few updates are made on the way, to say how fast training will be on this machine."""
ENOUGH, PLENTY = 2_000, 12_000  # updates: a smaller network is taken below, a larger one above
BATCH = 32
LOOK = {"max_steps": 24, "max_seconds": 3.0}  # of the updates that are made to see how fast they are


def run(arguments: Sequence[str]) -> int:
    p = parser("new", HELP)
    p.add_argument("kind", type=Literal[tuple(KINDS)], help="what the data are")
    p.add_argument("file", type=str, help="a file of SMILES, text or DNA; a folder of text, DNA or PNGs")
    p.add_argument("--minutes", type=float, default=10.0, help="how long training is to take")
    p.add_argument("--column", type=str | None, help="of a table of SMILES: name or number of its column")
    p.add_argument("--size", type=Literal["auto", "small", "medium", "large"], default="auto", help="of the network; auto takes what suits the time on this machine")  # fmt: skip  # noqa: E501
    p.add_argument("--out", type=str | None, help="the YAML file (default: named after the data, here)")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier file")
    cfg = parse(p, arguments)
    if not 0 < cfg.minutes <= 60 * 24 * 30:
        raise ValueError(f"minutes is {cfg.minutes:g}, expected a number above 0, such as 10")
    path = Path(cfg.file).expanduser().absolute()
    if not path.exists():
        raise ValueError(f"{cfg.file} does not exist; give your data: a file, or a folder of text, DNA or PNGs")
    out = Path(cfg.out or f"{path.name.split('.')[0]}.yaml")
    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"out is {out}, expected the name of a .yaml file")
    check_absent([out], cfg.overwrite)
    fit = KINDS[cfg.kind](path, cfg.column)
    for line in fit.found:
        print(f"found: {line}")
    command = shlex.join(["flowmaps", "new", *arguments])
    size, pace = fitting(fit, cfg.minutes * 60, cfg.size)
    write_text(out, settings(fit, size, cfg.minutes, pace, command, out))
    print(f"wrote {out}: a {size} network of {pace.weights:,} weights, batches of {BATCH}")
    for line in outlook(fit, cfg.minutes, pace):
        print(line)
    print(f"\nstart with:  flowmaps train {shlex.quote(str(out))}")
    print(f"then:        flowmaps sample {shlex.quote(f'runs/{out.stem}')} --n 16 --steps 1,4")
    return 0


class Pace(NamedTuple):
    """How fast training is.

    Arguments:
        seconds: Of an update.
        updates: That the time allows.
        examples: To train on.
        weights: Of the network.
    """

    seconds: float
    updates: int
    examples: int
    weights: int

    @property
    def passes(self) -> float:
        """Over the examples."""
        return self.updates * BATCH / self.examples


def fitting(fit: Fit, seconds: float, wanted: Size | Literal["auto"]) -> tuple[Size, Pace]:
    """A size of the network whose updates are neither too few nor needlessly many in the time, and its pace."""
    if wanted != "auto":
        return wanted, pace_of(fit, wanted, seconds)
    medium = pace_of(fit, "medium", seconds)
    if ENOUGH <= medium.updates <= PLENTY:
        return "medium", medium
    other: Size = "small" if medium.updates < ENOUGH else "large"
    found = pace_of(fit, other, seconds)
    return ("medium", medium) if other == "large" and found.updates < ENOUGH else (other, found)


def pace_of(fit: Fit, size: Size, seconds: float) -> Pace:
    """Make a few updates."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"
        unknown = Pace(1.0, 1_000, 1, 0)
        file.write_text(settings(fit, size, seconds / 60, unknown, "", file), encoding="utf-8")
        p = training_parser("new", HELP)
        chosen = experiment(p, parse(p, [f"--config={file}"]))
    with warnings.catch_warnings(), quiet():  # the data were reported on when they were looked at
        warnings.simplefilter("ignore")
        report = trial(chosen).fit()
    times = [row["seconds"] for row in report.records if "seconds" in row]
    each = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else report.seconds
    weights = sum(weight.numel() for weight in report.flow_map.parameters())
    return Pace(each, max(1, round(seconds / max(each, 1e-6))), len(chosen.task.splits.train), weights)


@contextmanager
def quiet() -> Iterator[None]:
    """Records of the trial are nobody's news."""
    log = logging.getLogger()
    level = log.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def trial(chosen: Experiment) -> Trainer:
    """A training of a few updates that leaves nothing behind."""
    few = {**chosen.trainer, **LOOK, "stretch": False, "log_every": 1, "valid_examples": 1, "progress": False}
    return chosen._replace(trainer=few).fit_on(None)


def outlook(fit: Fit, minutes: float, pace: Pace) -> list[str]:
    """How long training takes, and what to expect of it."""
    rate = f"{1 / pace.seconds:.1f} updates a second" if pace.seconds < 1 else f"{pace.seconds:.1f} seconds an update"
    much = f"{pace.updates:,} updates, {in_words(pace.passes)} over {pace.examples:,} training examples"
    lines = [f"time: {minutes:g} minutes (--minutes) at {rate}, measured on this machine: about {much}"]
    if warning := too_short(pace.updates, pace.passes):
        needed = max(1_000, pace.examples // BATCH) * pace.seconds / 60
        lines.append(f"warning: that is {warning}; give it --minutes {max(1, round(needed)):,} or more")
    elif pace.passes > 300:
        lines.append("note: so many passes over few examples may learn them by heart; look at what is novel")
    return [*lines, f"expect, from {fit.expect}"]


def settings(fit: Fit, size: Size, minutes: float, pace: Pace, command: str, out: Path) -> str:
    """The file: values, and what they mean."""
    path, lines = fit.task
    indent = lambda part, by: "".join(f"{' ' * by}{line}\n" for line in part)  # noqa: E731
    head = [command, *fit.found] if command else []
    save = max(50, min(1_000, pace.updates // 10))
    return (
        "".join(f"# {line}\n" for line in [*head, f"Start with: flowmaps train {text(out)}"])
        + f"task:\n  class_path: flowmaps.tasks.{path}\n  init_args:\n{indent(lines, 4)}"
        + f"    network:                          # {size}; others: flowmaps new --size small|medium|large\n"
        + f"      class_path: flowmaps.networks.{fit.network}\n      init_args:\n{indent(fit.sizes[size], 8)}"
        + "objective:                                # a flow map that teaches itself to jump\n"
        + "  class_path: flowmaps.objectives.SelfDistillation\n  init_args:\n    consistency:\n"
        + "      class_path: flowmaps.objectives.SemigroupKL\n      init_args:\n        fraction: 0.5\n    teacher:\n"
        + f"      class_path: flowmaps.objectives.Average\n      init_args:\n        decay: {fit.decay}\n{fit.times}"
        + f"trainer:\n  max_seconds: {60 * minutes:g}\n  stretch: true                           # the rate of learning falls so that it ends with the time\n"  # noqa: E501
        + f"  max_steps: 1000000                      # the time ends it first, after about {pace.updates:,} updates here\n"  # noqa: E501
        + f"  batch_size: {BATCH}\n  optimizer:\n    lr: {fit.rates[size]}\n  schedule:\n    warmup: 50\n  ema: 0.998\n"
        + f"  log_every: {max(5, min(100, pace.updates // 100))}\n  validate_every: {save}\n  save_every: {save}\n"
        + "  valid_examples: 256\n"
    )
