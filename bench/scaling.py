r"""What matters when text models grow: times and weights, learning rates, and how loss falls with compute.

    python bench/scaling.py times --seeds 0 1 2
    python bench/scaling.py longer --seeds 0 1
    python bench/scaling.py sizes
    python bench/scaling.py far
    python bench/scaling.py rates
    python bench/scaling.py drift
    python bench/scaling.py report

Every study trains small transformers on 27-letter novels. A row is written to ``bench/results/scaling.json`` after its
run and then skipped; what a signal ended is not recorded. ``report`` makes the tables and the picture of what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import flowmaps
from flowmaps.files import write_json
from flowmaps.likelihood.bounds import cut_off
from flowmaps.maps import FlowMap
from flowmaps.objectives import (
    AdaptiveWeight,
    Average,
    GapCurriculum,
    ImportanceSampled,
    LearnedWeight,
    SelfDistillation,
    SemigroupKL,
)
from flowmaps.samplers import Euler, Jumps, Sampler
from flowmaps.times import FullJump, OnClock, PairOnClock, RatioPower, Uniform, on_alphabet, stratified
from flowmaps.train import Cosine
from objectives import commit
from scaling_common import (
    Make,
    Size,
    cross_entropy,
    diagonal,
    flops,
    jumping,
    muon,
    quality,
    text,
    train,
    weights,
)
from scaling_report import write

CODE = commit()  # of what runs, whatever is committed meanwhile
OUT = Path(__file__).parent / "results" / "scaling.json"
Row = dict[str, Any]
Jobs = Iterator[tuple[Row, Callable[[], Row]]]

# -- times and weights, in equal processor time ----------------------------------------------------------------------

SMALL, SECONDS, LONGER, FACTOR = Size(64, 3, 4), 10.0, 60.0, 2.0
LETTERS, TOP = 27, cut_off(27)


def mean_closeness() -> float:
    """The mean of 1 - (t - s) over the pairs of the studies, at which the curriculum's weights have mean 1."""
    s, t = on_alphabet(PairOnClock(law=FullJump()), [LETTERS])(stratified(2**16, 2, generator=torch.Generator()))
    return float((1 - (t - s)).mean())


VARIANTS: dict[str, tuple[Callable[[], Make], Size]] = {
    "uniform in time": (lambda: diagonal(times=Uniform()), SMALL),
    "decode-rate clock, tempered": (diagonal, SMALL),
    "uniform in u": (lambda: diagonal(times=RatioPower(1, TOP)), SMALL),
    "likelihood": (lambda: diagonal(times=RatioPower(2, TOP)), SMALL),
    "importance on the clock, deviation": (lambda: diagonal(times=OnClock(law=ImportanceSampled())), SMALL),
    "importance on the clock, second moment": (
        lambda: diagonal(times=OnClock(law=ImportanceSampled(centred=False))), SMALL),
    "pairs": (jumping, SMALL),
    "pairs, learned weight": (lambda: jumping(weight=LearnedWeight()), SMALL),
    "pairs, adaptive weight": (lambda: jumping(weight=AdaptiveWeight()), SMALL),
    "pairs, gap curriculum": (lambda: jumping(weight=GapCurriculum(mean=mean_closeness())), SMALL),
    "pairs, split times": (jumping, SMALL._replace(split=0.6)),
}  # fmt: skip


AGAIN = ("decode-rate clock, tempered", "uniform in time", "uniform in u", "importance on the clock, deviation",
         "pairs", "pairs, split times", "pairs, gap curriculum")  # fmt: skip


def times(seeds: list[int], names: Sequence[str] = tuple(VARIANTS), seconds: float = SECONDS) -> Jobs:
    for name in names:
        for seed in seeds:
            make, size = VARIANTS[name]
            samplers = {"1": Jumps(1), "4": Jumps(4)} if name.startswith("pairs") else {"euler8": Euler(8)}
            yield {"name": name, "seed": seed}, partial(_times, make(), size, seed, samplers, seconds)


def _times(make: Make, size: Size, seed: int, samplers: Mapping[str, Sampler], seconds: float) -> Row:
    options = {"max_cpu_seconds": seconds, "ema": 0.98, "optimizer": muon(FACTOR)}
    report = train(size, make, seed, **options)
    found = {"clock": cross_entropy(report.flow_map), "uniform": cross_entropy(report.flow_map, uniform=True),
             "sizes": cross_entropy(report.flow_map, 256)}  # fmt: skip  # as the study of sizes measures it
    return {"updates": report.step, "cross_entropy": found, "samples": quality(report.flow_map, samplers, 256)}


# -- sizes, each along its training ----------------------------------------------------------------------------------

SIZES = {Size(48, 2, 2): 40.0, Size(64, 3, 2): 60.0, Size(96, 3, 4): 120.0, Size(128, 4, 4): 50.0,
         Size(192, 4, 6): 25.0, Size(256, 5, 8): 50.0}  # fmt: skip
NARROW = 64  # the width whose rates are taken to the others


def sizes(seeds: list[int]) -> Jobs:
    for seed in seeds[:1]:
        for size, seconds in SIZES.items():
            yield {"width": size.width, "seed": seed}, partial(_sizes, size, seconds, seed)


