"""Every way by which files and values from outside enter the library."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import lightning.fabric  # noqa: F401  (here, as it takes longer than an input may)
import numpy as np
import torch
from jsonargparse import Namespace

from flowmaps.cli.checkpoints import find, open_checkpoint
from flowmaps.cli.config import experiment, training_parser
from flowmaps.cli.info import facts
from flowmaps.cli.main import main
from flowmaps.cli.presets import PRESETS
from flowmaps.configuration.parsing import parse
from flowmaps.data.images import ImageSplits, mnist, png_folder
from flowmaps.data.molecules import molecules
from flowmaps.data.molecules_graph import encode
from flowmaps.data.text import text_splits
from flowmaps.data.text_corpora import from_path, from_texts
from flowmaps.data.text_shards import prepare
from flowmaps.data.text_tokens import Letters, Subwords
from flowmaps.samplers import Jumps
from flowmaps.train.logs import Records

from .harness import Reader
from .mutations import VALUES, spoilt_bytes, spoilt_json, spoilt_text
from .readers_science import COUNTS as OF_SCIENCE
from .readers_science import SCIENCE

TINY = ("--task.width=8", "--task.lower=[16]", "--trainer.curves=false")
Damage = Callable[[Random, bytes], bytes]
PROSE = "It was the best of times, it was the worst of times; it was the age of wisdom. Où est-ce? Ja, schön.\n" * 40
SMILES = """CCO CC(=O)O c1ccccc1 CCN C1CC1 CC#N OCC(N)C CCCC O=C=O C1CCCCC1 NC(=O)N CSC FC(F)F [NH4+] CC(C)(C)O
C=CC=C""".split()
SMILES += [f"{left}{right}" for left in ("CC", "NC") for right in SMILES[:14] if right[0] in "CN"]


def spoiling(damage: Damage, *patterns: str, sign: bool = False) -> Callable[[Random, Path], None]:
    """Damage one of the files; with ``sign``, renew the checksums as a forger would."""

    def spoil(random: Random, folder: Path) -> None:
        file = random.choice(sorted(path for pattern in patterns for path in folder.glob(pattern)))
        file.write_bytes(damage(random, file.read_bytes()))
        if sign:
            files = [path for path in sorted(folder.iterdir()) if path.name != "SHA256SUMS"]
            sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
            (folder / "SHA256SUMS").write_text("".join(sums))

    return spoil


def digest(*parts: Any) -> str:
    """A short name of tensors, arrays and plain values."""
    total = hashlib.sha256()
    for part in parts:
        total.update(np.ascontiguousarray(part).tobytes() if hasattr(part, "shape") else repr(part).encode())
    return total.hexdigest()


# -- images ----------------------------------------------------------------------------------------------------------


def make_pngs(folder: Path) -> None:
    from PIL import Image

    random = np.random.RandomState(0)
    for i in range(12):
        place = folder / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(exist_ok=True)
        grey = random.randint(0, 256, (5, 6)).astype(np.uint8)
        mode = ("L", "RGB", "RGBA", "1", "P", "LA")[i // 2]
        Image.fromarray(grey).convert(mode).save(place)


def images(splits: ImageSplits) -> str:
    parts = []
    for part in (splits.train, splits.valid, splits.test):
        x_1, label = part.all().x_1, part.condition.label
        assert len(x_1) and 0 <= int(x_1.min()) and int(x_1.max()) < splits.levels, "a level outside its alphabet"
        assert label is None or int(label.max()) < max(splits.classes, 1), "a class that there is not"
        parts += [x_1, label]
    return digest(*(part for part in parts if part is not None), splits.levels, splits.classes)


def spoil_folder(random: Random, folder: Path) -> None:
    """Strange names, links, pipes and folders among the files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = random.choice(files)
    near: Callable[[str], Path] = lambda name: file.parent / name  # noqa: E731
    match random.randrange(13):
        case 0:
            file.rename(near(file.name.upper()))
        case 1:
            os.mkfifo(near(f"pipe{file.suffix}"))
        case 2:
            near(f"loop{file.suffix}").symlink_to(near(f"loop{file.suffix}"))
        case 3:
            near(f"gone{file.suffix}").symlink_to("/nowhere")
        case 4:
            near(f"zero{file.suffix}").symlink_to("/dev/zero")
        case 5:
            near(f"folder{file.suffix}").mkdir()
        case 6:
            near("around").symlink_to(folder)
        case 7:
            shutil.copyfile(file, os.fsdecode(os.fsencode(file.parent) + b"/\xff\n" + file.suffix.encode()))
        case 8:
            near(f".{file.name}").write_bytes(b"hidden")
        case 9:
            near("__MACOSX").mkdir()
            (near("__MACOSX") / f"._{file.name}").write_bytes(b"hidden")
        case 10:
            for path in files[random.randrange(3) :]:
                path.unlink()
        case 11:
            near(f"empty{file.suffix}").touch()
        case _:
            with open(near(f"sparse{file.suffix}"), "wb") as sparse:
                sparse.truncate(10**13)


