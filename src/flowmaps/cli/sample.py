"""``flowmaps sample CHECKPOINT``"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import torch

from ..configuration.parsing import parse
from ..fields import Data
from ..files import replacing, write_json
from ..samplers import Jumps, Sampler, at_temperature
from ..samplers.grids import TimeGrid
from ..tasks.base import Task
from ..times import check_grid
from .checkpoints import (
    add_grid,
    add_options,
    check_absent,
    check_out,
    checkpoint_parser,
    chosen_options,
    grid_of,
    modality,
    open_checkpoint,
    origin,
    results,
    say_if_empty,
)
from .config import steps_list

HELP = """Draw samples by a few jumps of the flow map, or by any sampler, and write them as files and pictures.
The modality's own options come after the checkpoint; `flowmaps sample CHECKPOINT --help` lists them."""


def run(arguments: Sequence[str]) -> int:
    p = checkpoint_parser("sample", HELP, files=True)
    p.add_argument("--n", type=int, default=16, help="number of samples a row")
    p.add_argument("--steps", type=str | None, help="network evaluations, such as 1 or 1,2,4 (default: 1)")
    p.add_argument("--times", type=str | None, help="a grid of times instead, such as 0,0.5,1")
    p.add_argument("--sampler", type=Sampler | None, help="another sampler: --sampler Heun --sampler.times 8")
    add_grid(p)
    names = add_options(p, modality(arguments), "sample")
    if "decoder" in names:
        p.add_argument("--temperature", type=float | None, help="draw categories at this one; 0: the most probable")
    cfg = parse(p, arguments)
    if cfg.n < 1:
        raise ValueError(f"n is {cfg.n}, expected at least 1")
    chosen = p.instantiate(cfg)
    exclusive(cfg.steps, cfg.times, chosen.sampler)
    counts, times = steps_list(cfg.steps or "1"), times_list(cfg.times)
    opened = open_checkpoint(cfg)
    samplers = choose(counts, times, chosen.sampler, lambda n: grid_of(opened, n, cfg.grid))
    check_out(cfg, opened.task)
    files = files_named(cfg.out or [], opened.task)
    check_absent((place for file in files for place in (file, *by_row(file, samplers))), cfg.overwrite)
    options = chosen_options(chosen, names)
    if "decoder" in names and cfg.temperature is not None:
        options["decoder"] = at_temperature(cfg.temperature)
    rows, told = {}, {}
    for name, sampler in samplers.items():
        start = time.perf_counter()
        rows[name] = opened.sample(cfg.n, sampler=sampler, seed=cfg.seed, **options)
        told[name] = {"evaluations": sampler.evaluations, "seconds": round(time.perf_counter() - start, 4)}
        print(summary(name, cfg.n, told[name], opened.task.remark(rows[name])))
    if files:
        paths = write_files(opened.task, rows, files, options)
    else:
        directory = results(cfg, opened, "samples")
        paths = opened.task.write(rows, directory, **options)
        write_json(directory / "metrics.json", {**origin(opened), "seed": cfg.seed, "n": cfg.n, "by_steps": told})
    print("wrote " + ", ".join(str(path) for path in paths))
    say_if_empty(opened)
    return 0


def summary(name: str, n: int, row: Mapping[str, float], remark: str) -> str:
    """A row of samples in one line."""
    line = f"{name}: {n} samples, {row['evaluations']} network evaluations each, {row['seconds']:.2f} s"
    return f"{line}; {remark}" if remark else line


def files_named(names: Sequence[str], task: Task) -> list[Path]:
    """The files that ``--out`` names; none if it is a folder.

    Raises: ValueError if one is of a kind that the task does not write.
    """
    paths = [Path(name) for name in names]
    strange = [path for path in paths if path.suffix not in task.kinds or path.is_dir()]
    if len(paths) == 1 and strange:
        return []
    if strange:
        kinds = ", ".join(task.kinds)
        raise ValueError(f"cannot write {strange[0]}: samples of {type(task).__name__} are {kinds}, or give one folder")
    return paths


def write_files(task: Task, rows: dict[str, Data], files: Sequence[Path], options: Mapping[str, object]) -> list[Path]:
    """Write samples as the files that were named; where there is a file a row, the row's name joins the stem."""
    written: list[Path] = []
    with TemporaryDirectory() as folder:
        made = task.write(rows, Path(folder), **options)
        for file in files:
            same = [path for path in made if path.suffix == file.suffix]
            named = [file] if len(same) == 1 else by_row(file, rows)
            for path, target in zip(same, named, strict=True):
                with replacing(target) as temporary:
                    copyfile(path, temporary)
            written += named
    return written


def by_row(file: Path, rows: Iterable[str]) -> list[Path]:
    """The files in the place of one, where there is one for each of several rows."""
    return [file.with_stem(f"{file.stem}-{row}") for row in rows]


def exclusive(*choices: object) -> None:
    """Refuse more than one way of choosing samplers."""
    if sum(choice is not None for choice in choices) > 1:
        raise ValueError("--steps, --times and --sampler exclude each other; a sampler has --sampler.times")


def times_list(times: str | None) -> torch.Tensor | None:
    """A grid that was given by its times."""
    try:
        return None if times is None else check_grid(torch.tensor([float(part) for part in times.split(",")]))
    except ValueError as error:
        if "could not convert" not in str(error):
            raise
        raise ValueError(f"times are {times!r}, expected numbers separated by commas, such as 0,0.5,1") from None


def choose(
    steps: Sequence[int], times: torch.Tensor | None, sampler: Sampler | None, grid: Callable[[int], TimeGrid]
) -> dict[str, Sampler]:
    """Samplers by the name of their row: the one that is given, the one of a grid, or jumps of each step count."""
    if sampler is not None:
        return {type(sampler).__name__.lower(): sampler}
    if times is not None:
        return {f"{len(times) - 1} on a grid": Jumps(times)}
    return {str(n): grid(n).sampler() for n in steps}
