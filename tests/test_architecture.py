"""The house: rooms stand on the rooms below them, and every module of them can be entered."""

import ast
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import flowmaps

FLOORS = (
    {"fields", "autodiff", "times", "files", "reading", "seeds", "pictures"},
    {"spaces"},
    {"paths", "networks", "data"},
    {"maps", "oracles", "metrics"},
    {"objectives", "samplers", "steering", "likelihood"},
    {"train"},
    {"tasks"},
    {"presets", "cli", "integrations", "__init__", "__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
EXTRAS = "datasets fastapi fcd lm_eval rdkit tensorboard tokenizers transformers uvicorn".split()
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


def test_rooms_on_one_floor_do_not_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(name(path)[0], set()).update(rooms_used(path))
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(name(path)))
def test_only_autodiff_calls_torch_func(path):
    if name(path) != ["autodiff"]:
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
