"""Manifests for folders that a user has."""
