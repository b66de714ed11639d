"""Tables, the fitted curve and the picture of the studies of scale."""

from pathlib import Path


def write(rows, out: Path): ...
