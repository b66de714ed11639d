"""Sphinx configuration: furo, MyST, and an API reference drawn from the docstrings."""

import re
from importlib.util import find_spec

import flowmaps

project = "flowmaps"
author = "The flowmaps authors"
copyright = author  # noqa: A001  (Sphinx's name)
version = release = flowmaps.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.apidoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "api/modules.rst"]
html_theme = "furo"
html_title = f"flowmaps {release}"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

apidoc_modules = [
    {
        "path": "../src/flowmaps",
        "destination": "api",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
        "exclude_patterns": ["../src/flowmaps/networks/attention_kernel.py"],  # torch bears no stand-in for Triton
    }
]
autodoc_default_options = {"ignore-module-all": True}  # a re-exported name is documented where it is written
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
EXTRAS = "datasets fastapi fcd lm_eval rdkit tensorboard tokenizers transformers uvicorn wandb zuko"
autodoc_mock_imports = [name for name in EXTRAS.split() if find_spec(name) is None]

linkcheck_ignore = [r"http://(127\.0\.0\.1|localhost)\b"]
linkcheck_anchors = False  # of pages that scripts build
linkcheck_timeout, linkcheck_retries, linkcheck_workers = 20, 3, 4

napoleon_numpy_docstring = False
napoleon_use_ivar = True
SECTIONS = "Returns|Raises|Invariants?|References?"
napoleon_custom_sections = ["Invariant", "Invariants", "Reference"]

_SECTION = re.compile(rf"({SECTIONS}): +(\S.*)")
# Stars of (*batch, K), bars of |x|, a trailing underscore: letters, not markup; code spans are left alone.
_LETTER = re.compile(r"(`+[^`]*`+)|(\*(?=[a-z_]+[,)\]])|\||(?<=\w)_(?!\w))")


def plain(lines):
    """Escape what reStructuredText would read as markup in a formula, outside directives and examples."""
    directive = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if directive is not None and line.strip() and indent <= directive:
            directive = None
        if line.lstrip().startswith("..") or line.endswith("::"):
            directive = indent
        verbatim = directive is not None or line.lstrip().startswith(">>>")
        yield line if verbatim else _LETTER.sub(lambda m: m[1] or "\\" + m[2], line)


def house_style(app, what, name, obj, options, lines):
    """Let a docstring say ``Returns: a tensor`` on one line, which napoleon wants on two."""
    written, inside = [], False
    for line in plain(lines):
        section = _SECTION.match(line)
        inside = bool(section) or (inside and bool(line) and not line.endswith(":"))
        if section:
            written += ["", f"{section[1]}:", f"    {section[2]}"]
        else:
            written.append(f"    {line}" if inside else line)
    lines[:] = written


def setup(app):
    """Run the rewriting before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", house_style, priority=100)
