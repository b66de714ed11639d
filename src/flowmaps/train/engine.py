"""Training: what a run is made of. The loop itself is in :mod:`flowmaps.train.run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from ..data import Dataset
from ..seeds import check_seed
from .optim import AdamW, Cosine

COMPILED = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
LARGEST = 2**24  # examples of one update; their order alone takes 128 MB
PRECISIONS = ("32-true", "bf16-mixed", "64-true")


class Report(NamedTuple):
    """How a run ended.

    Arguments:
        step: Updates made.
        reason: ``"steps"``, ``"seconds"`` (budget used up), or the signal that ended it (``"SIGTERM"``, ``"SIGINT"``).
        seconds: Time of all sessions of the run.
        metrics: The last record of each name.
        checkpoint, best: The last and the best checkpoint folder.
        map: The trained map in evaluation mode, with averaged weights if there are any.
        first: Whether this is the first process of the run: it alone should tell and write results.
    """

    step: int
    reason: str
    seconds: float
    metrics: dict[str, Any]
    checkpoint: Path | None
    best: Path | None
    map: nn.Module
    first: bool = True


@dataclass
class Trainer:
    """Minimises an objective on data, on one device or many, in a way that can be stopped and continued at any moment.

    The noise of update n is a function of (seed, n, process) and the data are a function of (seed, n), so a resumed run
    equals an unbroken one (bit for bit on the CPU) and no random state is kept. Parallelism, precision and compilation
    wrap the objective from outside.

    Arguments:
        objective: Module with ``map``, ``draw(batch, generator)``, ``forward(batch, draw)`` returning scalars of which
            ``"loss"`` is minimised, and perhaps ``after_step()``. The names of the scalars must not change.
        train_data, valid_data: Data sets; without held-out data nothing is validated.
        directory: Folder of the run: ``checkpoint/``, ``metrics.jsonl``, ``metrics.csv``, ``curves.png``.
        config: Plain dictionary kept in every checkpoint, from which the map can be built again.
        evaluate: ``evaluate(map, step)`` returning (nested) numbers; recorded under ``quality/``. Called on the first
            process with the averaged map, in evaluation mode and without gradients.
        max_steps: Updates in all; the schedule is stretched over them.
        max_seconds: Time budget over all sessions of the run, validation included. It ends the run between two updates
            (several processes: at a record) and does not change the schedule, which counts updates.
        batch_size: Examples per update, over all processes and micro-batches, so that neither changes what is learned.
        accumulation: Micro-batches per update and process. The update is that of the whole batch if the loss is a mean
            over examples; with masks, means over positions of micro-batches are averaged.
        seed: Of order, noise and dropout.
        optimizer: Builds the optimiser of the objective's trainable parameters.
        schedule: Factor of its learning rates, of the update (from 1) and ``max_steps``.
        clip: Largest norm of the gradient; ``None`` only records the norm.
        surgery: Take from the gradient of the loss off the diagonal what works against that of the loss on it
            (:class:`~flowmaps.train.surgery.Surgery`), before clipping; records their cosine as ``gradient_cosine``.
        ema: Final decay of the averaged weights; ``None`` for none.
        precision: ``"32-true"``, ``"bf16-mixed"`` (weights, times, noise and losses stay float32) or ``"64-true"``.
        accelerator, devices, strategy: As in Lightning Fabric; ``devices=2, strategy="ddp"`` starts the script again.
        compile: Whether ``torch.compile`` wraps the objective, or its mode.
        log_every, validate_every, save_every: Updates between records, validations and checkpoints.
        evaluate_every: Updates between calls of ``evaluate``; ``None`` for the end only.
        valid_examples: Held-out examples used.
        validate_raw: Also validate the weights that are not averaged, as ``valid_raw/``.
        monitor: Recorded number, lower is better, that says which checkpoint is best.
        keep: Checkpoints kept besides the best.
        prefetch: Updates whose data are made ready ahead in a thread; ``None`` for 2 on accelerators and 0 on the CPU.
        curves, tensorboard, progress: A picture of the records; event files where installed; a bar where there is a
            terminal.
    Raises: ValueError if a setting is outside its range.
    Invariant: interrupted and resumed equals uninterrupted, bit for bit on the CPU (``tests/train/test_resume.py``).
        Noise belongs to the part of the batch, so processes times accumulation is what counts: two processes, and one
        with ``accumulation=2``, learn the same weights, bit for bit where each has as many threads, and a run may
        change between them (``tests/train/test_kill.py``). From three parts on they differ by the order of sums.
    """

    objective: Any
    train_data: Dataset
    valid_data: Dataset | None
    directory: str | Path
    config: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Callable[[nn.Module, int], Mapping[str, Any]] | None = None
    max_steps: int = 10_000
    max_seconds: float | None = None
    batch_size: int = 256
    accumulation: int = 1
    seed: int = 0
    optimizer: AdamW | Callable[[nn.Module], Optimizer] = AdamW()
    schedule: Cosine | Callable[[int, int], float] = Cosine()
    clip: float | None = 1.0
    surgery: bool = False
    ema: float | None = 0.999
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    compile: bool | str = False
    log_every: int = 50
    validate_every: int = 500
    save_every: int = 500
    evaluate_every: int | None = None
    valid_examples: int = 2048
    validate_raw: bool = False
    monitor: str = "valid/loss"
    keep: int = 2
    prefetch: int | None = None
    curves: bool = True
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "accumulation", "log_every", "validate_every", "save_every",
                     "valid_examples", "keep"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a whole number of at least 1")
        if self.prefetch is not None and self.prefetch < 0:
            raise ValueError(f"prefetch is {self.prefetch}, expected at least 0, or None")
        if isinstance(self.compile, str) and self.compile not in COMPILED:
            raise ValueError(f"compile is {self.compile!r}, expected true, false or one of {', '.join(COMPILED)}")
        if self.batch_size > LARGEST:
            raise ValueError(f"batch_size is {self.batch_size}, expected at most {LARGEST} examples of one update")
        check_seed(self.seed)
        for name in ("train_data", "valid_data"):
            data = getattr(self, name)
            if not isinstance(data, Dataset) and not (data is None and name == "valid_data"):
                raise ValueError(f"{name} is a {type(data).__name__}, expected a data set with `batch(index)`; "
                                 "categories in a tensor become one by CategoricalData(tensor)")
        for name in ("max_seconds", "clip", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, expected a number above 0, or None")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if self.surgery and not (hasattr(self.objective, "apart") and self.objective.share < 1):
            raise ValueError("surgery compares a loss on the diagonal with one off it, but the objective "
                             f"{type(self.objective).__name__} has one loss only; give it a share below 1")

    def fit(self, resume: bool = False) -> Report:
        """Train to the end of the budget, from the newest whole checkpoint in the directory if ``resume`` is set.

        Without a checkpoint to resume from (the run was killed before its first) training starts at update 1.

        Raises: CheckpointError if checkpoints are there and ``resume`` is not set, if none of them is whole or fits, if
            the run was trained with another seed, batch size or data, or if a file cannot be written.
            NonFiniteError if the loss, its gradient or a weight is not finite; no such weights are ever saved.
        """
        # imported here: it takes seconds, which other commands need not wait for
        from lightning.fabric import Fabric
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        from .run import fit

        # Fabric would cast all that enters a module in mixed precision, times and noise too: Mixed does not.
        precision = "64-true" if self.precision == "64-true" else "32-true"
        try:
            fabric = Fabric(
                accelerator=self.accelerator, strategy=self.strategy, devices=self.devices, precision=precision
            )
        except (ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"accelerator {self.accelerator!r}, devices {self.devices!r} and strategy "
                             f"{self.strategy!r} do not fit this machine: {str(error)[:200]}") from error
        return fabric.launch(fit, self, resume)  # pyright: ignore[reportArgumentType]  (it passes the rest on)
