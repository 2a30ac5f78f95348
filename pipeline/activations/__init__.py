"""Activations room: identity, store, extraction."""

VERSION = 1
"""Raised when the same table and trunk would give other rows."""
