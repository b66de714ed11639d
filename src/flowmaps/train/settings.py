"""The settings of a run, in groups; each has one flat name, in Python, in YAML and on the command line.

A group is a dataclass with its own documentation and checks, and what needs one group takes that group alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from ..data import Dataset
from ..maps import FlowMap
from ..objectives import Objective
from ..seeds import check_seed
from .muon import Muon
from .optim import AdamW, Cosine
from .surgery import Divided

COMPILED = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
LARGEST = 2**24  # examples of one update; their order alone takes 128 MB
PRECISIONS = ("32-true", "bf16-mixed", "64-true", "auto")


class Group:
    """Settings that are checked when they are made."""

    def __post_init__(self) -> None:
        """Raise ValueError if a setting is outside its range."""

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a whole number of at least 1")

    def _above_zero(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, expected a number above 0, or None")


@dataclass(kw_only=True)
class Budget(Group):
    """When a run ends: at the first limit that is reached.

    Arguments:
        max_steps: Updates in all; the schedule is stretched over them.
        max_seconds: Time budget over all sessions of the run, validation included. It ends the run between two updates
            (several processes: at a record) and does not change the schedule, which counts updates, unless it is
            stretched.
        stretch: Stretch the schedule over the updates that ``max_seconds`` is seen to allow, so that it ends with the
            time; the updates then depend on the machine.
        max_cpu_seconds: Budget of processor time of the updates alone, over all sessions and threads of one process;
            for comparisons on a shared machine. The schedule is stretched over the updates that it is seen to allow.
    """

    max_steps: int = 10_000
    max_seconds: float | None = None
    stretch: bool = False
    max_cpu_seconds: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("max_steps")
        self._above_zero("max_seconds", "max_cpu_seconds")
        if self.stretch and self.max_seconds is None:
            raise ValueError("stretch fits the schedule to max_seconds, but there is none; give the seconds")


@dataclass(kw_only=True)
class Batches(Group):
    """What an update is made of.

    Arguments:
        batch_size: Examples per update, over all processes and micro-batches, so that neither changes what is learned.
        accumulation: Micro-batches per update and process. The update is that of the whole batch if the loss is a mean
            over examples; with masks, means over positions of micro-batches are averaged.
        seed: Of order, noise and dropout.
        prefetch: Updates whose data are made ready ahead in a thread; ``None`` for 2 on accelerators and 0 on the CPU.
    """

    batch_size: int = 256
    accumulation: int = 1
    seed: int = 0
    prefetch: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("batch_size", "accumulation")
        if self.batch_size > LARGEST:
            raise ValueError(f"batch_size is {self.batch_size}, expected at most {LARGEST} examples of one update")
        if self.prefetch is not None and self.prefetch < 0:
            raise ValueError(f"prefetch is {self.prefetch}, expected at least 0, or None")
        check_seed(self.seed)


@dataclass(kw_only=True)
class Learning(Group):
    """What an update does with the gradient.

    Arguments:
        optimizer: Builds the optimiser of the objective's trainable parameters.
        schedule: Factor of its learning rates, of the update (from 1) and ``max_steps``.
        clip: Largest norm of the gradient; ``None`` only records the norm.
        surgery: Take from the gradient of the loss off the diagonal what works against that of the loss on it
            (:class:`~flowmaps.train.surgery.Surgery`), before clipping; records their cosine as ``gradient_cosine``.
        ema: Final decay of the averaged weights; ``None`` for none.
    """

    optimizer: AdamW | Muon | Callable[[nn.Module], Optimizer] = AdamW()
    schedule: Cosine | Callable[[int, int], float] = Cosine()
    clip: float | None = 1.0
    surgery: bool = False
    ema: float | None = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above_zero("clip")


@dataclass(kw_only=True)
class Hardware(Group):
    """Where a run computes, and in which numbers.

    Arguments:
        precision: ``"32-true"``, ``"bf16-mixed"`` (weights, times, noise and losses stay float32), ``"64-true"``, or
            ``"auto"``: bfloat16 where the device has instructions for it, else float32.
        accelerator, devices, strategy: As in Lightning Fabric; ``devices=2, strategy="ddp"`` starts the script again,
            and ``"fsdp2"`` shards weights, gradients, averages and moments (:class:`~flowmaps.train.strategy.Sharded`).
            Under ``torchrun`` and SLURM ``devices=1`` stands for the processes that were started.
        compile: Whether ``torch.compile`` wraps the objective, or its mode.
        recompute: Compute the activations of a network's blocks anew in the backward pass, for memory; also those of
            derivatives (:func:`~flowmaps.recomputing.recompute`).
    """

    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    compile: bool | str = False
    recompute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if isinstance(self.compile, str) and self.compile not in COMPILED:
            raise ValueError(f"compile is {self.compile!r}, expected true, false or one of {', '.join(COMPILED)}")
        if self.compile and self.recompute:
            raise ValueError("recompute hides blocks from the compiler; use compile=false, or recompute=false")


@dataclass(kw_only=True)
class Measuring(Group):
    """What is measured on the way, and when.

    Arguments:
        validate_every: Updates between validations; the last weights are always validated.
        evaluate_every: Updates between calls of ``evaluate``; ``None`` for the end only.
        valid_examples: Held-out examples used.
        validate_raw: Also validate the weights that are not averaged, as ``valid_raw/``.
        monitor: Recorded number, lower is better, that says which checkpoint is best.
    """

    validate_every: int = 500
    evaluate_every: int | None = None
    valid_examples: int = 2048
    validate_raw: bool = False
    monitor: str = "valid/loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("validate_every", "valid_examples")
        self._above_zero("evaluate_every")


@dataclass(kw_only=True)
class Reporting(Group):
    """What is shown and written of the numbers.

    Arguments:
        log_every: Updates between records.
        curves: A picture of the records.
        tensorboard: Event files; by default where the package is installed.
        wandb: Project of Weights & Biases that the records also go to.
        progress: A bar, where there is a terminal.
    """

    log_every: int = 50
    curves: bool = True
    tensorboard: bool | None = None
    wandb: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("log_every")
        for package, asked in (("tensorboard", self.tensorboard), ("wandb", self.wandb)):
            if asked and find_spec(package) is None:
                extra = f"pip install 'flowmaps[{package}]'"
                raise ValueError(f"{package} is {asked!r}, but that package is missing: {extra}, or leave it out")


@dataclass(kw_only=True)
class Saving(Group):
    """Which checkpoints are written and kept.

    Arguments:
        save_every: Updates between checkpoints.
        keep: Checkpoints kept besides the best.
    """

    save_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("save_every", "keep")


@dataclass
class Plan(Saving, Reporting, Measuring, Hardware, Learning, Batches, Budget):
    """All that a run is: what it minimises, on which data, and every group of settings.

    Arguments:
        objective: The loss; the names of the scalars that it returns must not change.
        train_data, valid_data: Data sets; without held-out data nothing is validated.
        directory: Folder of the run: ``checkpoint/``, ``metrics.jsonl``, ``metrics.csv``, ``curves.png``. ``None``
            writes no file: the records are in the report, and the run cannot be resumed.
        config: Plain dictionary kept in every checkpoint, from which the map can be built again.
        evaluate: ``evaluate(map, step)`` returning (nested) numbers; recorded under ``quality/``. Called on the first
            process with the averaged map, in evaluation mode and without gradients.
    """

    objective: Objective
    train_data: Dataset
    valid_data: Dataset | None = None
    directory: str | Path | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    evaluate: Callable[[FlowMap, int], Mapping[str, object]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.objective, Objective):
            raise ValueError(
                f"objective is a {type(self.objective).__name__}, expected an objective of `draw(batch, "
                "generator)` and `forward(batch, draw)`; derive it from flowmaps.objectives.Objective"
            )
        for name in ("train_data", "valid_data"):
            data = getattr(self, name)
            if not isinstance(data, Dataset) and not (data is None and name == "valid_data"):
                raise ValueError(
                    f"{name} is a {type(data).__name__}, expected a data set with `batch(index)`; "
                    "categories in a tensor become one by CategoricalData(tensor)"
                )
        if self.surgery and not (isinstance(self.objective, Divided) and self.objective.share < 1):
            raise ValueError(
                "surgery compares a loss on the diagonal with one off it, but the objective "
                f"{type(self.objective).__name__} has one loss only; give it a share below 1"
            )