def make_idx(folder: Path) -> None:
    random = np.random.RandomState(0)
    for part, n in (("train", 30), ("t10k", 12)):
        grey = random.randint(0, 256, (n, 5, 4)).astype(np.uint8).tobytes()
        header = b"\0\0\x08\x03" + b"".join(k.to_bytes(4, "big") for k in (n, 5, 4))
        labels = bytes(i % 3 for i in range(n))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + grey)
        packed = gzip.compress(b"\0\0\x08\x01" + n.to_bytes(4, "big") + labels)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)


# -- text ------------------------------------------------------------------------------------------------------------


def text_reader(kind: str, name: str, pack: Callable[[bytes], bytes] = bytes) -> Reader:
    return Reader(
        make=lambda folder: (folder / name).write_bytes(pack(PROSE.encode())) and None,
        spoil=spoiling(spoilt_text if pack is bytes else spoilt_bytes, name),
        read=lambda folder: text(folder / name, kind),
        guarded=pack is not bytes,
    )


def text(path: Path, kind: str) -> str:
    cache = path.parent / "cache" if path.is_file() else path.with_name("cache")
    shutil.rmtree(cache, ignore_errors=True)
    splits = text_splits(from_path(path), kind, 16, cache=cache)
    tokens = splits.train.tokens(10**7)
    assert len(tokens) and int(tokens.max()) < splits.tokeniser.size, "a token outside its alphabet"
    said = splits.tokeniser.decode(tokens.tolist())
    return digest(tokens, splits.tokeniser.describe(), said)


def make_texts(folder: Path) -> None:
    (folder / "books").mkdir()
    for i in range(3):
        (folder / "books" / f"{i}.txt").write_text(PROSE)


def make_tokeniser(folder: Path) -> None:
    Subwords.train([PROSE], 300).save(folder / "tokenizer.json")


def subwords(folder: Path) -> str:
    tokeniser = Subwords.load(folder / "tokenizer.json")
    tokens = tokeniser.encode(PROSE[:300])
    assert not len(tokens) or int(tokens.max()) < tokeniser.size, "a token outside its alphabet"
    return digest(tokens, tokeniser.decode(tokens.tolist()), tokeniser.size)


def shards(folder: Path) -> str:
    pieces = from_texts("prose", lambda: [PROSE] * 3).pieces
    found = prepare(pieces, Letters(), folder, "prose")
    return digest(found.read(0, len(found)), found.tokeniser.describe(), found.characters, found.lost)


# -- molecules -------------------------------------------------------------------------------------------------------


def table_reader(name: str, between: str, pack: Callable[[bytes], bytes] = bytes) -> Reader:
    cells = ((row, str(i)) if between == " " else (str(i), row, f"{i}.5") for i, row in enumerate(SMILES))
    rows = dict(zip(map(between.join, cells), SMILES, strict=True))
    header = [between.join(("id", "smiles", "mass"))] * (between != " ")

    def read(folder: Path) -> str:
        found, kept = table(folder / name)
        if pack is bytes:
            intact = set(re.split(rb"[\r\n]+", (folder / name).read_bytes())) & {row.encode() for row in rows}
            lost = [row for row in intact if encode(rows[row.decode()]).smiles not in kept]
            assert not lost, f"{len(lost)} rows without damage are lost, such as {lost[0]!r}"
        return found

    return Reader(
        make=lambda folder: (folder / name).write_bytes(pack("\n".join([*header, *rows]).encode())) and None,
        spoil=spoiling(spoilt_text if pack is bytes else spoilt_bytes, name),
        read=read,
        guarded=pack is not bytes,
    )


