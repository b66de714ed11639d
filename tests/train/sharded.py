"""Train the same on one process, by DDP and by FSDP2 on two, and resume on one and three; kill one of two.

Run as ``python sharded.py DIRECTORY``, or with ``more`` or ``compiled`` behind it; what ``test_sharded.py`` reads.
Processes are forked from one that imported all.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import sys
import warnings
from functools import partial
from pathlib import Path

import torch

torch.set_num_threads(1)
warnings.filterwarnings("ignore")

from lightning.fabric import Fabric, strategies  # noqa: E402, F401  (imported once, before the forks)
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed import checkpoint, fsdp, tensor  # noqa: E402, F401

from data import stress  # noqa: E402
from flowmaps.data import CategoricalData  # noqa: E402
from flowmaps.objectives import Average, EulerianKL, Lagrangian, SelfDistillation, SemigroupKL  # noqa: E402
from flowmaps.tasks.text import build_map  # noqa: E402
from flowmaps.train import Muon  # noqa: E402
from flowmaps.train.deferral import deferred, is_deferred  # noqa: E402
from train.launched import ends, launch, start  # noqa: E402
from train.toys import LeastSquares, Signalling, Torn, trainer  # noqa: E402

KINDS = {"LSD": Lagrangian, "ESD-KL": EulerianKL, "PSD-KL": SemigroupKL}
K, STEPS = 11, 4


def distilled(kind: str, width: int = 16, depth: int = 2) -> SelfDistillation:
    """An objective of texts over K letters, embedded, with a tied head in chunks and an averaged teacher."""
    torch.manual_seed(0)
    return unseeded(kind, width, depth)


def unseeded(kind: str = "PSD-KL", width: int = 16, depth: int = 2) -> SelfDistillation:
    """The same, with whatever the generator gives."""
    flow_map = build_map(K, embedding=width, tied=True, chunk=5, width=width, depth=depth, heads=2)
    for parameter in flow_map.parameters():
        nn.init.normal_(parameter, std=0.3)
    return SelfDistillation(flow_map, KINDS[kind](), teacher=Average)


def texts(seed: int) -> CategoricalData:
    return CategoricalData(torch.randint(K, (48, 6), generator=torch.Generator().manual_seed(seed)))


def descent(objective: nn.Module) -> torch.optim.Optimizer:
    """One step of it is the gradient."""
    return torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=1.0)


def fit(directory: Path, objective: nn.Module, resume: bool = False, **settings):
    plain = dict(max_steps=STEPS, batch_size=12, log_every=1, validate_every=2, save_every=2, valid_examples=10)
    return trainer(directory, objective, texts(0), texts(1), **{**plain, **settings}).fit(resume)


def gradient(directory: Path, kind: str, **settings) -> None:
    fit(directory / "gradient" / kind, distilled(kind), max_steps=1, optimizer=descent, clip=None, ema=None, **settings)


def curve(directory: Path, kind: str, **settings) -> None:
    fit(directory / "curve" / kind, distilled(kind), **settings)


def parity(directory: Path, rank: int = 0, **settings) -> None:
    """What one process, DDP and FSDP2 must do alike."""
    fit(directory / "muon", distilled("PSD-KL"), optimizer=Muon(), **settings)
    for kind in KINDS:
        gradient(directory, kind, **settings)
        curve(directory, kind, **settings)


def more(directory: Path, rank: int = 0, **settings) -> None:
    """Blocks that compute anew, weights in bfloat16 and float64, and an objective with a scalar weight."""
    fit(directory / "recomputed", distilled("LSD"), recompute=True, **settings)
    fit(directory / "bf16", distilled("PSD-KL"), precision="bf16-mixed", **settings)
    torch.manual_seed(0)
    fit(directory / "float64", deferred(unseeded), precision="64-true", **settings)
    trainer(directory / "scalar", LeastSquares(norm=nn.LayerNorm), max_steps=20, **settings).fit()


def compiled(directory: Path, rank: int = 0, kind: str = "PSD-KL", **settings) -> None:
    """Updates of one block, with held-out data, and the gradient in float64, since a compiler orders sums anew."""
    fit(directory / kind, distilled(kind, depth=1), **settings)
    once = dict(max_steps=1, optimizer=descent, clip=None, ema=None)
    fit(directory / f"{kind}-gradient", distilled(kind, depth=1).double(), **once, **settings)


def sharded(directory: Path, rank: int) -> None:
    parity(directory, strategy="fsdp2")
    torch.manual_seed(0)
    later = deferred(unseeded)
    assert is_deferred(later)
    fit(directory / "deferred", later, strategy="fsdp2")
    told = {}
    try:
        trainer(None, Torn(), surgery=True, strategy="fsdp2").fit()
    except ValueError as error:
        told["surgery"] = str(error)
    (directory / f"told_by_{rank}.json").write_text(json.dumps(told))


def goes_on(directory: Path, rank: int, accumulation: int) -> None:
    """Continue the run of the Lagrangian curve for two updates; write the weights that it begins and ends with."""
    for max_steps in (STEPS, STEPS + 2):
        settings = dict(max_steps=max_steps, accumulation=accumulation, strategy="fsdp2")
        report = fit(directory, distilled("LSD"), True, **settings)
        if rank == 0:
            save_file(report.flow_map.state_dict(), directory / f"map-{report.step}.safetensors")


def killed(directory: Path, rank: int) -> None:
    """The second process dies at update 5, after the checkpoint of update 3."""
    data = Signalling(5, signal.SIGKILL) if rank else None
    often = dict(max_steps=8, save_every=3, log_every=1, strategy="fsdp2")
    try:
        trainer(directory / "killed", LeastSquares(norm=nn.LayerNorm), data, **often).fit()
    except ConnectionError as error:
        (directory / "killed.txt").write_text(str(error))


def resumed(directory: Path, rank: int) -> None:
    often = dict(max_steps=8, save_every=3, log_every=1, strategy="fsdp2")
    for name, resume in (("killed", True), ("unbroken", False)):
        trainer(directory / name, LeastSquares(norm=nn.LayerNorm), **often).fit(resume)


def others(directory: Path) -> None:
    more(directory / "one", accumulation=2)
    launch(2, partial(more, directory / "fsdp2", strategy="fsdp2"))


def together(directory: Path) -> None:
    """Without the compiler on one process, with it on two."""
    for kind in ("PSD-KL", "LSD"):
        compiled(directory / "one", kind=kind, accumulation=2)
        launch(2, partial(compiled, directory / "fsdp2", kind=kind, strategy="fsdp2", compile=True))


def main(directory: Path) -> None:
    parity(directory / "one", accumulation=2)
    launch(2, lambda rank: parity(directory / "ddp", strategy="ddp"))
    launch(2, partial(sharded, directory / "fsdp2"))
    for world, accumulation in ((1, 2), (2, 1), (3, 1)):
        shutil.copytree(directory / "fsdp2" / "curve" / "LSD", directory / f"on_{world}")
        launch(world, partial(goes_on, directory / f"on_{world}", accumulation=accumulation))
    codes = ends(start(2, partial(killed, directory)))
    (directory / "codes.json").write_text(json.dumps(codes))
    launch(2, partial(resumed, directory))
    stress.main(directory / "stress", shards=10, kills=1)


if __name__ == "__main__":
    logging.getLogger("lightning").setLevel(logging.ERROR)
    {"more": others, "compiled": together}.get(sys.argv[-1], main)(Path(sys.argv[1]))
