"""Work folders, for tests of stages from files to files."""

from support.worked import run, work

__all__ = ["run", "work"]
