"""What the parser says of a value that does not fit, in one line: which option, its value, and what was expected."""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module

from jsonargparse import ArgumentParser

from .extras import EXTRA_OF, lacking
from .names import closest
from .trusted import LISTED

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
RENAMED = {
    "unconstrained": "write flow_map: flowmaps.maps.VelocityMap for unconstrained: true, and leave out false",
}  # settings of earlier versions, and what they are now
_NO_ARGUMENT = re.compile(
    r"class_path '(?P<path>[\w.]+)': Option '(?P<name>\w+)' is not accepted"
    r"|Option '(?P<other>\w+)' is not accepted\. Got value: Namespace\(class_path='(?P<made>[\w.]+)'"
)
_END = r"(?= - (?:Type|Expected|Problem|Parser)|\.? Got value| Given value type|; |\.?$)"
_TYPED = re.compile(rf"Expected (?:an? )?(?P<type>\S(?:(?!Expected).)*?)\. Got value:(?P<value>.*?){_END}")
_UNION = re.compile(
    rf"Subtypes: \[(?P<type>(?:(?!Subtypes).)*?)\] Errors: (?:(?!Subtypes).)*? Given value:(?P<value>.*?){_END}"
)
_MADE = re.compile(
    rf"Type (?P<type>\S*Callable\[\[[^]]*\], [\w.]+\]) expects a function.*?"
    rf" Got value: ?(?:Namespace\(class_path=')?(?P<value>[^'{{]*?)(?:'|{_END})"
)
_CLASS = re.compile(rf"Expected a dot import path string:(?P<value>.*?){_END}")
_FILE = re.compile(r"Unable to load config '(?P<value>.*?)' - ")
_UNKNOWN = re.compile(r"Option '(.*?)' is not accepted")
_DENIED = re.compile(r"Importing '(.*?)' is not allowed")
_FIRST = re.compile(r"Errors: - (.*?)(?= - (?:Type|Expected|Problem|Parser)|\.? Got value| Given value type|$)")
_TYPE = re.compile(
    r"<class '([\w.]+)'>|(Mapping)\[|Callable\[\[.*?\], ([\w.]+)\]|Literal\[(.*?)\]|(tuple with \d+ elements)"
)


def complaint(message: str, p: ArgumentParser) -> str:
    """What a parser says of a value or name, in one line, with the nearest name that is known."""
    text = " ".join(message.split())
    if (absent := re.search(r"No module named '([\w.]+)'", text)) and absent[1].split(".")[0] in EXTRA_OF:
        return lacking(absent[1])
    if found := _NO_ARGUMENT.search(text):
        path, name = found["path"] or found["made"], found["name"] or found["other"]
        if name in RENAMED:
            return f"{path} has no argument {name!r} any more: {RENAMED[name]}"
        if path in LISTED:
            return f"{path} has no argument {name!r}{closest(name, inspect.signature(class_at(path)).parameters)}"
    if found := re.search(r"Import path does not correspond to a subclass of (\w+).*Given value: (\S+)\. Got", text):
        return f"{found[2]} is not a {found[1]} of this package"
    options = list(p.get_defaults().keys(branches=True))
    unknown = re.search(r"(?:[Uu]nrecognized arguments: --|[Kk]ey ['\"])([\w.]+)(.*not expected)?", text)
    return in_short(text) + (closest(unknown[1], options) if unknown and unknown[1] not in options else "")


def in_short(text: str) -> str:
    """The parser's complaint in one line; where a class was expected, those that would do are named."""
    text = " ".join(text.split())
    for pattern in (_TYPED, _UNION, _CLASS, _FILE) if "Subtypes: [" in text else (_TYPED, _MADE, _CLASS, _FILE):
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
            said.append(_makers(made) if made else WORDS.get(name, name) or f"a {other}")
    if names:
        said.insert(0, f"{' or '.join(names)}{closest(value, names)}")
    return " or ".join(dict.fromkeys(said)) or types


def _makers(path: str) -> str:
    """What gives objects of the class at ``path``: the classes of the list that are of it."""
    module, _, name = path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None) if module.startswith("flowmaps") else None
    return " or ".join(sorted(_concrete(cls))) if inspect.isclass(cls) else f"a function that gives {name}"


def _concrete(cls: type) -> set[str]:
    """The names of the classes at and below ``cls`` that a configuration may name."""
    own = {cls.__name__} if f"{cls.__module__}.{cls.__qualname__}" in LISTED else set()
    return own.union(*map(_concrete, cls.__subclasses__()))


def _cut(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def class_at(path: str) -> type:
    """The class that a listed path names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
