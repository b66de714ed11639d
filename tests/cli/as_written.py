"""The commands of the documents, run as they are written, on small files and with few updates."""

import csv
import lzma
import os
import re
import shlex
import shutil
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path

import mdtraj
import numpy as np
from PIL import Image

from flowmaps.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "recipes").glob("*.md"))]
FEWER = {
    "train": ["--trainer.max_steps=2", "--trainer.batch_size=8", "--trainer.valid_examples=8", "--trainer.curves=false",
              "--trainer.accelerator=cpu"],
    "sample": ["--n=2", "--overwrite"],
    "evaluate": ["--n=16", "--overwrite"],
    "score": ["--n=4", "--overwrite"],
    "tune": ["--n=16", "--steps=2", "--overwrite"],
    "steer": ["--particles=4", "--population=2", "--steps=2", "--n=2", "--overwrite"],
    "simulate": ["--nanoseconds=4e-3", "--every=20", "--settle=200"],
    "pairs": ["--n=64"],
    "trajectories": ["--n=64", "--steps=2"],
    "compare": ["--overwrite"],
    "plot": ["--overwrite"],
}  # fmt: skip  # added to every line of a command
LESS = {"--ode": "2", "--seeds": "1", "--nll": "16", "--draws": "2", "--bound.steps": "4", "--length": "80"}  # if given
SMALL = {
    "novels": ["--task.length=32", "--task.network.width=16", "--task.network.depth=1", "--task.network.heads=2"],
    "tiny-shakespeare": ["--task.network.width=16", "--task.network.depth=1"],
    "qm9": ["--task.network.width=16", "--task.network.edge=8", "--task.network.depth=1"],
    "smiles": ["--task.network.width=16", "--task.network.edge=8", "--task.network.depth=1"],
    "mnist": ["--task.network.width=8", "--task.network.lower=[16]", "--task.network.depth=1"],
    "promoters": ["--task.network.width=8"],
    "digits": ["--task.width=8", "--task.lower=[16]"],
}  # the networks of runs that a line needs and no line of its page makes
# The presets of runs that have names of their own.
OF_PRESET = {"wide": "digits", "denoise": "aef-digits", "shakespeare": "tiny-shakespeare", "a-seed-0": "digits",
             "a-seed-1": "digits", "a": "digits", "b": "digits", "mine": "digits", "owt": "novels"}  # fmt: skip
COMPARED = ("runs/a", "runs/b")  # by what was measured
SMILES = ["CCO", "c1ccccc1", "CC(=O)O", "C1CO1", "CCN", "CC#N", "OCC=C", "c1ccoc1", "CC(C)O", "NC=O"]


