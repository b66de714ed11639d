"""What the studies of scale share: the text, the network, a training, and measures that no weighting touches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flowmaps.maps import FlowMap
from flowmaps.metrics.text import entropies, mean, word_validity
from flowmaps.metrics.text_judges import NgramJudge, perplexity
from flowmaps.networks import Transformer
from flowmaps.objectives import Average, SelfDistillation, SemigroupKL
from flowmaps.samplers import Sampler
from flowmaps.tasks.text import Text
from flowmaps.times import FullJump, OnClock, PairOnClock, Uniform
from flowmaps.train import AdamW, Cosine, Muon, Report, Trainer
from records import require_whole

LETTERS, JUDGED = 64, 20_000_000  # of a window; of the text that the judge has read
Make = Callable[[FlowMap], SelfDistillation]


class Size(NamedTuple):
    """A transformer of the studies."""

    width: int
    depth: int
    heads: int
    split: float | None = None


SMALLEST = Size(48, 3, 2)


@cache
def text(size: Size = SMALLEST) -> Text:
    """27-letter novels in windows of 64, modelled by a transformer of a size."""
    width, depth, heads, split = size
    network = partial(Transformer, width=width, depth=depth, heads=heads, split=split, reach=4, shared=True)
    return Text("novels", tokeniser="letters", length=LETTERS, given=False, network=network)


def weights(flow_map: FlowMap) -> int:
    return sum(parameter.numel() for parameter in flow_map.parameters())


def diagonal(**options: Any) -> Make:
    """The diagonal alone."""
    return lambda flow_map: SelfDistillation(flow_map, share=1.0, **{"times": OnClock(), **options})


def jumping(**options: Any) -> Make:
    """A quarter of the batch learns jumps: the semigroup at the midpoint, with averaged targets."""
    pairs = PairOnClock(law=FullJump())
    return lambda flow_map: SelfDistillation(flow_map, SemigroupKL(fraction=0.5), times=OnClock(), pairs=pairs,
                                             teacher=Average(flow_map, 0.99), **options)  # fmt: skip


def muon(factor: float = 1.0, wider: float = 1.0) -> Muon:
    """The optimiser of the preset ``novels``, at a multiple of its rates."""
    others = AdamW(lr=3e-3 * factor, betas=(0.9, 0.99), weight_decay=0.0)
    return Muon(lr=1e-2 * factor, others=others, wider=wider)


def train(size: Size, make: Make, seed: int, **options: Any) -> Report:
    """A training in bfloat16; options are those of the trainer."""
    torch.manual_seed(seed)
    task = text(size)
    settings = {"optimizer": muon(), "schedule": Cosine(warmup=10), "batch_size": 32, "max_steps": 100_000,
                "precision": "bf16-mixed", "accelerator": "cpu", "progress": False}  # fmt: skip
    report = Trainer(make(task.build_map()), task.train_data, seed=seed, **{**settings, **options}).fit()
    require_whole(report)
    return report


def flops(size: Size, make: Make, batch: int) -> int:
    """Floating-point operations of the gradient of a batch, as torch counts them."""
    task = text(size)
    objective, generator = make(task.build_map()), torch.Generator().manual_seed(0)
    examples = task.train_data.batch(torch.arange(batch))
    with FlopCounterMode(display=False) as counter:
        objective(examples, objective.draw(examples, generator))["loss"].backward()
    return counter.get_total_flops()


# -- measures --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def cross_entropy(flow_map: FlowMap, n: int = 512, uniform: bool = False) -> float:
    """Held-out cross-entropy of the diagonal (nats a letter), uniform on the clock or in time; the noise is common."""
    objective = SelfDistillation(flow_map, share=1.0, times=Uniform() if uniform else OnClock()).eval()
    data, losses = text().splits.valid, []
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:n]
    for k, part in enumerate(rows.split(128)):
        batch = data.batch(part)
        draw = objective.draw(batch, torch.Generator().manual_seed(k))
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(float(objective(batch, draw)["diagonal"]))
    return sum(losses) / len(losses)


@cache
def judge() -> tuple[NgramJudge, frozenset[str]]:
    """The n-gram model of the training text, and its words."""
    corpus = text().splits.train.tokens(JUDGED)
    words = text().tokeniser.decode(corpus.tolist()).split()
    return NgramJudge(corpus, text().tokeniser.size, 6), frozenset(words)


def judged(tokens: Tensor) -> dict[str, float]:
    """Share of words that are words of the training text, judge perplexity, and entropy within a sample."""
    ngrams, words = judge()
    rows = tokens.numpy()
    found = mean(word_validity(text().decoded(tokens), words))
    return {"words": found.value, "words_error": found.error, "entropy": mean(entropies(rows)).value,
            "perplexity": perplexity(ngrams.nats(rows)).value}  # fmt: skip


@torch.no_grad()
def quality(flow_map: FlowMap, samplers: Mapping[str, Sampler], n: int) -> dict[str, dict[str, float]]:
    """The measures of ``n`` samples of each sampler from common noise, last letters drawn at temperature 1."""
    result = {}
    for name, sampler in samplers.items():
        with torch.autocast("cpu", torch.bfloat16):
            tokens = text().sample(flow_map, n, sampler, torch.Generator().manual_seed(7), batch=128)
        result[name] = judged(tokens)
    return result
