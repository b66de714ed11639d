"""A configuration names classes of a list and nothing else, and is measured before it is built."""

from __future__ import annotations

import inspect
import json
import re
import sys
import time
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from cli.test_mistakes import copy, sign  # noqa: F401  (a fixture)
from flowmaps.cli.checkpoints import checkpoint_parser
from flowmaps.cli.config import training_parser
from flowmaps.configuration.trusted import CLASSES, LISTED, ROOTS, TEXTS, check, load_yaml
from flowmaps.data import Levels
from flowmaps.likelihood import Bound
from flowmaps.maps import Transport
from flowmaps.objectives import Consistency, Diagonal, Objective, Teacher
from flowmaps.paths import Coupling
from flowmaps.samplers import Decoder, Sampler
from flowmaps.tasks.base import Task
from flowmaps.times import PairLaw, TimeLaw
from flowmaps.train import Trainer

PLAIN = {str, int, float, bool, type(None), tuple, list, dict, typing.Mapping, typing.Any, Ellipsis}


@pytest.fixture(scope="module")
def listed() -> dict[str, type]:
    pytest.importorskip("rdkit")
    return {f"flowmaps.{module}.{name}": getattr(import_module(f"flowmaps.{module}"), name)
            for module, names in CLASSES.items() for name in names}  # fmt: skip


def test_the_list_names_classes_where_they_are_defined(listed):
    for path, kind in listed.items():
        assert inspect.isclass(kind) and f"{kind.__module__}.{kind.__name__}" == path


def test_every_class_that_a_configuration_may_need_is_listed(listed):
    bases = (Objective, Consistency, Diagonal, Teacher, TimeLaw, PairLaw, Sampler, Bound, Decoder, Levels, Coupling,
             Task)  # fmt: skip
    found, todo = set(), list(bases)
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        room = kind.__module__.split(".")[:2]  # kernels of steering are for Python alone
        if not inspect.isabstract(kind) and room[0] == "flowmaps" and room[1] != "steering":
            found.add(kind)
    # An instrument, which samples by the way, and the loss that TwoStage(guide) makes of maps.
    others = {"LagrangianFamily", "Nearest", "JumpCosts", "Distilled"}
    assert {kind.__name__ for kind in found - set(listed.values()) - set(bases)} <= others


