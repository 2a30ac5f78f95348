"""Scoring room: patch scores -> picture scores -> average precision -> results."""

VERSION = 5
"""Raised when the same head and rows would give other scores or another AP."""

from pipeline.metrics.average_precision import average_precision  # noqa: E402

__all__ = ["VERSION", "average_precision"]
