"""Every command line of the README and of the documentation is run as a reader would: in its page's order, made small.

Pages that need more than a few seconds run with the slow tests; the options of every line are looked up in any case.
"""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from cli.as_written import PAGES, ROOT, Reader, commands, lines, small_data, told
from flowmaps.cli.main import COMMANDS
from train.toys import environment

ELSEWHERE = {"serve": "a server, which tests/cli/test_serve.py starts", "demo": "a server, which tests/page starts",
             "quickstart": "three minutes, of which tests/first_hour.py tells",
             "evaluate-lm": "tests/cli/test_evaluate_lm.py, where the harness is installed"}  # fmt: skip
TOO_LARGE = (
    "--task.fetch true",
    "prepare openwebtext",
    "--trainer.devices 4",
)  # downloads, files of a cluster, devices
LONG = ("commands", "images", "planning", "steering", "grids", "molecules", "flows", "autoencoders", "text",
        "scaling")  # fmt: skip
READ = [page for page in PAGES if commands(page)]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    if "FLOWMAPS_DATA" not in os.environ:
        pytest.skip("needs the data: set FLOWMAPS_DATA")
    return small_data(Path(os.environ["FLOWMAPS_DATA"]), tmp_path_factory.mktemp("data"))


def test_there_are_commands_in_the_documents():
    assert sum(len(commands(page)) for page in PAGES) > 130


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in LONG), id=page.stem) for page in READ]
)
def test_the_commands_of_a_page_work_in_their_order(page, data, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWMAPS_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    reader = Reader(page)
    for words in commands(page):
        if any(large in " ".join(words) for large in TOO_LARGE):
            assert words[0] == "prepare" or "objective:" in told(*words, "--print_config")
        elif words[0] not in ELSEWHERE:
            reader.type(words)


@pytest.fixture(scope="module")
def options(trained, words):
    """What each command takes, of any model."""
    models = {str(trained), str(words), "qm9", "promoters", "earthquakes"}
    of_models = {name: "".join(told(name, model, "--help") for model in models)
                 for name in ("sample", "evaluate", "score", "steer", "tune")}  # fmt: skip
    return {name: of_models.get(name) or told(name, "--help") for name in COMMANDS}


@pytest.mark.parametrize("page", READ, ids=lambda page: page.stem)
def test_the_options_of_a_page_are_those_of_its_commands(page, options):
    for name, *rest in commands(page):
        assert name in COMMANDS
        given = {word.split("=")[0].split(".")[0] for word in rest if word.startswith("--")} if name != "train" else ()
        missing = [option for option in given if option not in options[name]]
        assert not missing, f"flowmaps {name} has no {missing}"


def programs(name):
    """The lines of blocks that run a program of bench/ whose name begins with that pattern."""
    for page in PAGES:
        for line in lines(page):
            if re.match(rf"python bench/{name}", line):
                yield pytest.param(line, id=line[:60])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("line", list(programs(r"steering_models\.py")))
def test_a_program_of_a_page_works(line, data, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWMAPS_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    _, program, run, *options = line.split()
    Reader(READ[0]).need(run)
    few = ["--budgets=16", "--runs=2", "--seeds=0", f"--results={tmp_path / 'results'}"]
    command = [sys.executable, str(ROOT / program), run, *options, *few]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "results").glob("steering_*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("line", list(programs(r"(?!steering_models)")))
def test_a_program_that_takes_hours_has_what_a_page_asks_of_it(line):
    """Arguments are read before help is given, which names every option."""
    _, program, *options = line.split()
    command = [sys.executable, str(ROOT / program), *options, "--help"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not [option for option in options if option.startswith("--") and option not in done.stdout]


def launched():
    """The trainings of many processes: a line ``torchrun`` or ``srun`` of a block of shell."""
    for page in PAGES:
        for line in lines(page, "bash"):
            if found := re.match(r"(?:torchrun|srun) .*?(?:-m )?flowmaps (train .*)", line):
                yield pytest.param(found[1].split(), id=line[:60])


@pytest.mark.parametrize("words", list(launched()))
def test_trainings_of_many_processes_have_settings(words):
    assert "objective:" in told(*(word for word in words if word != "--resume"), "--print_config")


def test_extras_that_pages_install_exist():
    extras = {extra for page in PAGES for line in lines(page) if line.startswith("pip install")
              for part in re.findall(r"\[([\w,]+)\]", line) for extra in part.split(",")}  # fmt: skip
    assert extras and extras <= set(metadata.metadata("flowmaps").get_all("Provides-Extra") or ())


def test_blocks_of_settings_are_settings(tmp_path):
    for page in PAGES:
        if block := lines(page, "yaml"):
            (tmp_path / "block.yaml").write_text("\n".join(block) + "\n")
            text = told("train", "digits", "--config", str(tmp_path / "block.yaml"), "--print_config")
            assert "objective" in yaml.safe_load(text)
