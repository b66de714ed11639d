"""What carries noise to data: flow maps in a few jumps, bijections with a density."""

from .bijection import Affine, Bijection
from .flow import EndpointMap, FlowMap, VelocityMap
from .transport import Transport

__all__ = ["Affine", "Bijection", "EndpointMap", "FlowMap", "Transport", "VelocityMap"]
