"""Blocks of Python without prompts, which doctest leaves out, run as they stand in what their pages suppose."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flowmaps
from cli.as_written import PAGES
from flowmaps.configuration import trusted
from flowmaps.spaces import OneHot
from train.toys import environment

MINE = Path(__file__).with_name("test_own_modality.py")
SHORT = """task: {class_path: mine.Staircase}
trainer: {max_steps: 2, batch_size: 4, valid_examples: 4, curves: false, accelerator: cpu}
"""


def blocks(page):
    """The blocks of a page that have no prompt."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [block for block in found if ">>>" not in block]


def formalism():
    x, pi = torch.randn(2, 4, 3), torch.full((2, 4, 3), 1 / 3)
    found = yield {"space": OneHot(3), "x": x, "pi": pi, "s": torch.tensor(0.2), "t": torch.tensor(0.6)}
    torch.testing.assert_close(found["moved"], x.lerp(pi, 0.5))


def modalities():
    Path("mine.py").write_text(MINE.read_text())
    Path("mine.yaml").write_text(SHORT)
    sys.path.insert(0, "")
    before = set(trusted.LISTED)
    try:
        found = yield {}
        assert type(found["model"].task).__name__ == "Staircase"
    finally:
        sys.path.remove("")
        sys.modules.pop("mine", None)
        trusted.LISTED.intersection_update(before)
        flowmaps.trust()


def molecules():
    pytest.importorskip("rdkit", reason="needs the extra molecules")
    rings, chains = ["c1ccccc1O", "c1ccoc1", "c1ccncc1"] * 20, ["CCO", "CC=O", "CCN"] * 20
    found = yield {"samples": chains, "held_out": rings + chains}
    assert found["found"]["aromatic"].value == 0 and "aromatic" in found["lost"](found["found"])


def scoring():
    found = yield {"model": flowmaps.load("novels")}
    assert abs(found["nats"]) < 100 and found["error"] > 0


def serving():
    pytest.importorskip("openai", reason="the client of the page")
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    command = [sys.executable, "-m", "flowmaps", "serve", "novels", "--port", "0", "--device=cpu"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        try:
            assert port
            found = yield {"8000": port[1]}
            assert len(found["done"].choices) == 4
        finally:
            process.terminate()


def text():
    Path("my_book.txt").write_text("it was the best of times it was the worst of times " * 200)
    found = yield {}
    assert all(line.startswith("Call me ") for line in found["task"].decoded(found["tokens"]))


SUPPOSED = {page.__name__: page for page in (formalism, modalities, molecules, scoring, serving, text)}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_a_block_without_prompts_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWMAPS_DATA", str(tmp_path))
    (block,) = blocks(page)
    supposed = SUPPOSED[page.stem]()
    names = next(supposed)
    exec(compile(block.replace("8000", names.pop("8000", "8000")), page.name, "exec"), names)
    with pytest.raises(StopIteration):
        supposed.send(names)
