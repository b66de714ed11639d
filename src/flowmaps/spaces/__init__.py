"""Where a state lives: the geometry of its space, and how data become points of it."""

from .base import Categorical, Flat, Space
from .embedded import Embedded
from .euclidean import Euclidean
from .one_hot import OneHot
from .product import Product, is_categorical
from .sphere import Sphere

__all__ = ["Categorical", "Embedded", "Euclidean", "Flat", "OneHot", "Product", "Space", "Sphere", "is_categorical"]
