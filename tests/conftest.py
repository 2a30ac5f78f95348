"""Fixtures that several rooms share: made once, whichever room comes first."""

import os
from collections import defaultdict
from pathlib import Path

import pytest
from support.demo import demo_extracted
from support.torture import TORTURE
from support.warm import warm
from support.worked import begun, stepped

__all__ = ["begun", "demo_extracted", "stepped", "warm"]


LONG_FILES = (
    "recipes/test_compare.py",
    "engines/test_dask.py",
    "workflow/test_slurm.py",
    "fault/killed/test_kills.py",
    "head/test_fit_memory.py",
    "test_docs.py",
    "workflow/test_snakemake.py",
    "fault/test_matrix.py",
    "engines/test_object_store.py",
    "cli/test_signals.py",
    "workflow/test_shares.py",
    "workflow/test_forgotten.py",
    "browser/test_pages.py",
    "test_wheel.py",
    "cli/test_trunk_make.py",
    "fault/input/test_bad_input.py",
    "test_examples.py",
    "preflight/test_plan.py",
    "fault/test_damage.py",
    "engines/test_scores.py",
    "stages/test_pretrain.py",
    "fault/killed/test_together.py",
    "activations/test_request.py",
    "cli/test_names_decide_nothing.py",
    "head/test_fit_rows.py",
    "exchange/test_export.py",
    "trunk/pretrain/test_training.py",
    "activations/test_layout.py",
    "test_actions.py",
)
"""Files of ten seconds of a core and more, the longest first."""


def pytest_collection_modifyitems(config, items):
    """Begin with the long files, so that two processes with a file each end together.

    Tests that are marked `long` run in the long form alone. With ``PIPELINE_SHORT=1`` of each test the first and the
    last case alone.
    """
    if not TORTURE:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    if os.environ.get("PIPELINE_SHORT") == "1":
        cases = defaultdict(list)
        for item in items:
            cases[item.nodeid.partition("[")[0]].append(item)
        kept = {id(item) for of_one in cases.values() for item in (of_one[0], of_one[-1])}
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
        items[:] = [item for item in items if id(item) in kept]

    def rank(item):
        name = item.path.as_posix()
        return next((i for i, long in enumerate(LONG_FILES) if name.endswith(f"tests/{long}")), len(LONG_FILES))

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(pytestconfig):
    """A test that wrote into the checkout would read there, the next time, what other code made."""
    made = [pytestconfig.rootpath / name for name in ("cache", "data", "results", "trunks", ".snakemake")]
    before = {path: newest(path) for path in made}
    yield
    assert {path: newest(path) for path in made} == before


def newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in [folder, *folder.rglob("*")] if path.exists()), default=0.0)
