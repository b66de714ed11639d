"""Small honest objectives for the tests of the engine: least squares with noise, dropout, buffers, shared weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import flowmaps
from flowmaps.fields import Batch, Condition
from flowmaps.objectives import Objective
from flowmaps.train import AdamW, Cosine, Trainer


class Pairs:
    """Inputs x and targets y = A x of a fixed linear law; the row is known to the batch, for tests of the order."""

    def __init__(self, size: int = 64, d: int = 4, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, d, generator=generator)
        self.y = self.x @ torch.randn(d, d, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> Batch:
        return Batch(self.x[index], Condition(label=self.y[index]))


class Tied(nn.Module):
    """Encoder and decoder share one matrix; the norm may have buffers; dropout uses the global generator."""

    def __init__(self, d: int = 4, width: int = 8, dropout: float = 0.1, norm: type[nn.Module] = nn.BatchNorm1d):
        super().__init__()
        self.encoder = nn.Linear(d, width, bias=False)
        self.norm = norm(width)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(width, d, bias=True)
        self.decoder.weight = nn.Parameter(torch.empty(d, width))
        nn.init.normal_(self.decoder.weight)
        self.again = self.encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.dropout(torch.tanh(self.norm(self.again(x)))))


class Noise(NamedTuple):
    epsilon: Tensor


class LeastSquares(Objective):
    """Denoising least squares, with a learned log-weight and a slow teacher, so that both have to be kept."""

    def __init__(
        self,
        seed: int = 0,
        sigma: float = 0.1,
        dropout: float = 0.1,
        d: int = 4,
        norm: type[nn.Module] = nn.BatchNorm1d,
    ):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.flow_map = Tied(d, dropout=dropout, norm=norm)
        self.sigma = sigma
        self.log_weight = nn.Parameter(torch.zeros(()))
        self.teacher = nn.Parameter(self.flow_map.decoder.bias.detach().clone(), requires_grad=False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def draw(self, batch: Batch, generator: torch.Generator) -> Noise:
        return Noise(torch.randn(batch.x_1.shape, generator=generator, device=generator.device, dtype=batch.x_1.dtype))

    def forward(self, batch: Batch, draw: Noise) -> dict[str, Tensor]:
        error = self.flow_map(batch.x_1 + self.sigma * draw.epsilon) - batch.condition.label
        square = error.float().square().mean() + 0.01 * (self.flow_map.decoder.bias - self.teacher).square().mean()
        return {"loss": torch.exp(-self.log_weight) * square + self.log_weight, "square": square}

    @torch.no_grad()
    def after_step(self) -> None:
        self.teacher.lerp_(self.flow_map.decoder.bias, 0.1)
        self.updates += 1


class Linear(Objective):
    """Least squares of one matrix without any noise: its gradients are those of the mean over the batch."""

    def __init__(self, d: int = 4):
        super().__init__()
        self.flow_map = nn.Linear(d, d, dtype=torch.float64)
        with torch.no_grad():
            self.flow_map.weight.copy_(torch.eye(d))
            self.flow_map.bias.zero_()

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        return None

    def forward(self, batch: Batch, draw: None) -> dict[str, Tensor]:
        return {"loss": (self.flow_map(batch.x_1.double()) - batch.condition.label.double()).square().mean()}


class Torn(Linear):
    """Two least squares of one matrix: y asks for one thing, and -y/2 with three times the weight for another."""

    share = 0.5
    targets = ((1.0, 1.0), (-0.5, 3.0))

    def apart(self, batch: Batch, draw: None) -> tuple[tuple[Batch, int], tuple[Batch, int]]:
        return (batch, 0), (batch, 1)

    def forward(self, batch: Batch, draw: int | None) -> dict[str, Tensor]:
        y, asked = batch.condition.label.double(), self.targets if draw is None else self.targets[draw : draw + 1]
        moved = self.flow_map(batch.x_1.double())
        losses = [weight * (moved - factor * y).square().mean() for factor, weight in asked]
        return {"loss": sum(losses[1:], losses[0])}


def trainer(
    directory: Path | None, objective: nn.Module | None = None, data: Any = None, held_out: Any = None, **settings
) -> Trainer:
    """A run of 40 quick updates that records, validates and saves often; settings override."""
    plain = dict(
        max_steps=40,
        batch_size=16,
        log_every=4,
        validate_every=10,
        save_every=10,
        valid_examples=24,
        optimizer=AdamW(lr=1e-2),
        schedule=Cosine(warmup=5, floor=1.0),
        ema=0.9,
        accelerator="cpu",
        curves=False,
        tensorboard=False,
        progress=False,
        config={"name": "toy"},
    )
    data = Pairs() if data is None else data
    held_out = Pairs(32, seed=1) if held_out is None else held_out
    return Trainer(objective or LeastSquares(), data, held_out, directory, **{**plain, **settings})


def environment() -> dict[str, str]:
    """Environment of a new Python process that finds this library and these tests, and uses one thread."""
    paths = [str(Path(flowmaps.__file__).parents[1]), str(Path(__file__).parents[1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint folder, by file and name."""
    from safetensors.torch import load_file

    return {
        f"{path.name}:{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_equal_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]), name


class Signalling(Pairs):
    """Data that send a signal to the process when batch number ``at`` is asked for."""

    def __init__(self, at: int, number: int = signal.SIGTERM, times: int = 1):
        super().__init__(seed=0)
        self.at, self.number, self.times = at, number, times

    def batch(self, index: Tensor) -> Batch:
        self.at -= 1
        if self.at == 0:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        return super().batch(index)


class Broken(LeastSquares):
    """Its loss, or only the gradient of it, or only its value, is not finite at update ``at``."""

    def __init__(self, at: int, how: str = "both"):
        super().__init__()
        self.at, self.how = at, how

    def forward(self, batch: Batch, draw: Noise) -> dict[str, Tensor]:
        values = super().forward(batch, draw)
        if self.training and int(self.updates) == self.at - 1:
            zero = values["loss"] - values["loss"].detach()
            spoilt = {
                "both": values["loss"] * float("nan"),
                "gradient": values["loss"] + zero.abs().sqrt() * 0,
                "value": values["loss"] + float("inf"),
            }
            values["loss"] = spoilt[self.how]
        return values
