"""Fixtures that several rooms share: made once, whichever room comes first."""

from pathlib import Path

import pytest
from support.demo import demo_extracted
from support.worked import begun, stepped

__all__ = ["begun", "demo_extracted", "stepped"]


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(pytestconfig):
    """A test that wrote into the checkout would read there, the next time, what other code made."""
    made = [pytestconfig.rootpath / name for name in ("cache", "data", "results", "trunks", ".snakemake")]
    before = {path: newest(path) for path in made}
    yield
    assert {path: newest(path) for path in made} == before


def newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in [folder, *folder.rglob("*")] if path.exists()), default=0.0)
