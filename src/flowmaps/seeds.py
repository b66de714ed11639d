"""Seeds: whole numbers that the generators behind them can hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def check_seed(seed: int, bits: int = 63) -> int:
    """``seed`` itself, if it is a whole number of at most ``bits`` bits.

    Arguments:
        bits: 63 for PyTorch, 32 for NumPy's ``RandomState``.
    Raises: ValueError naming the range.

    >>> check_seed(7)
    7
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**bits:
        raise ValueError(f"seed is {seed}, expected a whole number from 0 to {2**bits - 1} (2^{bits} - 1)")
    return seed


def mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number hashed by the finaliser of SplitMix64, a bijection of the numbers of 64 bits.

    Reference: Steele, Lea and Flood 2014, *Fast splittable pseudorandom number generators*.

    >>> [int(x) for x in mixed(np.arange(1, 3, dtype=np.uint64))]
    [6238072747940578789, 15839785061582574730]
    """
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
