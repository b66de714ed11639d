"""The public face: what it offers, that it imports each room only when asked, and that the command line's first words
do not wait for heavy packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flowmaps
from flowmaps import hub
from flowmaps.samplers import Jumps
from train.toys import environment

HEAVY = ("torch", "numpy", "scipy", "matplotlib", "torchdiffeq", "lightning", "jsonargparse", "sklearn", "rich")


FACE = """
    Argmax Batch Categorical CircularNSF Condition CutOff DecodeRateClock Dopri5 Embedded EndpointConsistency
    EndpointMap Euler EulerMaruyama Eulerian EulerianKL FewStep FiniteLaw GaussianLaw GeodesicPath Heun Jumps
    Lagrangian LagrangianCE LagrangianKL LinearHead MLP MaximumLikelihood NSF OneHot Product RealNVP RegFlow
    SelfDistillation Semigroup SemigroupKL Trainer Transformer TransformerFlow UNet VelocityMap from_pretrained
    generate load load_map score trust
"""


def test_the_face_is_frozen():
    """Programs are written against these names; none goes without a word in the changelog."""
    assert sorted(flowmaps.__all__) == FACE.split()


def test_checkers_and_the_interpreter_see_the_same_names():
    tree = ast.parse(Path(flowmaps.__file__).read_text())
    for_checkers = next(node for node in tree.body if isinstance(node, ast.If))
    written = {alias.name: node.module for node in ast.walk(for_checkers) if isinstance(node, ast.ImportFrom)
               for alias in node.names}  # fmt: skip
    assert written == flowmaps._ROOM_OF and sorted(written) == sorted(flowmaps.__all__)


def test_every_public_name_is_there():
    assert set(flowmaps.__all__) <= set(dir(flowmaps))
    names: dict = {}
    exec("from flowmaps import *", names)
    assert all(names[name] is getattr(flowmaps, name) for name in flowmaps.__all__)
    assert flowmaps.load is hub.load and flowmaps.Jumps is Jumps and flowmaps.steering.Tilted.__name__ == "Tilted"


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Jump'"):
        _ = flowmaps.Jump
    with pytest.raises(ImportError, match="cannot import name 'Jump'"):
        from flowmaps import Jump  # noqa: F401  # pyright: ignore


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["presets"], ["presets", "--help"], ["trian"]])
def test_first_words_import_nothing_heavy(arguments):
    code = f"""
import sys
from flowmaps.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    pass
print("imported:", *sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].split() == ["imported:"]


def test_sampling_imports_neither_pictures_nor_solvers():
    heavy = "{'matplotlib', 'scipy', 'torchdiffeq'}"
    code = f"import sys, flowmaps.train, flowmaps.samplers; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.split() == []
