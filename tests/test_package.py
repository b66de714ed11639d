"""The package as it is given away: extras, version, workflows, and the wheel in an environment of its own."""

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

import flowmaps
from flowmaps.cli.main import COMMANDS
from flowmaps.configuration.extras import EXTRA_OF

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
BROUGHT = {"pydantic", "starlette", "triton"}  # by fastapi, whose parts they are, and by torch for accelerators
TOOLS = {"docs", "dev"}  # extras of programs, which nothing here imports
NAMES = {"scikit-learn": "sklearn", "POT": "ot", "pillow": "PIL", "PyYAML": "yaml"}


def modules(requirements):
    """What requirements are imported as."""
    names = [re.split(r"[><=~! \[]", requirement)[0] for requirement in requirements]
    return {NAMES.get(name, name) for name in names if not name.startswith("flowmaps")}


@cache
def imported():
    """The modules that the package imports anywhere, but for Python's own."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - BROUGHT - {"flowmaps"}


def test_what_is_imported_is_declared_and_named_where_it_is_missing():
    core = modules(PROJECT["dependencies"])
    optional = {module: extra for extra in EXTRAS.keys() - TOOLS for module in modules(EXTRAS[extra])}
    assert imported() <= core | optional.keys()
    used = imported() - core
    assert {module: EXTRA_OF.get(module) for module in used} == {module: optional[module] for module in used}
    assert set(EXTRA_OF.items()) <= set(optional.items())


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_is_explained(extra):
    text = (ROOT / "docs" / "install.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(f"| `{extra}` |")]
    assert len(rows) == 1
    if extra not in TOOLS:
        brought = [part.strip() for part in rows[0].split("|")[2].split(",")]
        assert brought == [re.split(r"[><=~! ]", requirement)[0] for requirement in EXTRAS[extra]]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == flowmaps.__version__ and re.fullmatch(r"\d+\.\d+\.\d+", flowmaps.__version__)
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pinned["torch"] in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@cache
def workflow(name: str):
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_there_is(path):
    """Targets of the Makefile, commands of the program, files of the repository, actions by their version."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    flow = workflow(path.stem)
    assert flow["permissions"] == {"contents": "read"} and True in flow, "YAML reads the key `on` as true"
    for name, job in flow["jobs"].items():
        assert job["runs-on"] and job["steps"] and set(job.get("needs", "").split()) <= flow["jobs"].keys()
        steps = [step for step in job["steps"] if ("run" in step) != ("uses" in step)]
        assert steps == job["steps"], f"{name}: a step runs or uses something"
        commands = "\n".join(step.get("run", "") for step in steps)
        made = [word for line in re.findall(r"\bmake ([a-z -]+)", commands) for word in line.split()]
        assert set(made) <= targets, f"{name}: {made}"
        assert set(re.findall(r"(?:^|/)flowmaps ([a-z]\S*)", commands, re.MULTILINE)) <= COMMANDS.keys()
        assert all((ROOT / file).exists() for file in re.findall(r"\b(?:src|tests|bench)/\S+\.py", commands))
        assert all(re.search(r"@(v\d+|release/v\d+)$", step["uses"]) for step in steps if "uses" in step)
        for variable in re.findall(r"\$([A-Z]+)\b", commands):
            assert variable in flow.get("env", {}), f"{name}: ${variable} is set nowhere"


def test_workflows_cover_what_is_promised():
    """Every Python, the oldest and the tested PyTorch, every extra; the targets that a change must pass."""
    jobs = workflow("ci")["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    classified = {c.split(" :: ")[-1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert set(matrix["python"]) == classified
    oldest = next(r for r in PROJECT["dependencies"] if r.startswith("torch>")).partition(">=")[2]
    assert {case["torch"] for case in matrix["include"]} == {f"{oldest}.0"}
    assert set(jobs["extras"]["strategy"]["matrix"]["extra"]) == EXTRAS.keys() - TOOLS
    runs = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    assert all(f"make {target}" in runs for target in ("lint types", "test", "test-slow", "docs", "notebooks", "links"))


def test_the_documentation_is_built_elsewhere_as_here():
    """Read the Docs: the same configuration, a warning is an error, a Python that the package supports."""
    settings = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    assert settings["sphinx"] == {"configuration": "docs/conf.py", "fail_on_warning": True}
    assert (ROOT / settings["sphinx"]["configuration"]).exists() and settings["build"]["tools"]["python"] == "3.12"
    assert "'.[dev,docs]'" in settings["build"]["jobs"]["install"][0]


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_of_its_own(tmp_path):
    """Built and installed away from the sources; what it needs is seen through a path, as it was installed already."""
    pytest.importorskip("rdkit")

    def run(*command, **more):
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **more}
        words = [str(part) for part in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob(f"flowmaps-{flowmaps.__version__}-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "new")
    python = tmp_path / "new" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--quiet", wheel)
    place = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (place / "seen.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = tmp_path / "new" / "bin" / "flowmaps"
    assert "usage: flowmaps COMMAND" in run(command, "--help")
    assert run(command, "--version") == f"flowmaps {flowmaps.__version__}\n"
    run(command, "sample", "qm9", "--n", "16", "--out", "some.smi", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    assert 12 <= len((tmp_path / "some.smi").read_text().splitlines()) <= 16  # the valid ones
    where = "import flowmaps.hub.models as m; print(m.__file__); print(m.shipped())"
    file, models = run(python, "-c", where).splitlines()
    assert file.startswith(str(place)) and "'qm9'" in models and "'zinc24'" in models
