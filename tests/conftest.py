"""Fixtures that several rooms share: made once, whichever room comes first."""

from support.worked import begun, stepped

__all__ = ["begun", "stepped"]