def parts(annotation) -> set:
    """The types that an annotation is made of."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return {str}
    if isinstance(annotation, list):  # of the arguments of a callable
        return set().union(*map(parts, annotation))
    return set().union(*map(parts, inner)) if inner else {annotation}


def test_settings_that_are_texts_never_name_a_class_and_all_others_do_or_are_words(listed):
    for kind in {*listed.values(), Trainer}:
        if issubclass(kind, Transport):  # a map is chosen, the task builds it
            continue
        hints = typing.get_type_hints(kind if kind is Trainer else kind.__init__)
        for name, hint in hints.items():
            if name in TEXTS:
                assert parts(hint) <= PLAIN, f"{kind.__name__}.{name}"


def test_no_other_option_takes_a_class():
    parsers = [training_parser("train", ""), checkpoint_parser("sample", "")]
    for action in (action for p in parsers for action in p._actions):
        hint = getattr(action, "_typehint", None)
        if hint is not None and not parts(hint) <= PLAIN:
            assert action.dest.split(".")[0] in ROOTS


@pytest.fixture
def evil(tmp_path, monkeypatch) -> Iterator[Path]:
    """A module whose import leaves a trace; the trace."""
    trace = tmp_path / "imported"
    (tmp_path / "evilmod.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass X: ...\ndef f(*a): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield trace
    sys.modules.pop("evilmod", None)


SPEC = {"class_path": "evilmod.X"}
VALUES = ["evilmod.X", " evilmod.X", SPEC, [SPEC], ["evilmod.X"], json.dumps(SPEC), "{class_path: evilmod.X}",
          '{"class_path": "evilmod\\u002eX"}', {"class_path": "evilmod.X", "init_args": {}}, "[evilmod.X]",
          "flowmaps.evilmod.X", "flowmaps.train.checkpoint.os.truncate", "os.truncate", "functools.partial",
          {"class_path": "flowmaps.times.grid"}, {"class_path": "flowmaps.samplers.decode.Tensor"},
          {"class_path": ["evilmod.X"]}, "builtins.eval", "!!python/name:evilmod.X", "evilmod.X()"]  # fmt: skip
PLACES = ["task", "task.init_args.decoder", "task.init_args.levels", "objective", "objective.init_args.consistency",
          "objective.init_args.times", "objective.init_args.teacher", "trainer.schedule", "trainer.optimizer",
          "trainer.clip", "task.init_args.lower"]  # fmt: skip


def values(place: str) -> list:
    """All of them at three places, a choice at the others."""
    whole = ("task.init_args.decoder", "objective.init_args.times", "trainer.schedule")
    return VALUES if place in whole else VALUES[:6]


def tree(place: str, value) -> dict:
    config = {
        "task": {"class_path": "flowmaps.tasks.images.Images", "init_args": {}},
        "objective": {"class_path": "flowmaps.objectives.SelfDistillation", "init_args": {}},
        "trainer": {},
    }
    part = config
    *path, last = place.split(".")
    for key in path:
        part = part[key]
    part[last] = value
    return config


@pytest.mark.parametrize("place", PLACES)
def test_no_preset_imports(tell, evil, place):
    for i, value in enumerate(values(place)):
        for config in (tree(place, value), {place: value}, {f"{place}+": value})[: 1 if i else 3]:
            Path("evil.yaml").write_text(yaml.safe_dump(config))
            code, out, err = tell("train", "evil.yaml", "--trainer.max_steps=1", "--out=run")
            assert code == 2 and out == "" and err.count("\n") == 1, (value, err)
            assert not evil.exists() and "evilmod" not in sys.modules and not Path("run").exists()


@pytest.mark.parametrize("place", PLACES)
def test_no_option_imports(tell, evil, place):
    for i, value in enumerate(values(place)):
        text = value if isinstance(value, str) else json.dumps(value)
        for option in ([f"--{place}={text}"], [f"--{place}", text], [f"--{place.replace('.init_args', '')}={text}"],
                       [f"--{place}+={text}"], [f"--{place}.class_path={text}"])[: 1 if i else 5]:  # fmt: skip
            code, _, err = tell("train", "digits", "--trainer.max_steps=1", "--out=run", *option)
            assert code == 2 and err.count("\n") == 1 and not evil.exists(), (option, err)


@pytest.mark.parametrize("name", ["decoder", "levels", "source", "path", "lower", "new"])
def test_no_checkpoint_imports(copy, tell, evil, name):  # noqa: F811
    config = json.loads((copy / "config.json").read_text())
    for value in VALUES if name == "decoder" else VALUES[:6]:
        config["task"]["init_args"] = {**config["task"]["init_args"], name: value}
        (copy / "config.json").write_text(json.dumps(config))
        sign(copy)
        tell("info", copy)  # a path may be any text
        assert not evil.exists() and "evilmod" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch imported']",
        "task: !!python/object/new:evilmod.X {}",
        "trainer:\n  schedule: !!python/name:os.truncate",
        "config: other.yaml",
        "- task",
        "just words",
        "",
        "task: [",
        "&a [*a]",
        "task: &a {init_args: *a}",
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "a: " + "x" * 300_000,
        "\0",
    ],
    ids=lambda text: text[:20],
)
def test_strange_files(tell, evil, text):
    Path("strange.yaml").write_text(text)
    code, out, err = tell("train", "strange.yaml")
    assert code == 2 and out == "" and err.count("\n") == 1 and "strange.yaml" in err and not evil.exists()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize("text", [BOMB, MERGES])
def test_aliases_are_counted_before_they_are_written_out(tell, tmp_path, text):
    start = time.process_time()
    with pytest.raises(ValueError, match="with its aliases written out needs at least .* FLOWMAPS_MAX_BYTES"):
        load_yaml(text, "bomb.yaml")
    (tmp_path / "bomb.yaml").write_text(text)
    code, _, err = tell("train", tmp_path / "bomb.yaml")
    assert code == 2 and err.count("\n") == 1
    assert tell("train", "digits", f"--task={text}")[0] == 2
    assert time.process_time() - start < 5


def test_honest_aliases_and_numbers_and_classes_pass(tell, capsys, tmp_path):
    (tmp_path / "more.yaml").write_text(
        "trainer: {optimizer: {lr: 1e-3, others: {betas: &b [0.9, 0.95]}}, schedule: {floor: 5.0e-2}}\n"
        "objective:\n  class_path: flowmaps.SelfDistillation\n"
        "  init_args: {pairs: Triangle, teacher: flowmaps.objectives.Average}\n"
    )
    with pytest.raises(SystemExit) as left:
        tell("train", "digits", "--config", tmp_path / "more.yaml", "--task.source=digits", "--print_config")
    shown = yaml.safe_load(capsys.readouterr().out)
    optimizer = shown["trainer"]["optimizer"]["init_args"]
    assert not left.value.code and optimizer["others"]["betas"] == [0.9, 0.95]
    assert float(optimizer["lr"]) == 1e-3 and shown["trainer"]["schedule"]["floor"] == 0.05
    assert re.search("Triangle", str(shown["objective"])) and shown["trainer"]["max_steps"] == 1000


@pytest.mark.parametrize("written, read", [("null", None), ("[0.5, 0.75]", [0.5, 0.75])])
def test_a_setting_of_a_class_within_a_class(tell, capsys, written, read):
    with pytest.raises(SystemExit):
        tell("train", "digits", "--objective.consistency.fraction", written, "--print_config")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["objective"]["init_args"]["consistency"]["init_args"]["fraction"] == read


def test_names_are_checked_at_every_depth():
    check({"task": [{"class_path": "flowmaps.tasks.images.Images", "init_args": {"source": "any.text"}}]})
    with pytest.raises(ValueError, match="a.b has class_path 'torch.nn.Linear'"):
        check({"a": {"b": {"class_path": "torch.nn.Linear"}}})
    deep: list = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="nested more than"):
        check(deep)
    assert "flowmaps.SelfDistillation" in LISTED and "flowmaps.objectives.SemigroupKL" in LISTED
