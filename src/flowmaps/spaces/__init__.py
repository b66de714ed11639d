"""Where a state lives: the geometry of its space, and how data become points of it."""

from .base import Categorical, Flat, Space
from .embedded import Embedded
from .euclidean import Euclidean
from .fisher import FisherSphere
from .hyperbolic import Hyperboloid, PoincareBall
from .manifold import Manifold
from .one_hot import OneHot
from .product import Product, is_categorical
from .rotations import Rotations
from .sphere import Sphere
from .torus import Torus

__all__ = [
    "Categorical",
    "Embedded",
    "Euclidean",
    "FisherSphere",
    "Flat",
    "Hyperboloid",
    "Manifold",
    "OneHot",
    "PoincareBall",
    "Product",
    "Rotations",
    "Space",
    "Sphere",
    "Torus",
    "is_categorical",
]