def _sizes(size: Size, seconds: float, seed: int) -> Row:
    """One training at a constant rate; its averaged weights are measured whenever they have seen 1.4 times as much."""
    points: list[Row] = []

    def measure(flow_map: FlowMap, step: int) -> Mapping[str, object]:
        if not points or step >= 1.4 * points[-1]["updates"]:
            points.append({"updates": step, "cross_entropy": cross_entropy(flow_map, 256)})
        return {}

    report = train(size, jumping(), seed, max_cpu_seconds=seconds, ema=0.98, evaluate=measure, evaluate_every=8,
                   schedule=Cosine(warmup=10, floor=1.0), optimizer=muon(FACTOR, size.width / NARROW))  # fmt: skip
    points.append({"updates": report.step, "cross_entropy": cross_entropy(report.flow_map, 256)})
    return {"depth": size.depth, "weights": weights(report.flow_map), "flops": flops(size, jumping(), 32),
            "updates": report.step, "points": points,
            "samples": quality(report.flow_map, {"1": Jumps(1), "4": Jumps(4)}, 256)}  # fmt: skip


def far(seeds: list[int]) -> Jobs:
    yield {"model": "novels"}, _far


def _far() -> Row:
    """The model of the package; the recorded row is of an earlier one, of 2.6 M weights."""
    size = Size(192, 5, 6)
    flow_map = flowmaps.load(str(Path(__file__).parents[1] / "models" / "novels"), "cpu").flow_map
    paths: Make = lambda m: SelfDistillation(m, SemigroupKL(fraction=(0.5, 0.75)), share=0.5, teacher=Average)  # noqa: E731
    compute = 4417 * flops(size, diagonal(), 64) + 1303 * flops(size, paths, 64)
    return {"weights": weights(flow_map), "compute": compute, "cross_entropy": cross_entropy(flow_map, 256),
            "samples": quality(flow_map, {"1": Jumps(1), "4": Jumps(4)}, 256)}  # fmt: skip


# -- learning rates over widths --------------------------------------------------------------------------------------

UPDATES, FACTORS = 60, (2.0, 4.0, 1.0, 8.0, 16.0)
WIDTHS, FAR = (48, 96, 192), (96, 192, 384, 768)
# Where an update takes seconds: width, whether rates go by width, their multiple.
WIDER = ((384, True, 8.0), (384, False, 2.0), (384, False, 8.0), (384, True, 2.0), (768, True, 8.0))


def rates(seeds: list[int]) -> Jobs:
    runs = [(width, moved, factor) for factor in FACTORS for width, moved in over(WIDTHS)]
    for seed in seeds:
        for width, moved, factor in (*runs, *WIDER):
            key = {"width": width, "transferred": moved, "factor": factor, "seed": seed}
            yield key, partial(_rates, width, width / WIDTHS[0] if moved else 1.0, factor, seed)


def over(widths: Sequence[int]) -> list[tuple[int, bool]]:
    """Each width with rates as they are and, of the wider ones, by width."""
    return [(width, moved) for width in widths for moved in (False, True)[: 1 + (width > widths[0])]]


def _rates(width: int, wider: float, factor: float, seed: int) -> Row:
    report = train(Size(width, 3, width // 24), diagonal(), seed, batch_size=16, max_steps=UPDATES, ema=None,
                   optimizer=muon(factor, wider))  # fmt: skip
    return {"weights": weights(report.flow_map), "updates": UPDATES, "cross_entropy": cross_entropy(report.flow_map)}


def drift(seeds: list[int]) -> Jobs:
    for seed in seeds:
        for width, moved in over(FAR):
            yield ({"width": width, "transferred": moved, "seed": seed},
                   partial(_drift, width, width / FAR[0] if moved else 1.0, seed))  # fmt: skip


@torch.no_grad()
def logits(flow_map: FlowMap) -> float:
    """Deviation of the logits on held-out windows."""
    x_1 = text().splits.valid.batch(torch.arange(32)).x_1
    noise = flow_map.noise(flow_map.space.positions(x_1), torch.Generator().manual_seed(1))
    t = torch.linspace(0.2, 0.95, len(noise))
    x_t = flow_map.path(flow_map.path.start(noise), x_1, t)
    return float(flow_map.prediction(flow_map.features(x_t, t, t)).std())


def _drift(width: int, wider: float, seed: int) -> Row:
    """How far four updates move the logits, which start at zero, and the loss after them."""
    report = train(Size(width, 3, width // 24), diagonal(), seed, batch_size=16, max_steps=4, ema=None,
                   optimizer=muon(FACTOR, wider), schedule=Cosine(warmup=0, floor=1.0))  # fmt: skip
    flow_map = report.flow_map
    return {"weights": weights(flow_map), "logits": logits(flow_map), "cross_entropy": cross_entropy(flow_map, 128)}


# --------------------------------------------------------------------------------------------------------------------

STUDIES = {"times": times, "longer": partial(times, names=AGAIN, seconds=LONGER), "sizes": sizes, "far": far,
           "rates": rates, "drift": drift}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*STUDIES, "report"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = json.loads(options.out.read_text()) if options.out.exists() else []
    if options.study == "report":
        return write(rows, options.out)
    for key, job in STUDIES[options.study](options.seeds):
        key = {"study": options.study, **key}
        if not any(all(row.get(name) == value for name, value in key.items()) for row in rows):
            begun = time.process_time()
            row = {**key, **job(), "processor_seconds": round(time.process_time() - begun, 1)}
            rows.append({**row, "commit": CODE, "date": time.strftime("%Y-%m-%d")})
            write_json(options.out, rows)
            print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