def table(path: Path) -> tuple[str, set[str]]:
    """A digest of the molecules of a file, and their SMILES."""
    splits = molecules(path, cache=path.parent / "cache", processes=1)
    parts = (splits.train, splits.valid, splits.test)
    for part in parts:
        assert int(part.atoms.max()) < len(splits.alphabet.atoms), "an atom outside its alphabet"
        assert int(part.bonds.max()) < len(splits.alphabet.bonds), "a bond outside its alphabet"
        assert int(part.sizes.max()) <= splits.alphabet.size == part.n, "a molecule larger than the largest"
    arrays = [array for part in parts for array in (part.atoms, part.bonds, part.sizes)]
    smiles = [part.smiles for part in parts]
    return digest(*arrays, *smiles, splits.alphabet), {text for part in smiles for text in part}


def make_prepared(folder: Path) -> None:
    (folder / "a.smi").write_text("\n".join(SMILES))
    table(folder / "a.smi")


# -- configurations and checkpoints ----------------------------------------------------------------------------------


def make_preset(folder: Path) -> None:
    shutil.copyfile(PRESETS / "digits.yaml", folder / "mine.yaml")


def configured(arguments: list[str], folder: Path) -> str:
    """The training that a configuration describes, built and not begun."""
    p = training_parser("train PRESET", "")
    chosen = experiment(p, parse(p, arguments))
    if type(chosen.task).__name__ == "Images" and getattr(chosen.task, "source", "") == "digits":
        chosen.fit_on(folder / "run")
    return digest(json.dumps(chosen.config, sort_keys=True))


def make_values(folder: Path) -> None:
    (folder / "arguments.json").write_text("[]")


def spoil_values(random: Random, folder: Path) -> None:
    """Options of a training, by their dotted names, with one hostile value or two."""
    p = training_parser("train", "")
    known = [key for key in parse(p, [f"--config={PRESETS / 'digits.yaml'}"]).keys(branches=True) if "." in key]
    arguments = []
    for _ in range(random.choice((1, 1, 2))):
        value = random.choice([*VALUES, b"[" * 3000, b"{a: " * 900, b"&a [*a]", b"!!python/name:os.system"])
        text = value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else json.dumps(value)
        arguments.append(f"--{random.choice(known).replace('.init_args', '')}={text}".replace("\0", ""))
    (folder / "arguments.json").write_text(json.dumps(arguments))


def values(folder: Path) -> str:
    given = json.loads((folder / "arguments.json").read_text())
    return configured([f"--config={PRESETS / 'digits.yaml'}", *given], folder)


OPTIONS = {
    "sample": ("n", "steps", "times", "sampler", "temperature", "label", "seed", "device", "out", "decoder", "batch"),
    "evaluate": ("n", "steps", "ode", "seeds", "temperatures", "seed", "out"),
    "score": ("n", "bound", "seed", "out"),
    "steer": ("n", "reward", "strength", "method", "seed", "out"),
    "info": ("best", "json", "device"),
    "export": ("note", "out"),
    "train": ("out", "data.path", "quality", "resume"),
    "presets": ("x",),
}


def spoil_command(random: Random, folder: Path) -> None:
    """A command on a checkpoint with one hostile value; large numbers of samples are large, not hostile."""
    command = random.choice(list(OPTIONS))
    value = random.choice([value for value in VALUES if not (isinstance(value, int) and 7 < value < 2**64)])
    text = (value if isinstance(value, str) else json.dumps(value)).replace("\0", "")
    option = f"--{random.choice(OPTIONS[command])}={text}"
    (folder / "arguments.json").write_text(json.dumps([command, option]))


def command(run: Path) -> Callable[[Path], str]:
    def read(folder: Path) -> str:
        given = json.loads((folder / "arguments.json").read_text()) or ["presets"]
        target = {"train": ["digits"], "presets": []}.get(given[0], [str(run)])
        arguments = [given[0], *target, *given[1:]]
        if given[0] in ("sample", "evaluate", "score", "steer") and not any(text.startswith("--out") for text in given):
            arguments += ["--out", str(folder / "out")]
        if given[0] == "evaluate":
            arguments += ["--device=none"]  # what is right so far would take long from here on
        if given[0] == "train":
            steps = int(not any(text.startswith("--quality") for text in given))
            arguments += [f"--trainer.max_steps={steps}", *TINY]
            arguments += [] if any(text.startswith("--out") for text in given) else ["--out", str(folder / "out")]
        out, err = io.StringIO(), io.StringIO()
        before = Path.cwd()
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(arguments)
        except SystemExit as left:
            code = left.code
        finally:
            os.chdir(before)
        lines = [line for line in err.getvalue().splitlines() if line.startswith(f"flowmaps {given[0]}:")]
        if code == 2:
            raise ValueError(lines[-1] if lines else err.getvalue())
        if code:
            raise LookupError(f"code {code}: {err.getvalue()}")
        return "done"

    return read


