"""Activations room: identity, store, extraction."""

VERSION = 2
"""Incremented when the same table and trunk would give other rows."""

SEAL = "integrity/seal.json"
"""The last file of a store: if it exists, the store is complete."""
