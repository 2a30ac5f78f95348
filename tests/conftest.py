"""Fixtures that several rooms share: made once, whichever room comes first."""

from support.demo import demo_extracted
from support.worked import begun, stepped

__all__ = ["begun", "demo_extracted", "stepped"]
