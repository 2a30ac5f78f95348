"""Trunk room: the frozen network, as data, and how it is pre-trained."""

VERSION = 1
"""Raised when the same weights and pixels would give other activations."""
