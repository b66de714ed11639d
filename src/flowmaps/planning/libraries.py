r"""What the libraries of a CPU keep once they have computed, which no tensor holds and no weight makes larger.

.. math:: \text{bytes} = 10^6 w + c \min(n, 1024)

for numbers of w bytes and n different products in bfloat16. ``python bench/planner.py`` measures both parts.
"""

from __future__ import annotations

# MKL computes products in float32 and float64, and keeps what it packs their factors into. After products of up to 512
# and up to 3,000 rows that was 1.3 and 3.9 MB in float32, 3.5 and 10.7 in float64; none with MKL_DISABLE_FAST_MM=1.
BUFFER = 1e6

# oneDNN computes those in bfloat16. For each operation, shapes and strides it compiles code (ONEDNN_VERBOSE=2 says so),
# which its cache and that of torch keep: .55 to .79 MB for a product alone, .65 to .72 in the mean of random shapes, .6
# in the mean of a training, where 55 of them took 33 MB.
CODE = 0.6e6

CAPACITY = 1024  # products that each of the two caches keeps (ONEDNN_PRIMITIVE_CACHE_CAPACITY, LRU_CACHE_CAPACITY)


def kept(widest: int, halves: int) -> float:
    """Bytes that stay for the length of a process.

    Arguments:
        widest: Bytes of a number in the widest of its products.
        halves: Different products in bfloat16.
    """
    return BUFFER * widest + CODE * min(halves, CAPACITY)
