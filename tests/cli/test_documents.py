"""Every command line of the README and of the documentation is one that the program takes; samples are drawn."""

import re
import shlex
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from flowmaps.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STANDS_FOR = {"runs/qm9": "qm9", "runs/smiles": "qm9", "runs/mnist": "mnist", "runs/promoters": "promoters",
              "runs/earth": "earthquakes", "zinc24": "qm9"}  # fmt: skip  # a model of the same options
TEXTS = ("runs/tiny-shakespeare", "runs/shakespeare", "runs/novels", "runs/my-book")
FREE = ("demo", "presets", "quickstart", "serve", "evaluate-lm", "compare", "plot", "plan", "new", "pairs", "simulate",
        "prepare")  # fmt: skip


def commands():
    """Every line ``flowmaps ...`` in a console block, with its page."""
    for page in PAGES:
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.match(r"(?:\$ )?flowmaps (\S.*)", line):
                    yield pytest.param(shlex.split(found[1], comments=True), id=f"{page.stem}: {found[1][:60]}")


LINES = list(commands())


def test_there_are_commands_in_the_documents():
    assert len(LINES) > 50


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """A run on text of two updates, whose options are those of every text."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "words.txt").write_text("the quick brown fox jumps over the lazy dog " * 200)
    small = ["--task.width=16", "--task.depth=1", "--task.heads=2", "--trainer.max_steps=2", "--trainer.curves=false"]
    assert (
        main(["train", "tiny-shakespeare", f"--data.path={folder / 'words.txt'}", f"--out={folder / 'run'}", *small])
        == 0
    )
    return str(folder / "run")


@cache
def told(*arguments: str) -> str:
    """What a command prints that then leaves with exit code 0, as ``--help`` and ``--print_config`` do."""
    with redirect_stdout(StringIO()) as out:
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code or 0
    assert code == 0
    return out.getvalue()


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_documents_is_one_of_the_program(line, text_run, trained, tmp_path):
    name, *arguments = line
    assert name in COMMANDS
    if name == "train":
        return trains(arguments, tmp_path)
    options = [a.split("=")[0] for a in arguments if a.startswith("--")]
    model = [model_of(arguments[0], text_run, trained)] if options and name not in FREE else []
    text = told(name, *model, "--help")
    assert not [option for option in options if option.split(".")[0] not in text]
    if name == "sample":
        draws(model_of(arguments[0], text_run, trained), arguments[1:], tmp_path)


def draws(model, options, folder):
    """The samples are drawn, two of them."""
    kept, after = [], ""
    for word in options:
        after = word if word.startswith("--") else after
        kept += [] if after.split("=")[0] in ("--n", "--out") else [word]
    assert main(["sample", model, *kept, "--n", "2", "--out", str(folder / "drawn")]) == 0
    assert any((folder / "drawn").iterdir())


def trains(arguments, tmp_path):
    """The settings are parsed, and written out instead of used."""
    arguments = [a for a in arguments if a not in ("--resume", "--print_config", ">", "mine.yaml")]
    if arguments[0].startswith("--"):  # of a file of one's own
        (tmp_path / "mine.yaml").write_text(told("train", "digits", "--print_config"))
        arguments = [str(tmp_path / "mine.yaml"), *arguments]
    assert "objective:" in told("train", *arguments, "--print_config")


def model_of(place, text_run, trained):
    """A model with the options of a run that a document speaks of."""
    if place in TEXTS:
        return text_run
    if place in ("runs/digits", "runs/checkerboard", "runs/mine"):
        return str(trained)
    model = STANDS_FOR.get(place, place)
    if model.startswith("runs/"):
        pytest.skip(f"no model comes with the package that has the options of {place}")
    return model
