"""Seeds: whole numbers that the generators behind them can hold."""

from __future__ import annotations


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
