"""The work folder of the commands' tests, here to be spoilt."""

from support.worked import run, work

__all__ = ["run", "work"]
