"""Patches room: the grid of windows, their labels, the patch table of a split."""

VERSION = 3
"""Raised when the same pictures and settings would give other rows or other labels."""