def lines(page: Path, language: str = "console") -> list[str]:
    """The lines of the blocks of a language, continued ones in one."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [str(line) for line in "".join(blocks).replace("\\\n", " ").splitlines()]


def commands(page: Path) -> list[list[str]]:
    """The words of every line ``flowmaps ...`` of a page, in their order."""
    found = [re.match(r"(?:\$ )?flowmaps (\S.*)", line) for line in lines(page)]
    return [shlex.split(line[1], comments=True) for line in found if line]


def told(*arguments: str) -> str:
    """What a command prints that then leaves with exit code 0."""
    with redirect_stdout(StringIO()) as out:
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code or 0
    assert code == 0, f"flowmaps {shlex.join(arguments)}: exit code {code}"
    return out.getvalue()


def small_data(real: Path, folder: Path) -> Path:
    """The real data with the beginnings of its large files."""
    for kind in sorted(path for path in real.iterdir() if path.is_dir()):
        (folder / kind.name).mkdir(parents=True)
        for path in (path for path in kind.iterdir() if path.is_file() and not re.search(r"-[0-9a-f]{16}", path.name)):
            target = folder / kind.name / path.name
            if path.suffix in (".csv", ".txt", ".fa") and path.stat().st_size > 300_000:
                target.write_bytes(path.read_bytes()[:100_000].rpartition(b"\n>" if path.suffix == ".fa" else b"\n")[0])
            elif path.name == "english_novels.txt.xz":
                target.write_bytes(lzma.compress(lzma.open(path).read(200_000), preset=0))
            else:
                target.symlink_to(path)
    return folder


def table(path: Path, header: str, rows) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def own_files(folder: Path, page: Path) -> None:
    """The files of one's own that a page speaks of."""
    draw = np.random.default_rng(0)
    text = "it was the best of times it was the worst of times it was the age of wisdom " * 200
    for name in ("my_novel.txt", "my_book.txt", "book.txt"):
        (folder / name).write_text(text)
    for name in ("my.fa", "genes.fa"):
        (folder / name).write_text("".join(f">{i}\n{''.join(draw.choice([*'ACGT'], 60))}\n" for i in range(90)))
    points = draw.normal(size=(200, 2)).tolist()
    table(folder / "my.csv", "a,b", points) if page.stem == "points" else table(
        folder / "my.csv", "smiles", [[s] for s in SMILES * 20]
    )
    table(folder / "places.csv", "latitude,longitude", (draw.uniform(-80, 80, (200, 2))).tolist())
    for name in ("angles.csv", "own.csv"):
        table(folder / name, "phi,psi", draw.uniform(-180, 180, (200, 2)).tolist())
    scoring = ROOT / "docs" / "scoring.md"
    (folder / "pairs.jsonl").write_text("".join(line + "\n" for line in lines(scoring, "json") if "prompt" in line))
    for name, size in (("folder/of/pngs", 28), ("my/pngs", 28), ("folder/of/png", 8)):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(draw.integers(0, 255, (size, size), dtype=np.uint8)).save(folder / name / f"{i}.png")
    (folder / "about.md").write_text("A model.\n")
    data = Path(os.environ["FLOWMAPS_DATA"])
    (folder / "folder/of/idx").mkdir()
    (folder / "folder/of/idx/files").symlink_to(data / "mnist")
    (folder / "folder/with").mkdir()
    (folder / "folder/with/qm9_smiles").symlink_to(data / "molecules")
    for kind in ("pdb", "prmtop", "crd"):
        (folder / f"peptide.{kind}").symlink_to(data / "peptide" / f"alanine-dipeptide.{kind}")


class Reader:
    """Somebody who types what a page says, line after line, in a folder with files of their own.

    What a line needs and no line before it makes, such as the runs of other pages, is made first, as small.
    """

    def __init__(self, page: Path) -> None:
        own_files(Path(), page)

    def type(self, words: list[str]) -> None:
        """A line of the page, with fewer updates and samples."""
        words = [word.removeprefix("/tmp/") for word in words]
        out = words[words.index("--out") + 1] if "--out" in words else ""
        for place in re.findall(r"\bruns/[\w-]+", " ".join(words)):
            if place != out:
                self.need(place)
        if words[0] == "train" and words[1] == "alanine-dipeptide":
            self.need("simulations/alanine-dipeptide")
        if "run.dcd" in words:
            self.trajectory()
        if words[0] == "train" and "--resume" not in words:
            shutil.rmtree(out or f"runs/{Path(words[1]).stem}", ignore_errors=True)
        if ">" in words:
            Path(words[-1]).write_text(told(*words[: words.index(">")]))
        else:
            less = [LESS.get(before, word) for before, word in pairwise(["", *words])]
            told(*less, *FEWER.get(words[0], []))

    def need(self, place: str) -> None:
        preset = OF_PRESET.get(Path(place).name, Path(place).name)
        if Path(place).exists():
            return
        if place.startswith("simulations"):
            self.type(["simulate", preset])
        else:
            self.type(["train", preset, "--out", place, *SMALL.get(preset, [])])
            if place in COMPARED:
                self.type(["evaluate", place, "--steps", "1"])

    def trajectory(self) -> None:
        """Frames as another program writes them."""
        frame = mdtraj.load("peptide.pdb")
        draw = np.random.default_rng(0)
        mdtraj.Trajectory(frame.xyz + 0.005 * draw.normal(size=(200, 22, 3)), frame.topology).save("run.dcd")