def opened(folder: Path) -> str:
    found = open_checkpoint(Namespace(checkpoint=str(folder), best=False, seed=0, device="cpu"))
    with torch.no_grad():
        samples = found.task.sample(found.flow_map, 2, Jumps(1), found.generator(0))
    json.dumps(facts(found))
    return digest(*found.flow_map.state_dict().values(), samples)


def make_records(folder: Path) -> None:
    rows = [{"step": i, "train/loss": 1 / i, "note": None} for i in range(1, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def records(folder: Path) -> str:
    found = Records(folder, 10)
    found.close()
    assert all(row["step"] <= 10 for row in found.rows)
    return digest(found.rows)


def readers(run: Path) -> dict[str, Reader]:
    """All readers by name; ``run`` is the folder of a small training on digits."""

    def copied(folder: Path) -> None:
        shutil.copytree(find(str(run)), folder, dirs_exist_ok=True)

    return {
        "PNG files": Reader(make_pngs, spoiling(spoilt_bytes, "*/*.png"), lambda f: images(png_folder(f)), True),
        "image folders": Reader(make_pngs, spoil_folder, lambda f: images(png_folder(f))),
        "IDX files": Reader(make_idx, spoiling(spoilt_bytes, "*ubyte"), lambda f: images(mnist(f))),
        "IDX files, packed": Reader(make_idx, spoiling(spoilt_bytes, "*.gz"), lambda f: images(mnist(f)), guarded=True),
        "text, letters": text_reader("letters", "a.txt"),
        "text, bytes": text_reader("bytes", "a.txt"),
        "text, characters": text_reader("characters", "a.txt"),
        "text.gz": text_reader("bytes", "a.txt.gz", gzip.compress),
        "text.xz": text_reader("bytes", "a.txt.xz", lzma.compress),
        "text folders": Reader(make_texts, spoil_folder, lambda f: text(f / "books", "bytes")),
        "tokenizer.json": Reader(make_tokeniser, spoiling(spoilt_json, "tokenizer.json"), subwords),
        "shards": Reader(lambda f: shards(f) and None, spoiling(spoilt_bytes, "*.bin"), shards, guarded=True),
        "index of shards": Reader(lambda f: shards(f) and None, spoiling(spoilt_json, "*.json"), shards, guarded=True),
        "CSV": table_reader("a.csv", ","),
        "TSV": table_reader("a.tsv", "\t"),
        "SMILES": table_reader("a.smi", " "),
        "CSV.gz": table_reader("a.csv.gz", ",", gzip.compress),
        "prepared molecules": Reader(make_prepared, spoiling(spoilt_bytes, "cache/*.npz"),
                                     lambda f: table(f / "a.smi"), guarded=True),
        "preset YAML": Reader(make_preset, spoiling(spoilt_text, "mine.yaml"),
                              lambda f: configured([f"--config={f / 'mine.yaml'}"], f)),
        "options of a training": Reader(make_values, spoil_values, values),
        "options of commands": Reader(make_values, spoil_command, command(run)),
        "config.json": Reader(copied, spoiling(spoilt_json, "config.json", sign=True), opened),
        "state.json": Reader(copied, spoiling(spoilt_json, "state.json", sign=True), opened),
        "safetensors": Reader(copied, spoiling(spoilt_bytes, "ema.safetensors", sign=True), opened),
        "checkpoints": Reader(copied, spoiling(spoilt_bytes, "*"), opened, guarded=True),
        "SHA256SUMS": Reader(copied, spoiling(spoilt_text, "SHA256SUMS"), opened, guarded=True),
        "metrics.jsonl": Reader(make_records, spoiling(spoilt_text, "metrics.jsonl"), records),
        **SCIENCE,
    }  # fmt: skip


COUNTS = {"CSV": 150, "TSV": 60, "SMILES": 60, "CSV.gz": 40, "image folders": 60, "text folders": 60, "text.gz": 60,
          "text.xz": 60, "IDX files, packed": 60, "preset YAML": 200, "options of a training": 200,
          "options of commands": 160, "config.json": 150, **OF_SCIENCE}  # fmt: skip
USUAL = 100  # inputs of every other reader
