"""Training in one call: ``Trainer(objective, data, ...).fit()``."""

from __future__ import annotations

from dataclasses import dataclass

from .parallel import launchable
from .run import Report, fit
from .settings import Plan


@dataclass
class Trainer(Plan):
    """Minimises an objective on data, on one device or many, in a way that can be stopped and continued at any moment.

    The noise of update n is a function of (seed, n, process) and the data are a function of (seed, n), so a resumed run
    equals an unbroken one (bit for bit on the CPU) and no random state is kept. Parallelism, precision and compilation
    wrap the objective from outside. The settings come in groups (:mod:`flowmaps.train.settings`): ``Budget``,
    ``Batches``, ``Learning``, ``Hardware``, ``Measuring``, ``Reporting`` and ``Saving``.

    Raises: ValueError if a setting is outside its range.
    Invariant: interrupted and resumed equals uninterrupted, bit for bit on the CPU (``tests/train/test_resume.py``).
        Noise belongs to the part of the batch, so processes times accumulation is what counts: two processes, and one
        with ``accumulation=2``, learn the same weights, bit for bit where each has as many threads, and a run may
        change between them (``tests/train/test_kill.py``). From three parts on they differ by the order of sums. Only
        a budget of processor time, over which the schedule is stretched, makes a run depend on the machine.
    """

    def fit(self, resume: bool = False) -> Report:
        """Train to the end of the budget, from the newest whole checkpoint in the directory if ``resume`` is set.

        Without a checkpoint to resume from (the run was killed before its first) training starts at update 1.

        Raises: CheckpointError if checkpoints are there and ``resume`` is not set, if none of them is whole or fits, if
            the run was trained with another seed, batch size or data, or if a file cannot be written.
            NonFiniteError if the loss, its gradient or a weight is not finite; no such weights are ever saved.
        """
        fabric = launchable(self)
        return fabric.launch(fit, self, resume)  # pyright: ignore[reportArgumentType]  (it passes the rest on)
