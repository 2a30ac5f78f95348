"""Activations room: identity, store, extraction."""

VERSION = 2
"""Raised when the same table and trunk would give other rows."""

SEAL = "integrity/seal.json"
"""The file of a store that is written last: where it is, the store is complete."""
