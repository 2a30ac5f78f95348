"""Patches room: sources of patches, their labels, the patch table of a split."""

VERSION = 4
"""Raised when the same pictures and settings would give other rows or other labels."""
