"""States of one field or of several named ones (the atoms and bonds of a molecule), with arithmetic for both.

Mathematics is written once for both: ``x + across(gamma, x) * d``. Only this file, :mod:`flowmaps.spaces.product` and
:mod:`flowmaps.evaluation` walk from field to field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, NamedTuple, TypeVar, cast, overload

import torch
from torch import Tensor


class Fields(dict[str, Tensor]):
    r"""Several named tensors that are added, scaled and subtracted as one state.

    .. math:: x = (x^{(1)}, \dots, x^{(F)}), \qquad (x + \gamma\, d)^{(f)} = x^{(f)} + \gamma^{(f)} d^{(f)}

    The other operand has the same names, or is one number or tensor for every field. Methods are those of a tensor.

    >>> x = Fields(a=torch.tensor(1.0), b=torch.tensor(2.0))
    >>> (x + 0.5 * (Fields(a=torch.tensor(3.0), b=torch.tensor(0.0)) - x))["a"]
    tensor(2.)
    """

    def _each(self, function: Callable[[Tensor], Tensor]) -> Fields:
        return Fields({name: function(leaf) for name, leaf in self.items()})

    def _with(self, function: Callable[[Tensor, Tensor | float], Tensor], other: Operand) -> Fields:
        if not isinstance(other, Mapping):
            return self._each(lambda leaf: function(leaf, other))
        if other.keys() != self.keys():
            raise ValueError(f"fields {list(self)} meet fields {list(other)}; expected the same names")
        return Fields({name: function(leaf, other[name]) for name, leaf in self.items()})

    def __add__(self, other: Operand) -> Fields:
        return self._with(lambda a, b: a + b, other)

    def __sub__(self, other: Operand) -> Fields:
        return self._with(lambda a, b: a - b, other)

    def __rsub__(self, other: Operand) -> Fields:
        return self._with(lambda a, b: b - a, other)

    def __mul__(self, other: Operand) -> Fields:
        return self._with(lambda a, b: a * b, other)

    def __truediv__(self, other: Operand) -> Fields:
        return self._with(lambda a, b: a / b, other)

    def __neg__(self) -> Fields:
        return self._with(lambda a, b: a * b, -1)

    __radd__, __rmul__ = __add__, __mul__

    def square(self) -> Fields:
        return self._each(torch.square)

    def sum(self, dim: int) -> Fields:
        return self._each(lambda leaf: leaf.sum(dim))

    def to(self, dtype: torch.dtype) -> Fields:
        return self._each(lambda leaf: leaf.to(dtype))


T = TypeVar("T")
S = TypeVar("S", Tensor, Fields)  # a state: every formula holds for one field and for several
Tree = T | Mapping[str, T]  # one value, or one for each field
Operand = Tensor | Fields | float
State = Tensor | Fields
Data = Tensor | Mapping[str, Tensor]
Shape = tuple[int, ...] | Mapping[str, tuple[int, ...]]
Index = Tensor | slice | int | tuple[EllipsisType | slice | int, ...]


class Condition(NamedTuple):
    """What a network may know besides the state and the times; every part is optional.

    Arguments:
        mask: Positions that exist, bool ``(*batch, *positions)`` per field; padding is ``False``.
        known: Positions given clean (a prompt, the rim of a gap), same shape; their own time is 1.
        label: Class index ``(*batch,)`` int64, or real-valued properties ``(*batch, p)``.
    """

    mask: Data | None = None
    known: Data | None = None
    label: Tensor | None = None


FREE = Condition()  # everything exists, nothing is known


class Batch(NamedTuple):
    """Data of one step, ``x_1``, per field, and their condition.

    Categories are int64 ``(*batch, *positions)``, coordinates floating-point ``(*batch, *positions, dim)``.
    """

    x_1: Data
    condition: Condition = FREE


# -- from field to field -------------------------------------------------------------------------------------------


def leaves(*trees: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401  (trees of several kinds side by side)
    """Walk the fields of several trees side by side; ``None`` stands for ``None`` in every field.

    >>> [a.item() + b.item() for a, b in leaves({"x": torch.tensor(1)}, {"x": torch.tensor(2)})]
    [3]
    """
    names = next((tuple(tree) for tree in trees if isinstance(tree, dict)), None)
    if names is None:
        yield trees
    else:
        for name in names:
            yield tuple(tree[name] if isinstance(tree, dict) else tree for tree in trees)


@overload
def fieldwise(function: Callable[..., Tensor], x: S, /, *others: object) -> S: ...  # pyright: ignore[reportOverlappingOverload]  (both return Fields)
@overload
def fieldwise(function: Callable[..., Tensor], x: Mapping[str, Tensor], /, *others: object) -> Fields: ...
@overload
def fieldwise(function: Callable[..., T], x: object, /, *others: object) -> Tree[T]: ...
def fieldwise(function: Callable[..., object], x: object, /, *others: object) -> object:
    """Apply ``function`` to the corresponding fields of several trees and keep their names."""
    trees = (x, *others)
    names = next((tuple(tree) for tree in trees if isinstance(tree, dict)), None)
    if names is None:
        return function(*trees)
    return joined(dict.fromkeys(names), [function(*fields) for fields in leaves(*trees)])


@overload
def parts(x: State) -> tuple[Tensor, ...]: ...
@overload
def parts(x: Tree[T]) -> tuple[T, ...]: ...
def parts(x: object) -> tuple[object, ...]:
    """The values of all fields, in their order: for a state, its tensors."""
    return tuple(x.values()) if isinstance(x, Mapping) else (x,)


@overload
def joined(x: S, values: Sequence[Tensor]) -> S: ...
@overload
def joined(x: object, values: Sequence[Tensor]) -> State: ...
@overload
def joined(x: object, values: Sequence[T]) -> Tree[T]: ...
def joined(x: object, values: Sequence[Any]) -> object:
    """Back from values to a tree with the fields of ``x``."""
    return Fields(zip(x, values, strict=True)) if isinstance(x, dict) else values[0]


def unzipped(x: Tree[tuple[Tensor, ...]]) -> tuple[State, ...]:
    """From several tensors in each field to several states."""
    return tuple(joined(x, column) for column in zip(*parts(x), strict=True))


@overload
def one_field(data: Data) -> Tensor: ...
@overload
def one_field(data: Data | None) -> Tensor | None: ...
def one_field(data: Data | None) -> Tensor | None:
    """Data of a single field; ``None`` stays ``None``.

    Raises: ValueError if they have several.
    """
    if isinstance(data, Mapping):
        raise ValueError(
            f"the data have the fields {list(data)}, expected one tensor; use a Product of spaces for fields"
        )
    return data


def named_fields(data: Data | None) -> Mapping[str, Tensor]:
    """Data of several fields.

    Raises: ValueError if they have but one.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"the data are one {type(data).__name__}, expected several fields by name")
    return data


