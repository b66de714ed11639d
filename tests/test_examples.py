"""The programs of ``examples/`` run as they stand; the notebooks are run by ``make notebooks``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from train.toys import environment

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def called(module: str, arguments: str, folder: Path) -> dict[str, float]:
    """What ``main`` of an example gives, in a process of its own."""
    code = f"import json, {module}; found = {module}.main({arguments}); print(); print(json.dumps(found))"
    env = environment()
    env["PYTHONPATH"] += f":{EXAMPLES}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_network_of_ones_own(tmp_path):
    found = called("own_network", "updates=150, n=4000", tmp_path)
    assert found["exact samples"] < found["4 steps"] < 0.58, "256 states; letters drawn one by one are .61 off"


def test_a_modality_of_ones_own(tmp_path):
    found = called("own_modality", "updates=60", tmp_path)
    assert found["home"] > 0.25, "two of ten notes are home, so that chance is .2"
    assert (tmp_path / "runs" / "melodies" / "samples" / "samples.abc").read_text().count("X:") == 8
    assert (tmp_path / "runs" / "melodies" / "high" / "metrics.json").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_keep_their_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom"
    assert outputs and not [output for output in outputs if output["output_type"] == "error"]
    assert path.stat().st_size < 400_000


def test_there_are_five_notebooks():
    assert len(NOTEBOOKS) == 5
