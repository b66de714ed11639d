"""The house: rooms stand on the rooms below them, and every module of them can be entered."""

import ast
import re
import sys
from collections import Counter
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import flowmaps

FLOORS = (
    {"fields", "autodiff", "recomputing", "ema", "times", "files", "reading", "seeds", "pictures"},
    {"spaces"},
    {"paths", "networks", "data"},
    {"evaluation"},
    {"maps", "oracles", "metrics"},
    {"objectives", "samplers", "steering", "likelihood"},
    {"train"},
    {"tasks", "planning"},
    {"configuration"},
    {"hub"},
    {"presets", "cli", "page", "integrations", "__init__", "__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
EXTRAS = """
    PIL datasets fastapi fcd gradio lm_eval mdtraj openmm pydantic rdkit starlette
    tensorboard tokenizers transformers triton uvicorn wandb zuko
""".split()
SOURCE = Path(flowmaps.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))


def name(path: Path) -> list[str]:
    """The parts of a file's module name below ``flowmaps``; a package keeps its ``__init__``."""
    return list(path.relative_to(SOURCE).with_suffix("").parts)


def imported(path: Path):
    """Every module that a file imports, by its absolute name, down to the names it takes from there."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["flowmaps", *name(path)][: -node.level] if node.level else []
            module = ".".join([*package, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_used(path: Path) -> set[str]:
    """The rooms that a file imports from; a name that is no room is taken from the public face."""
    own = name(path)[0]
    modules = [module.split(".") for module in imported(path)]
    heads = {parts[1] if parts[1:] else "__init__" for parts in modules if parts[0] == "flowmaps"}
    return {head if head in FLOOR else "__init__" for head in heads} - {own}


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(name(path)))
def test_imports_point_downwards(path):
    own = name(path)[0]
    assert own in FLOOR, f"{path.name} stands in no room; the rooms are {sorted(FLOOR)}"
    upwards = {room for room in rooms_used(path) if FLOOR[room] > FLOOR[own]}
    assert not upwards, f"{own} (floor {FLOOR[own]}) imports from above: {sorted(upwards)}"


def test_every_module_has_one_name():
    """A folder without an ``__init__.py`` is imported again under a second name when its doctests are collected."""
    assert {path.parent / "__init__.py" for path in FILES} <= set(FILES)
    files = Counter(getattr(module, "__file__", None) for module in list(sys.modules.values()))
    assert not [path for path in FILES if files[str(path)] > 1]


def test_rooms_on_one_floor_do_not_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(name(path)[0], set()).update(rooms_used(path))
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(name(path)))
def test_only_autodiff_and_recomputing_call_torch_func(path):
    if name(path) not in (["autodiff"], ["recomputing"]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        written = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not {call for call in written | set(imported(path)) if call.startswith("torch.func.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(name(path)))
def test_every_module_imports(path):
    parts = [part for part in name(path) if part != "__init__"]
    try:
        import_module(".".join(["flowmaps", *parts]))
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in EXTRAS:
            raise
        pytest.skip(f"needs the extra that brings {missing.name}")


MATHEMATICS = {
    *("autodiff", "evaluation", "fields", "likelihood", "maps", "networks", "objectives", "oracles", "paths"),
    *("samplers", "spaces", "steering", "times"),
}
WALKERS = {"fields", "evaluation", "spaces.product", "networks.mlp", "data.base"}  # who apply functions field by field


def dynamic(tree: ast.AST) -> int:
    """How often the type ``Any`` is written."""
    return sum(
        isinstance(node, ast.Name) and node.id == "Any" or isinstance(node, ast.alias) and node.name == "Any"
        for node in ast.walk(tree)
    )


def code_lines(text: str) -> int:
    """The lines that are neither empty nor a comment."""
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in text.splitlines())


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(name(path)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert len(text.splitlines()) <= 400
    assert not {function: length for function, length in lengths.items() if length > 40}


def test_types_are_named():
    texts = {path: path.read_text(encoding="utf-8") for path in FILES}
    counts = {path: dynamic(ast.parse(text)) for path, text in texts.items()}
    assert sum(counts.values()) <= 10e-3 * sum(map(code_lines, texts.values()))
    mathematics = [path for path in FILES if name(path)[0] in MATHEMATICS]
    assert sum(counts[path] for path in mathematics) <= 2e-3 * sum(code_lines(texts[path]) for path in mathematics)


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(name(path)))
def test_exceptions_to_types_have_a_reason(path):
    text = path.read_text(encoding="utf-8")
    assert "type: " + "ignore" not in text, "write `pyright: ignore[rule]  (reason)`"
    for line in text.splitlines():
        assert "pyright: ignore" not in line or re.search(r"# pyright: ignore\[\w+\]  \(.+\)", line), line
        assert "noqa: ANN401" not in line or re.search(r"# noqa: ANN401  \(.+\)", line), line


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(name(path)))
def test_the_mathematics_asks_for_no_attributes_and_walks_no_fields(path):
    if name(path)[0] in MATHEMATICS | {"data", "metrics"}:
        calls = [
            node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
        ]
        called = {call.id for call in calls if isinstance(call, ast.Name)}
        assert "hasattr" not in called
        assert "fieldwise" not in called or ".".join(name(path)) in WALKERS