def first_leaf(x: Data) -> Tensor:
    """The tensor of a state, or of its first field: it knows the batch, the device and the precision."""
    return parts(x)[0]


def lead(x: State) -> Shape:
    """The shape ``(*batch, *positions)`` of a state, per field."""
    return fieldwise(lambda leaf: tuple(leaf.shape[:-1]), x)


def batched(shape: Shape, n: int) -> Shape:
    """The shape of ``n`` examples, from that of one."""
    return fieldwise(lambda positions: (n, *positions), shape if isinstance(shape, dict) else tuple(shape))


# -- what is the same in every field -------------------------------------------------------------------------------


def across(time: Tensor | float, x: S) -> S:
    """View times ``(*batch,)`` so that they broadcast over the positions and channels of ``x``, in each field."""
    return fieldwise(lambda leaf: _across(time, leaf), x)


def _across(time: Tensor | float, x: Tensor) -> Tensor:
    time = torch.as_tensor(time, dtype=x.dtype, device=x.device)
    return time.reshape(time.shape + (1,) * (x.ndim - time.ndim))


def zeros_like(x: S) -> S:
    """The zero state."""
    return fieldwise(torch.zeros_like, x)


def detach(x: S) -> S:
    """The state without its gradient."""
    return fieldwise(torch.detach, x)


