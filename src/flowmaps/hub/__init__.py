"""Trained models by name, by path or from a hub, and how they are given away; every command is built on them."""

from .models import Choice, Model, find, find_device, from_pretrained, load, packaged

__all__ = ["Choice", "Model", "find", "find_device", "from_pretrained", "load", "packaged"]
