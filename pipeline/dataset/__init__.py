"""Dataset room: manifests, layouts of annotations, fetching, the drawn demo scenes."""

VERSION = 1
"""Raised when the same files would be read as other pictures, boxes or labels."""