def like(x: State, other: S) -> S:
    """``x`` in the precision of ``other``."""
    return fieldwise(lambda other, leaf: leaf.to(other.dtype), other, x)


def lerp(x: S, end: S, weight: float) -> S:
    """x + weight * (end - x), exact at both ends."""
    return fieldwise(lambda x, end: x.lerp(end, weight), x, end)


@overload
def take(tree: None, index: Index) -> None: ...
@overload
def take(tree: S, index: Index) -> S: ...  # pyright: ignore[reportOverlappingOverload]  (both return Fields)
@overload
def take(tree: Mapping[str, Tensor], index: Index) -> Fields: ...
def take(tree: Data | None, index: Index) -> Data | None:
    """Some examples of every field, or some channels by ``(..., slice)``; ``None`` stays ``None``."""
    return None if tree is None else fieldwise(lambda leaf: leaf[index], tree)


def select(condition: Condition, index: Index) -> Condition:
    """The condition of some examples of a batch, ``index`` being a slice or an index tensor."""
    mask, known, label = condition
    return Condition(take(mask, index), take(known, index), take(label, index))


def each_tensor(function: Callable[[Tensor], Tensor], tree: T) -> T:
    """A state, data, a condition or a tuple of them, by a function of each tensor."""
    found: object = tree
    if isinstance(tree, Tensor):
        found = function(tree)
    elif isinstance(tree, dict):
        found = type(tree)({name: each_tensor(function, leaf) for name, leaf in tree.items()})
    elif isinstance(tree, tuple):
        parts = (each_tensor(function, part) for part in tree)
        found = tuple(parts) if type(tree) is tuple else type(tree)(*parts)
    return cast(T, found)


def moved(tree: T, device: torch.device) -> T:
    """A state, data, a condition or a tuple of them, on a device."""
    return each_tensor(lambda x: x.to(device), tree)


def portion(x: Data | None, first: int, n: int) -> Data | None:
    """Examples ``first`` to ``first + n``; a single one, which all share, ``n`` times, without a copy."""
    rows = lambda leaf: leaf.expand(n, *leaf.shape[1:]) if len(leaf) == 1 else leaf[first : first + n]  # noqa: E731
    return None if x is None else fieldwise(rows, x)


@overload
def roll(x: S) -> S: ...  # pyright: ignore[reportOverlappingOverload]  (both return Fields)
@overload
def roll(x: Mapping[str, Tensor]) -> Fields: ...
def roll(x: Data) -> Data:
    """The batch moved on by one: each example meets its neighbour."""
    return fieldwise(lambda leaf: leaf.roll(1, 0), x)


@overload
def cat(trees: Sequence[S], dim: int = 0) -> S: ...
@overload
def cat(trees: Sequence[Data], dim: int = 0) -> Data: ...
def cat(trees: Sequence[Data], dim: int = 0) -> Data:
    """Examples one after the other, or channels side by side with ``dim=-1``, field by field."""
    return fieldwise(lambda *tensors: torch.cat(tensors, dim), *trees)


@overload
def where(choice: Data, x: S, other: S | float) -> S: ...
@overload
def where(choice: Data, x: State, other: State | float) -> State: ...
@overload
def where(choice: Data, x: Data, other: Data | float) -> Data: ...
def where(choice: Data, x: Data, other: Data | float) -> Data:
    """``x`` where the choice ``(*batch,)`` or ``(*batch, *positions)`` says so, ``other`` elsewhere."""
    return fieldwise(lambda x, choice, other: torch.where(_over(choice, x), x, other), x, choice, other)


def _over(choice: Tensor, x: Tensor) -> Tensor:
    return choice.reshape(choice.shape + (1,) * (x.ndim - choice.ndim))


def hold(x: S, clean: S, known: Data | None) -> S:
    """``clean`` at the known positions, ``x`` elsewhere; ``known=None`` knows none."""
    return x if known is None else where(known, clean, x)
