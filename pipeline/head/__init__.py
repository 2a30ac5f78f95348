"""Head room: networks on cached rows, sampling, fitting."""

VERSION = 6
"""Raised when the same rows, labels and settings would give another head."""
