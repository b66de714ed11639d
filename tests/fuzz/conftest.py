"""The tiny run of the command line's tests."""

from cli.conftest import trained as trained
