"""What a configuration may say: the classes it may name, and how much of it is read.

A preset, a checkpoint and the command line name classes as texts, which a parser imports. Here every text is checked
before a parser sees it; the parser has the same list. Nothing outside of the list is ever imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import yaml
from jsonargparse import get_loader, set_parsing_settings

from ..reading import check_size, read_text

CLASSES = {
    "data.images": ("Bernoulli", "Quantised", "Threshold"),
    "data.points": ("Checkerboard", "Ring"),
    "likelihood.bounds": ("Averaged", "CrossEntropyOnly", "CutOff", "Grid"),
    "likelihood.proposals": ("Proposal",),
    "maps.autoencoders": ("Augmented", "Partition", "VAE"),
    "maps.flow": ("EndpointMap", "VelocityMap"),
    "maps.flows": ("CircularNSF", "NSF", "RealNVP", "TransformerFlow"),
    "maps.masks": ("Centre", "Chosen", "Corner"),
    "networks.autoencoding": ("ConvDecoder", "ConvEncoder", "DenseDecoder", "DenseEncoder"),
    "networks.convolutions": ("Convolutions",),
    "networks.embeddings": ("TimeFeatures",),
    "networks.graph": ("GraphTransformer",),
    "networks.points": ("PointNetwork",),
    "networks.transformer": ("Transformer",),
    "networks.unet": ("UNet",),
    "objectives.autoencoding": ("AutoencoderLikelihood", "RawExpandedDensity"),
    "objectives.contrastive": ("ContrastiveCrossEntropy", "ContrastiveSquaredError"),
    "objectives.cycle": ("Cycle",),
    "objectives.diagonal": ("CrossEntropy", "SquaredError"),
    "objectives.distribution": ("EndpointKernel",),
    "objectives.eulerian": ("Eulerian", "EulerianKL"),
    "objectives.importance": ("ImportanceSampled",),
    "objectives.lagrangian": ("EndpointConsistency", "Lagrangian", "LagrangianCE", "LagrangianKL"),
    "objectives.likelihood": ("MaximumLikelihood",),
    "objectives.regression": ("ForwardBackward", "LogDeterminant", "RegFlow"),
    "objectives.self_distillation": ("SelfDistillation",),
    "objectives.semigroup": ("Semigroup", "SemigroupKL"),
    "objectives.teachers": ("Autoguided", "Average", "Frozen", "Itself"),
    "objectives.weights": ("AdaptiveWeight", "GapCurriculum", "LearnedWeight"),
    "paths": ("Dirichlet", "Independent", "MinibatchOT"),
    "samplers.decode": ("Argmax", "Categorical"),
    "samplers.flow_map": ("Jumps", "Renoise", "Stochastic"),
    "samplers.ode": ("Dopri5", "Euler", "Heun"),
    "samplers.sde": ("EulerMaruyama",),
    "spaces.fisher": ("FisherSphere",),
    "spaces.one_hot": ("OneHot",),
    "tasks.autoencoders": ("Autoencoders",),
    "tasks.boltzmann": ("Boltzmann",),
    "tasks.dna": ("DNA",),
    "tasks.earth": ("Earth",),
    "tasks.hyperbolic": ("Hyperbolic",),
    "tasks.images": ("Images",),
    "tasks.molecules": ("Molecules",),
    "tasks.points": ("Points",),
    "tasks.ramachandran": ("Ramachandran",),
    "tasks.rotations": ("Rotations",),
    "tasks.text": ("Text",),
    "tasks.torsions": ("Torsions",),
    "times": ("DecodeRateClock", "FullJump", "LogitNormal", "OnClock", "OnGrid", "PairOnClock", "RatioPower",
              "Sorted", "ToData", "Triangle", "Uniform", "UniformBelow", "UniformGap"),
    "train.from_trajectories": ("FromTrajectories",),
    "train.muon": ("Muon",),
    "train.optim": ("AdamW", "Cosine"),
    "train.two_stage": ("Autoguidance", "TwoStage"),
}  # fmt: skip
# Settings whose texts are texts and never name a class.
TEXTS = {"base", "cache", "column", "columns", "conditions", "devices", "judge", "monitor", "paired", "path", "source",
         "strategy", "test", "tokeniser", "topology", "trajectories", "valid", "weaker"}  # fmt: skip
ROOTS = {"bound", "decoder", "objective", "sampler", "task", "trainer"}  # options that classes stand below
CHARACTERS, DEPTH, NODES = 2**18, 64, 10_000


def spellings() -> Iterator[str]:
    """Every path by which a class of the list may be named: by its module, its package, and the public face."""
    for module, names in CLASSES.items():
        for place in dict.fromkeys((f".{module}", f".{module.split('.')[0]}", "")):
            yield from (f"flowmaps{place}.{name}" for name in names)


LISTED = set(spellings())


def trust(*classes: type) -> None:
    """Let configurations name classes of one's own, for as long as the program runs: a task, a network, an objective.

    A program that has called this can hand its own modality to every command; files can never ask for it.

    Raises: ValueError if a class cannot be found again where it says it is defined.
    """
    for cls in classes:
        if getattr(import_module(cls.__module__), cls.__qualname__, None) is not cls:
            raise ValueError(f"{cls.__qualname__} is not at the top of {cls.__module__}; define it there")
        LISTED.add(f"{cls.__module__}.{cls.__qualname__}")
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=sorted(LISTED))


trust()


def check(value: object, where: str = "", depth: int = 0) -> None:
    """Refuse what could make a parser import something that is not on the list.

    Arguments:
        value: A tree of JSON values.
        where: Names it in a complaint; the last part says which setting it is.
    Raises: ValueError naming the first such text, or a tree that is too deep.
    """
    if depth > DEPTH:
        raise ValueError(f"{where[:80]}... is nested more than {DEPTH} deep; no configuration is")
    name = where.rpartition(".")[2].rstrip("+")
    read = load_yaml(value, where) if name == "class_path" and isinstance(value, str) else value
    if name == "class_path" and not isinstance(read, str):
        raise ValueError(f"{where.rpartition('.')[0]} has class_path {value!r:.80}, expected a class of this package")
    if name == "init_args" and not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r:.80}, expected settings by name")
    if isinstance(value, Mapping):
        for key, part in value.items():
            check(part, f"{where}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list | tuple):
        for part in value:
            check(part, where, depth + 1)
    elif isinstance(value, int) and value.bit_length() > 1000:
        raise ValueError(f"{where} is a number of {value.bit_length()} bits; no setting is so large")
    elif isinstance(value, str) and name not in TEXTS:
        _check_text(value, where, depth)


def _check_text(text: str, where: str, depth: int) -> None:
    if len(text) > 300 and text.lstrip("+-").isdecimal():
        raise ValueError(f"{where} is a number of {len(text)} digits; no setting is so large")
    if text in LISTED or re.fullmatch(r"[\w-]*", text, re.ASCII) or _number(text):
        return
    inner = load_yaml(text, where)  # a parser reads texts once more where it expects a class or a list
    if isinstance(inner, str):
        owner, _, name = where.rpartition(".")
        what = f"{owner} has class_path" if name == "class_path" else f"{where} is"
        raise ValueError(f"{what} {text!r:.80}, expected a class of this package or a plain value")
    check(inner, where, depth + 1)


def _number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def load_yaml(text: str, what: str) -> Any:  # noqa: ANN401  (YAML may be any value)
    """The value of a YAML text, whose size with all aliases written out is known before it is built.

    Raises: ValueError if it is no YAML, too deep or too large.
    """
    try:
        _measure(text, what)
        return get_loader("yaml")(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{what} is no YAML ({' '.join(str(error).split())[:200]}); mend it there") from None


def _measure(text: str, what: str) -> None:
    """Walk the events of a text without building it."""
    nodes, sizes, path = 0, dict[str, int](), list[tuple[str | None, int]]()
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"{what} has the alias *{event.anchor} before the end of what it names; write it out")
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            path.append((event.anchor, nodes))
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = path.pop()
            sizes |= {anchor: nodes - before} if anchor else {}
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            sizes |= {event.anchor: 1} if event.anchor else {}
        if len(path) > DEPTH:
            raise ValueError(f"{what} is nested more than {DEPTH} deep; no configuration is")
        check_size(f"{what} with its aliases written out", 100 * nodes, 100 * NODES)


def read_config_text(name: str) -> str:
    """The checked text of a YAML file.

    Raises: ValueError naming the file if it cannot be read, is no mapping, or says what it may not.
    """
    text = read_text(name, CHARACTERS)
    tree = load_yaml(text, name)
    if not isinstance(tree, Mapping):
        raise ValueError(f"{name} holds {str(tree)!r:.40}, expected settings below task, objective and trainer")
    try:
        check(tree)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return text


def checked(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, every ``--config`` read and checked, every other one checked.

    Raises: ValueError about the first text that may not be there.
    """
    result, option = list[str](), ""
    for argument in arguments:
        value = argument
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            if not equals:
                result.append(argument)
                continue
        if option == "--config":
            if result[-1:] == ["--config"]:
                result.pop()
            argument, option = f"--config={read_config_text(value)}", ""
        elif option[2:].split(".")[0].rstrip("+") in ROOTS:
            check(value, option[2:])
        result.append(argument)
    return result
