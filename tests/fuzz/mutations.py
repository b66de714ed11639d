"""Damage: bytes, texts and JSON trees as a disk, a bad export or somebody hostile leaves them."""

import copy
import json
from random import Random

TOKENS = [
    b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3(", b'"', b"'", b"\r", b"\r\n", b"\n\n\n", b"\x1e", b"\xe2\x80\xa8",
    b"\xf0\x9d\x84\x9e", "٣".encode(), b"\t", b",", b";", b"[", b"{", b"]", b"}", b":", b"- ", b"#", b"%",
    b"&a [*a, *a]",
    b"!!python/object/apply:os.system [true]", b"*a", b"<<: *a", b"-1", b"0", b"1e308", b"1e999", b".nan", b"NaN",
    b"null", b"true", b"99999999999999999999", b"0x10", b"1_000", b"a" * 70_000, b"[" * 5000, b"{a: " * 2000,
    b"../../etc/passwd", b"/dev/zero", b"os.system", b"\x1b[31m", b"\x80", b"\x7f" * 9,
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**64, 10**400, 1.5, -0.5, 1e308, float("nan"), float("inf"), "", "a",
    "1", "None", "\0", "x" * 10_000, "../../etc/passwd", "/dev/zero", "os.system", "flowmaps.Trainer", "[1", "{a: [b",
    "!!python/name:os.system", [], {}, [[]], [1, 2, 3], {"a": 1}, {"class_path": "os.system"}, {"class_path": 3},
    {"class_path": "flowmaps.samplers.Euler", "init_args": 3},
]  # fmt: skip


def spoilt_bytes(random: Random, content: bytes) -> bytes:
    """One kind of damage somewhere, which leaves other bytes than before."""
    kinds = (_flip, _truncate, _cut, _repeat, _blank, _largest, _insert, _token, _append)
    while True:
        result = random.choice(kinds)(random, content) if content else random.choice(TOKENS)
        if result != content:
            return result


def spoilt_text(random: Random, content: bytes) -> bytes:
    """Mostly tokens that mean something to a parser, in one place or three."""
    if random.random() < 0.3:
        return spoilt_bytes(random, content)
    for _ in range(random.choice((1, 1, 3))):
        content = _token(random, content)
    return content


def spoilt_tree(random: Random, tree: object) -> object:
    """A tree of JSON values with one or two places changed, dropped, renamed or buried."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 2))):
        places = list(_places(tree))
        if not places:
            return random.choice(VALUES)
        parent, key = random.choice(places)
        match random.randrange(8):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[random.choice(["", "a", "class_path", f"{key}s"])] = parent.pop(key)
            case 2:
                parent[key] = [parent[key]]
            case 3:
                parent[key] = _deep(random.choice((70, 900)))
            case _:
                parent[key] = copy.deepcopy(random.choice(VALUES))
    return tree


def spoilt_json(random: Random, content: bytes) -> bytes:
    """The same value otherwise, or the same text damaged."""
    if random.random() < 0.3:
        return spoilt_text(random, content)
    return json.dumps(spoilt_tree(random, json.loads(content))).encode()


def _places(tree):
    keys = list(tree) if isinstance(tree, dict) else range(min(len(tree), 4)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def _deep(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def _span(random: Random, content: bytes) -> tuple[int, int]:
    start = random.randrange(len(content))
    return start, min(len(content), start + random.choice((1, 4, 16, len(content) // 3 + 1)))


def _flip(random: Random, content: bytes) -> bytes:
    result = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 20))):
        result[random.randrange(len(result))] ^= 1 << random.randrange(8)
    return bytes(result)


def _truncate(random: Random, content: bytes) -> bytes:
    return content[: random.randrange(len(content))]


def _cut(random: Random, content: bytes) -> bytes:
    start, stop = _span(random, content)
    return content[:start] + content[stop:]


def _repeat(random: Random, content: bytes) -> bytes:
    start, stop = _span(random, content)
    return content[:stop] + content[start:stop] * random.choice((1, 50)) + content[stop:]


def _blank(random: Random, content: bytes) -> bytes:
    start, stop = _span(random, content)
    return content[:start] + bytes(stop - start) + content[stop:]


def _largest(random: Random, content: bytes) -> bytes:
    start = random.randrange(min(len(content), 64))
    return content[:start] + b"\xff\xff\xff\x7f" + content[start + 4 :]


def _insert(random: Random, content: bytes) -> bytes:
    start = random.randrange(len(content) + 1)
    return content[:start] + random.randbytes(random.choice((1, 8, 300))) + content[start:]


def _token(random: Random, content: bytes) -> bytes:
    start = random.randrange(len(content) + 1)
    stop = start if random.random() < 0.5 else min(len(content), start + random.randrange(1, 9))
    return content[:start] + random.choice(TOKENS) + content[stop:]


def _append(random: Random, content: bytes) -> bytes:
    return content + random.choice((b"\0" * 100, random.randbytes(100), content[: len(content) // 2]))
