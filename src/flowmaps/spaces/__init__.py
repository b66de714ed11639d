"""Where a state lives and how it moves."""

from .base import Space
from .embedded import Embedded
from .one_hot import OneHot
from .product import Product

__all__ = ["Embedded", "OneHot", "Product", "Space"]
