"""The pages that people read first: links, sources by their arXiv numbers, and the command beside each picture."""

import ast
import datetime
import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from flowmaps.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
SHOWN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "recipes").glob("*.md"))]
LINKED = sorted({*ROOT.glob("*.md"), *SHOWN, *ROOT.glob("examples/*.md"), *ROOT.glob("bench/**/*.md"),
                 *ROOT.glob("models/**/*.md"), ROOT / "CITATION.cff", ROOT / "pyproject.toml",
                 *ROOT.glob(".github/**/*.md"), *ROOT.glob(".github/**/*.yml")})  # fmt: skip
HERE = {"127.0.0.1", "localhost"}  # addresses of servers that the reader starts
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FEW = 300_000  # bytes of a picture


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def external():
    """Every address of another site, with its page."""
    for path in LINKED:
        for url in re.findall(r"\bhttps?:[^\s<>\"'`)\]}]*", read(path)):
            yield short(path), url.rstrip(".,;:")


def test_addresses_of_other_sites_are_well_formed():
    found = list(external())
    assert len({url for _, url in found}) > 20
    for page, url in found:
        parts = urlsplit(url)
        assert parts.hostname and parts.port is None or parts.hostname in HERE, f"{page}: {url}"
        if parts.hostname not in HERE:
            assert parts.scheme == "https", f"{page}: {url} is not https"
            assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.hostname), f"{page}: {url} names no site"
            assert not parts.username and not parts.query.endswith("="), f"{page}: {url}"


def test_links_to_files_lead_to_files():
    """Also those that no generator of pages looks at, as of the README and of recorded results."""
    for path in (path for path in LINKED if path.suffix == ".md"):
        text = CODE.sub("", read(path))
        for target in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", re.sub(r"`[^`\n]*`", "", text)):
            if not urlsplit(target).scheme:
                assert (path.parent / unquote(target)).exists(), f"{short(path)}: there is no {target}"


def arxiv_numbers():
    """Every number of a paper that follows the name arXiv, in pages and in the library, with its file."""
    for path in {*LINKED, *ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/*.py")}:
        for number in re.findall(r"(?i)arxiv(?:\.org/\w+/|[ :]\s*)(\d[\w.]*\w)", read(path)):
            yield short(path), number


def test_arxiv_numbers_have_the_right_shape():
    """Year, month, and four digits until 2014 or five since; none of a month to come."""
    numbers = list(arxiv_numbers())
    assert len({number for _, number in numbers}) > 50
    now = datetime.date.today().strftime("%y%m")
    for place, number in numbers:
        match = re.fullmatch(r"(\d\d(?:0[1-9]|1[0-2]))\.(\d{4,5})(?:v\d+)?", number)
        assert match, f"{place}: arXiv {number} is not written like 2505.18825"
        assert "0704" <= match[1] <= now and len(match[2]) == (5 if match[1] >= "1501" else 4), f"{place}: {number}"


def blocks(page: Path) -> list[str]:
    """Paragraphs of a page; a fence of code is one, and pictures that follow each other are one."""
    fences: list[str] = []
    text = CODE.sub(lambda fence: fences.append(fence[0]) or f"\n\n\0{len(fences) - 1}\n\n", read(page))
    parts = [fences[int(part[1:])] if part[0] == "\0" else part for part in re.split(r"\n\s*\n", text) if part.strip()]
    joined: list[str] = []
    for part in (part.strip("\n") for part in parts):
        bare = not PICTURE.sub("", part).strip()
        if joined and bare and not PICTURE.sub("", joined[-1]).strip():
            joined[-1] += f"\n{part}"
        else:
            joined.append(part)
    return joined


def commands_in(block: str) -> list[str]:
    """What of a paragraph a reader can run: lines of a console, and code that begins with a program."""
    lines = block.splitlines()[1:-1] if block.startswith("```console") else re.findall(r"`([^`\n]+)`", block)
    found = (re.sub(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*", "", line) for line in lines)
    return [line for line in found if re.match(r"(flowmaps|make|python) \S", line)]


def exists(command: str) -> bool:
    """Whether the program knows the command, the Makefile the target, the repository the script."""
    program, first, *_ = shlex.split(command, comments=True)
    if program == "flowmaps":
        return first in COMMANDS
    if program == "make":
        return re.search(rf"^{re.escape(first)}:", read(ROOT / "Makefile"), re.MULTILINE) is not None
    return (ROOT / first).is_file()


PICTURES = [
    pytest.param(page, k, id=f"{short(page)}: {PICTURE.findall(block)[0]}")
    for page in SHOWN
    for k, block in enumerate(blocks(page))
    if PICTURE.search(block)
]


def test_there_are_pictures():
    assert len(PICTURES) >= 8


@pytest.mark.parametrize("page, k", PICTURES)
def test_a_command_stands_beside_each_picture(page, k):
    """In the paragraph before the picture or after it; it is one that can be run, and the picture is there."""
    around = blocks(page)[max(k - 1, 0) : k + 2]
    found = [command for block in around for command in commands_in(block)]
    assert found, f"no command beside {PICTURE.findall(blocks(page)[k])} says how it is made"
    assert all(map(exists, found)), found
    for name in PICTURE.findall(blocks(page)[k]):
        path = page.parent / name
        assert path.is_file() and path.stat().st_size < FEW, f"{name}: a picture of less than {FEW:,} bytes"


def test_every_picture_of_the_documents_is_shown():
    shown = {(page.parent / name).resolve() for page in SHOWN for name in PICTURE.findall(read(page))}
    kept = {path.resolve() for kind in ("png", "svg") for path in (ROOT / "docs").glob(f"**/*.{kind}")
            if not {"_build", "api"} & set(path.relative_to(ROOT).parts)}  # fmt: skip
    assert kept == shown & kept


def test_scripts_of_the_documents_take_their_options():
    """``python bench/x.py --option``: the option is written in the script, or in what it shares with others."""
    seen = 0
    for page in SHOWN:
        for block in blocks(page):
            for command in (c for c in commands_in(block) if c.startswith("python ") and exists(c)):
                script, *rest = shlex.split(command, comments=True)[1:]
                sources = [ROOT / script, *(ROOT / "bench").glob("*_common.py")]
                options = {word.split("=")[0] for word in rest if word.startswith("--")}
                known = {node.value for path in sources for node in ast.walk(ast.parse(read(path)))
                         if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
                seen += len(options)
                assert options <= known, f"{short(page)}: {command}"
    assert seen > 5


def test_the_project_names_one_home():
    """The addresses of the project in its metadata, citation and issue forms are below one repository."""
    urls = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["urls"]
    home = urls["Source"]
    assert urls["Issues"].startswith(home) and urls["Changelog"].startswith(home)
    assert f"repository-code: {home}" in read(ROOT / "CITATION.cff").replace('"', "")
    branch, path = urls["Changelog"].removeprefix(f"{home}/blob/").split("/", 1)
    assert branch == "main" and (ROOT / path).is_file()


def test_no_file_is_shown_that_git_ignores():
    names = [short(page.parent / name) for page in SHOWN for name in PICTURE.findall(read(page))]
    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        pytest.skip(f"no repository of git here: {done.stderr.strip()}")
    assert done.stdout == ""
