"""Which extra brings an optional package."""

from __future__ import annotations

EXTRA_OF = {
    "rdkit": "molecules",
    "fcd": "molecules",
    "tokenizers": "text",
    "transformers": "text",
    "datasets": "text",
    "PIL": "images",
    "ot": "ot",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "zuko": "flows",
    "openmm": "physics",
    "mdtraj": "physics",
    "gradio": "demo",
    "lm_eval": "eval",
    "fastapi": "serve",
    "uvicorn": "serve",
}


def lacking(module: str) -> str:
    """One line about an optional package that is not installed.

    >>> lacking("rdkit.Chem")
    "the package rdkit is missing; install the extra that brings it: pip install 'flowmaps[molecules]'"
    """
    package = module.split(".")[0]
    extra = EXTRA_OF.get(package)
    what = f"install the extra that brings it: pip install 'flowmaps[{extra}]'" if extra else "install it with pip"
    return f"the package {package} is missing; {what}"
