"""What a flow map asks."""

from __future__ import annotations

from torch import nn


class Network(nn.Module):
    """A module called as ``network(x, s, t, condition)``, that gives features or predictions with the fields of x.

    It says nothing else; a class of one's own that derives from it can be named where a configuration asks for a
    network.
    """
