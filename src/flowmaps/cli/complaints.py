"""What the parser says of a value that does not fit, in one line: which option, its value, and what was expected."""

from __future__ import annotations

import inspect
import re
import sys

from .presets import closest

LONGEST = 80  # characters of a value that are repeated
UNNAMED = "a value"
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "NoneType": "null",
    "tuple": "a list such as [1, 2]",
    "list": "a list such as [1, 2]",
    "dict": "values by name such as {a: 1}",
    "Mapping": "values by name such as {a: 1}",
}
_END = r"(?= - (?:Type|Expected|Problem|Parser)|\.? Got value| Given value type|; |\.?$)"
_TYPED = re.compile(rf"Expected (?:an? )?(?P<type>\S(?:(?!Expected).)*?)\. Got value:(?P<value>.*?){_END}")
_UNION = re.compile(
    rf"Subtypes: \[(?P<type>(?:(?!Subtypes).)*?)\] Errors: (?:(?!Subtypes).)*? Given value:(?P<value>.*?){_END}"
)
_CLASS = re.compile(rf"Expected a dot import path string:(?P<value>.*?){_END}")
_FILE = re.compile(r"Unable to load config '(?P<value>.*?)' - ")
_UNKNOWN = re.compile(r"Option '(.*?)' is not accepted")
_DENIED = re.compile(r"Importing '(.*?)' is not allowed")
_FIRST = re.compile(rf"Errors: - (.*?){_END}")
_TYPE = re.compile(
    r"<class '([\w.]+)'>|(Mapping)\[|Callable\[\[.*?\], ([\w.]+)\]|Literal\[(.*?)\]|(tuple with \d+ elements)"
)


def in_short(text: str) -> str:
    """The parser's complaint in one line; where a class was expected, those that would do are named."""
    text = " ".join(text.split())
    for pattern in (_TYPED, _UNION, _CLASS, _FILE):
        for found in pattern.finditer(text):
            value = found["value"].strip()
            if not value.startswith(("Namespace(", "NestedArg(")):
                option = _option(text[: found.start()])
                types = found.groupdict().get("type") or ("a class by its name" if pattern is _CLASS else WORDS["dict"])
                return f"{option} is {_cut(value) or 'empty'}, expected {_expected(types, value)}"
    if found := _UNKNOWN.search(text):
        return f"{_option(text[: found.start()])} has no setting {_cut(found[1])!r}"
    if found := _FIRST.search(text):
        option = _option(text[: found.start()])
        return _cut(found[1] if option == UNNAMED else f"{option}: {found[1]}", 3 * LONGEST)
    if found := _DENIED.search(text):
        return f"{found[1]} is not a class that may be named here"
    return _cut(re.sub(r'(?:Parser|argument) key "([\w.]+)"', r"\1", text), 3 * LONGEST)


def _option(before: str) -> str:
    """The dotted name of an option, from the keys that the complaint passes through."""
    parts: list[str] = []
    for key in re.findall(r"""[Kk]ey ["']([\w.]+)["']""", before):
        parts = [key] if key == ".".join(parts) or not parts else [*parts, key]
    return ".".join(parts) or UNNAMED


def _expected(types: str, value: str) -> str:
    said: list[str] = []
    names: list[str] = []
    for plain, mapping, made, choices, other in _TYPE.findall(types):
        module, _, name = (plain or mapping or made).rpartition(".")
        cls = getattr(sys.modules.get(module), name, None) if module.startswith("flowmaps") else None
        if plain and inspect.isclass(cls):
            names += sorted(_concrete(cls))
        elif choices:
            said.append(f"one of {choices}")
        else:
            said.append(f"a function that gives {name}" if made else WORDS.get(name, name) or f"a {other}")
    if names:
        said.insert(0, f"{' or '.join(names)}{closest(value, names)}")
    return " or ".join(dict.fromkeys(said)) or types


def _concrete(cls: type) -> set[str]:
    """The names of the classes at and below ``cls`` that can be built."""
    own = set() if inspect.isabstract(cls) or cls.__name__.startswith("_") else {cls.__name__}
    return own.union(*map(_concrete, cls.__subclasses__()))


def _cut(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."
