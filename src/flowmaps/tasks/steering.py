"""What steering has to know of each modality: its rewards by name, and what one of its samples is made of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor

from ..fields import FREE, Condition, fieldwise
from ..files import cache_folder
from ..samplers import Decoder
from ..steering import (
    Hard,
    Led,
    Reward,
    Soft,
    class_probability,
    each,
    ink,
    keyword,
    likelihood,
    matches,
    word_length,
)
from .base import Task
from .images import Images


class Problem(NamedTuple):
    """The arguments of a steering method that follow from the modality, as in :class:`~flowmaps.steering.Method`."""

    shape: Any
    condition: Condition = FREE
    given: Any = None
    decoder: Decoder | None = None


def problem(
    task: Task,
    particles: int,
    generator: torch.Generator,
    label: int | None = None,
    prompt: str | None = None,
    atoms: int | None = None,
) -> Problem:
    """What is to be steered.

    Arguments:
        label: Class of a conditional image model.
        prompt: Beginning of a text.
        atoms: Number of atoms of a molecule; drawn for each particle by default.
    Raises: ValueError if the modality has no such thing.
    """
    kind = _kind(task)
    fits = {"images": "label", "text": "prompt", "molecules": "atoms"}[kind]
    for name, value in (("label", label), ("prompt", prompt), ("atoms", atoms)):
        if value is not None and name != fits:
            raise ValueError(f"{name} is {value!r}, but {kind} have none; leave it out")
    if kind == "images":
        return _images(task, particles, label, generator.device)
    return _text(task, prompt, generator.device) if kind == "text" else _molecules(task, particles, atoms, generator)


def reward(task: Task, text: str, device: torch.device | str = "cpu", surrogate: bool = False) -> Reward:
    """A reward by name, with its argument behind a colon.

    Images: ``class:3``, ``log-class:3``, ``ink``, ``ink:0.4``. Text: ``keyword:king``, ``matches:REGEX``, ``words`` or
    ``words:5`` (mean length), ``likelihood`` (nats per token under the n-gram judge of the training text) or
    ``likelihood:gpt2`` (under a model of Hugging Face). Molecules: ``qed``, ``logp``, ``rings``, ``weight``
    (``logp:2.5`` is minus the distance to a target), ``smarts:PATTERN``, ``similar:SMILES``. Molecules that are
    invalid or in pieces earn the least.

    Arguments:
        device: Where the map runs.
        surrogate: Lead to a property of a molecule by the gradient of a small trained network. Decoded molecules still
            earn the property itself. It is trained on the training molecules once, and kept.
    Raises: ValueError if there is no such reward, it lacks its argument, or there is no surrogate of it.
    """
    name, _, argument = text.partition(":")
    kind = _kind(task)
    if surrogate:
        return _surrogate(task, name, argument, device) if kind == "molecules" else _no_surrogate(text, kind)
    of_kind = {"images": _image_rewards, "text": _text_rewards, "molecules": _molecule_rewards}[kind]
    builders = of_kind(task, device)
    if name not in builders:
        raise ValueError(f"no reward {name!r} for {kind}; there are {', '.join(builders)}")
    try:
        return builders[name](argument)
    except (TypeError, ValueError) as error:
        hint = "" if argument else f"; an argument is written behind a colon, {name}:ARGUMENT"
        raise ValueError(f"reward {text!r}: {error}{hint}") from error


def finished(samples: Any, condition: Condition) -> Any:
    """Samples as :meth:`Task.sample` gives them: on the CPU, atoms that do not exist -1."""
    if not isinstance(samples, dict) or condition.mask is None:
        return fieldwise(lambda x: x.cpu(), samples)
    mask = condition.mask
    bonds = torch.where(mask["bonds"], samples["bonds"], 0).triu(1).cpu()
    return {"atoms": torch.where(mask["atoms"], samples["atoms"], -1).cpu(), "bonds": bonds + bonds.mT}


def _kind(task: Task) -> str:
    if isinstance(task, Images):
        return "images"
    kind = type(task).__name__.lower()  # asked by name: molecules need an extra to be imported
    if kind not in ("text", "molecules"):
        raise ValueError(f"no rewards are known for {type(task).__name__}; call flowmaps.steering from Python")
    return kind


# -- images ----------------------------------------------------------------------------------------------------------


def _images(task: Any, particles: int, label: int | None, device: torch.device) -> Problem:
    condition = FREE
    if label is not None and not (task.conditional and 0 <= label < task.state()["classes"]):
        expected = f"0..{task.state()['classes'] - 1}" if task.conditional else "none: the model is unconditional"
        raise ValueError(f"label is {label}, expected {expected}")
    if task.conditional:
        condition = Condition(label=task.labels(particles, label).to(device))
    return Problem(tuple(task.state()["shape"]), condition, None, task.decoder)


def _image_rewards(task: Any, device: Any) -> dict[str, Callable[[str], Reward]]:
    def of_class(argument: str, log: bool) -> Reward:
        label, classes = int(argument), task.state()["classes"]
        if not 0 <= label < classes:
            raise ValueError(f"class {label}, expected 0..{classes - 1}")
        return class_probability(copy.deepcopy(task.classifier).to(device), label, log=log)

    return {
        "class": lambda argument: of_class(argument, log=False),
        "log-class": lambda argument: of_class(argument, log=True),
        "ink": lambda argument: ink(_number(argument)),
    }


# -- text ------------------------------------------------------------------------------------------------------------


def _text(task: Any, prompt: str | None, device: torch.device) -> Problem:
    if prompt is None:
        return Problem((task.length,), decoder=task.decoder)
    from .text_prompts import template

    if not task.state()["given"]:
        raise ValueError("a prompt needs a model trained with given positions; train it with given: true")
    wanted = template(task.tokeniser, task.length, prompt)
    known, given = wanted.known.unsqueeze(0).to(device), wanted.tokens.unsqueeze(0).to(device)
    return Problem((task.length,), Condition(known=known), given, task.decoder)


def _text_rewards(task: Any, device: Any) -> dict[str, Callable[[str], Reward]]:
    decode = lambda x_1: task.tokeniser.decode(x_1.tolist())  # noqa: E731

    def judged(name: str) -> Reward:
        from ..metrics.text_judges import HuggingFaceJudge

        if not name:
            return likelihood(task.measures.ngrams.nats)
        return likelihood(HuggingFaceJudge(name, str(device)).nats, decode, f"likelihood under {name}")

    def of_word(word: str) -> Reward:
        from .text_prompts import given_text

        if word:
            given_text(task.tokeniser, word)  # a word that the alphabet cannot say would earn nothing, ever
        return keyword(word, decode)

    return {
        "keyword": of_word,
        "matches": lambda pattern: matches(pattern, decode),
        "words": lambda argument: word_length(decode, _number(argument)),
        "likelihood": judged,
    }


# -- molecules -------------------------------------------------------------------------------------------------------


def _molecules(task: Any, particles: int, atoms: int | None, generator: torch.Generator) -> Problem:
    from ..data.molecules import graph_masks

    N = task.alphabet.size
    sizes = task._sizes(particles, 1, atoms, generator)
    mask = {name: leaf.to(generator.device) for name, leaf in graph_masks(sizes, N).items()}
    label = task._target(None)
    label = None if label is None else label.expand(particles, -1).to(generator.device)
    return Problem({"atoms": (N,), "bonds": (N, N)}, Condition(mask=mask, label=label), None, task.decoder)


def _molecule_rewards(task: Any, device: Any) -> dict[str, Callable[[str], Reward]]:
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    from ..metrics.molecules import PROPERTIES, graph_of, inspect

    alphabet = task.alphabet

    def of_molecule(function: Callable[[Any], float], least: float, name: str) -> Reward:
        def value(x_1: dict[str, Tensor]) -> float:
            atoms, bonds = x_1["atoms"].cpu(), x_1["bonds"].cpu().clamp(min=0)
            smiles = inspect(graph_of(atoms, bonds, atoms >= 0, alphabet)).whole
            return least if smiles is None else float(function(Chem.MolFromSmiles(smiles)))

        return Hard(each(value), name)

    def of_property(name: str, argument: str) -> Reward:
        f, target = PROPERTIES[name], _number(argument)
        if target is None:
            return of_molecule(f, _least(name), name)
        return of_molecule(lambda mol: -abs(f(mol) - target), _least(name, target), f"{name} {target:g}")

    def smarts(pattern: str) -> Reward:
        query = Chem.MolFromSmarts(pattern)
        if query is None or not pattern:
            raise ValueError(f"{pattern!r} is no SMARTS pattern")
        return of_molecule(lambda mol: mol.HasSubstructMatch(query), 0.0, f"smarts {pattern}")

    def similar(smiles: str) -> Reward:
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or not smiles:
            raise ValueError(f"{smiles!r} is no SMILES of a molecule")
        fingerprint = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048).GetFingerprint
        bits = fingerprint(mol)
        return of_molecule(lambda m: DataStructs.TanimotoSimilarity(fingerprint(m), bits), 0.0, f"similar to {smiles}")

    named = {name: lambda argument, name=name: of_property(name, argument) for name in PROPERTIES}
    return {**named, "smarts": smarts, "similar": similar}


def _surrogate(task: Any, name: str, argument: str, device: Any) -> Reward:
    """A property, led by the gradient of its surrogate."""
    from ..metrics.molecules import PROPERTIES
    from ..metrics.molecules_surrogate import cached_surrogate

    if name not in PROPERTIES:
        _no_surrogate(name, "molecules", f"; there are some of {', '.join(PROPERTIES)}")
    black_box, target = reward(task, f"{name}:{argument}" if argument else name), _number(argument)
    splits = task.splits
    with torch.enable_grad():
        model = cached_surrogate(cache_folder() / "surrogates", splits.train, splits.test, splits.alphabet)
    by = copy.deepcopy(model).to(device).of(name, _least(name, target), target)
    about = {"surrogate_r2": model.quality()[name], "surrogate_accuracy_of_validity": float(model.accuracy)}
    return Led(cast(Hard, black_box), Soft(by, f"surrogate of {black_box.name}"), about)


def _least(name: str, target: float | None = None) -> float:
    """What an invalid molecule earns."""
    least = {"qed": 0.0, "logp": -10.0, "rings": -1.0, "weight": 0.0}[name]
    return least if target is None else -abs(least - target) - 1


def _no_surrogate(name: str, kind: str, some: str = "") -> NoReturn:
    raise ValueError(f"no surrogate of {name!r} for {kind}{some}; leave it out")


def _number(argument: str) -> float | None:
    return float(argument) if argument else None
