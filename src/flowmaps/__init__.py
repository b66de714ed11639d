"""Few-step generation of categorical data with flow maps."""

__version__ = "0.1.0"
