"""Weights that are made where they will lie: a map is built without memory, and what fills it is written down.

Every operation of the construction is seen once on the meta device. Carried out later in its order, with the random
numbers that it would have drawn, it gives the same bits; but a tensor is there only from its first operation to its
last, after which each process keeps its shards of it and lets the rest go.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from typing_extensions import TypeIs

from .shards import local, placed
from .tensors import memory_of

log = logging.getLogger("flowmaps.train")
Module = TypeVar("Module", bound=nn.Module)
Take = Callable[[str, Tensor], None]


def deferred(build: Callable[[], Module]) -> Module:
    """A module without memory, whose weights a trainer makes: under ``fsdp2`` each process those of its shards.

    Arguments:
        build: Makes it. A construction that looks at numbers, reads weights from files or seeds generators cannot be
            put off: then the module is built as usual, and the log says why.
    Invariant: weights are those of ``build()``, bit for bit (``tests/train/test_deferral.py``).
    """
    state = torch.random.get_rng_state()
    recorder = _Recorder(state)
    try:
        with torch.device("meta"), recorder:
            module = build()
        recorder.check(module)
    except (NotImplementedError, RuntimeError) as error:
        log.info("each process builds the whole map first: %s", " ".join(str(error).split())[:100])
        torch.random.set_rng_state(state)
        return build()
    _recipes[module] = Recipe(module, recorder.operations, state)
    return module


def is_deferred(module: nn.Module) -> bool:
    """Whether :func:`deferred` made it, and nothing filled it yet."""
    return module in _recipes


def settle(module: nn.Module, device: torch.device) -> bool:
    """Fill a module of :func:`deferred`, whether its weights were sharded meanwhile or not.

    Returns: whether it was one.
    """
    recipe = _recipes.pop(module, None)
    if recipe is None:
        return False
    parameters = dict(module.named_parameters(remove_duplicate=False))

    def take(name: str, made: Tensor) -> None:
        if name in parameters:
            _fill(parameters[name], made, device)
        else:
            put(module, name, made.to(device, copy=True))

    recipe.carry_out(take)
    return True


@torch.no_grad()
def follow(module: nn.Module, other: nn.Module, device: torch.device) -> None:
    """Fill a copy that was made of a module without memory, and spread like it, with its weights and buffers."""
    own = dict(other.named_parameters(remove_duplicate=False))
    for name, parameter in module.named_parameters():
        _fill(parameter, own[name], device)
    for name, buffer in other.named_buffers():
        put(module, name, buffer.clone())


def put(module: nn.Module, name: str, buffer: Tensor) -> None:
    """Set a buffer by its name."""
    path, _, leaf = name.rpartition(".")
    module.get_submodule(path)._buffers[leaf] = buffer


@torch.no_grad()
def _fill(parameter: nn.Parameter, made: Tensor, device: torch.device) -> None:
    if parameter.is_meta:
        empty = nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
        torch.utils.swap_tensors(parameter, empty)  # whoever has the parameter keeps it
    local(parameter).copy_(local(placed(made, parameter)))


class Operation(NamedTuple):
    """A call of an operator.

    Arguments:
        func, args, kwargs: The call; its tensors are without memory, or constants.
        out: The tensors that it gave.
    """

    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Sequence[Tensor]

    @property
    def random(self) -> bool:
        return torch.Tag.nondeterministic_seeded in self.func.tags

    def touched(self) -> set[int]:
        """The memory that it needs or makes."""
        return {memory_of(x) for x in (*tree_leaves((self.args, self.kwargs)), *self.out) if _is_meta(x)}

    def given(self) -> set[int]:
        """The memory that it needs."""
        return {memory_of(x) for x in tree_leaves((self.args, self.kwargs)) if _is_meta(x)}

    def written(self) -> set[int]:
        """The memory that it changes or makes."""
        arguments = self.func._schema.arguments
        written = [said.alias_info is not None and said.alias_info.is_write for said in arguments]
        changed = [arg for arg, change in zip(self.args, written, strict=False) if change]
        made = {memory_of(x) for x in self.out} - self.given()
        return made | {memory_of(x) for x in tree_leaves(changed) if _is_meta(x)}


class _Recorder(TorchDispatchMode):
    """Writes down what is done to tensors without memory; views do nothing."""

    def __init__(self, state: Tensor):
        super().__init__()
        self.operations: list[Operation] = []
        self.state = state
        self.seeded = False  # whether the generator was another when something was drawn

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        one = Operation(func, args, kwargs or {}, [x for x in tree_leaves(out) if _is_meta(x)])
        if one.written():
            self.operations.append(one)
        self.seeded = self.seeded or one.random and not torch.equal(torch.random.get_rng_state(), self.state)
        return out

    def check(self, module: nn.Module) -> None:
        """Refuse a module that what was written down does not fill.

        Raises: NotImplementedError naming what does not.
        """
        if self.seeded or not torch.equal(torch.random.get_rng_state(), self.state):
            raise NotImplementedError("it seeds a generator, or draws on the CPU")
        known: set[int] = set()
        filled: set[int] = set()
        for one in self.operations:
            if not one.given() <= known:
                raise NotImplementedError(f"{one.func} reads what was made elsewhere")
            known |= one.written()
            filled |= one.written() if "empty" not in str(one.func) else set()
        for name, tensor in _tensors(module):
            if not tensor.is_meta:
                raise NotImplementedError(f"{name} has numbers already")
            if tensor.numel() and memory_of(tensor) not in filled:
                raise NotImplementedError(f"nothing fills {name}")
        if any(_is_meta(x) for part in module.modules() for x in _attributes(part)):
            raise NotImplementedError("a tensor is no parameter and no buffer")


class Recipe:
    """What fills a module, in order.

    Arguments:
        module: Without memory.
        operations: Of its construction.
        state: Of the generator before.
    """

    def __init__(self, module: nn.Module, operations: Sequence[Operation], state: Tensor):
        self.operations, self.state = operations, state
        self.owners: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in _tensors(module):
            self.owners[memory_of(tensor)][name] = tensor.detach()  # which keeps its shape when the module is sharded
        self.most = 0  # bytes that were there at one time, when it was carried out

    @torch.no_grad()
    def carry_out(self, take: Take) -> None:
        """Make every tensor, and hand it over when it is whole.

        Arguments:
            take: Called with a name of the module and its tensor, which is let go afterwards.
        """
        real: dict[int, torch.UntypedStorage] = {}
        left: dict[int, int] = defaultdict(int)
        for one in self.operations:
            for memory in one.touched():
                left[memory] += 1
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(self.state)
            for i in _order(self.operations):
                _repeat(self.operations[i], real)
                self.most = max(self.most, sum(storage.nbytes() for storage in real.values()))
                for memory in self.operations[i].touched():
                    left[memory] -= 1
                    if not left[memory]:
                        for name, tensor in self.owners.get(memory, {}).items():
                            take(name, _at(tensor, real[memory]))
                        del real[memory]


_recipes: WeakKeyDictionary[nn.Module, Recipe] = WeakKeyDictionary()


def _order(operations: Sequence[Operation]) -> Iterator[int]:
    """That of the construction, except that what follows from a tensor, such as a copy, comes as soon as it can."""
    waits = [0] * len(operations)  # how many others an operation waits for
    followers: list[list[int]] = [[] for _ in operations]
    last_write: dict[int, int] = {}
    readers: dict[int, list[int]] = defaultdict(list)
    drawn: int | None = None
    for i, one in enumerate(operations):
        written = one.written()
        before = {last_write[m] for m in one.touched() if m in last_write}
        before |= {reader for m in written for reader in readers[m]}
        before |= {drawn} if one.random and drawn is not None else set()
        for other in before:
            followers[other].append(i)
        waits[i] = len(before)
        drawn = i if one.random else drawn
        for memory in one.touched() - written:
            readers[memory].append(i)
        for memory in written:
            last_write[memory], readers[memory] = i, []
    done = [False] * len(operations)
    for first in range(len(operations)):
        ready = [] if done[first] else [first]
        while ready:
            i = ready.pop(0)
            done[i] = True
            yield i
            for follower in followers[i]:
                waits[follower] -= 1
                if not waits[follower] and not operations[follower].random and not done[follower]:
                    ready.append(follower)


def _repeat(one: Operation, real: dict[int, torch.UntypedStorage]) -> None:
    """Carry out an operation on the CPU."""

    def found(x: object) -> object:
        if _is_meta(x):
            return _at(x, real[memory_of(x)])
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == "meta" else x

    args, kwargs = tree_map(found, one.args), tree_map(found, dict(one.kwargs))
    made = [x for x in tree_leaves(one.func(*args, **kwargs)) if isinstance(x, Tensor)]
    for meant, tensor in zip(one.out, made, strict=True):
        real.setdefault(memory_of(meant), tensor.untyped_storage())


def _at(like: Tensor, storage: torch.UntypedStorage) -> Tensor:
    """The part of some memory that a tensor without memory means."""
    return torch.empty(0, dtype=like.dtype).set_(storage, like.storage_offset(), like.size(), like.stride())


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _attributes(part: nn.Module) -> Iterator[object]:
    """What a module keeps besides its parameters and buffers, and what plain objects in it keep."""
    for value in vars(part).values():
        yield value
        if not isinstance(value, nn.Module | Tensor) and hasattr(value, "__dict__"):
            yield from vars(value).values()


def _is_meta(x: object) -> TypeIs[Tensor]:
    return isinstance(x, Tensor) and x.is_meta
