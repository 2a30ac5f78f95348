"""Work folders in which every stage has run once, or none: made once per session, copied per test.

The fixtures of the session belong to ``tests/conftest.py``, so that all rooms share them. A room imports
those of a test into its own ``conftest.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from support.cli import Ended, run_command
from support.dataset import CONFIG as TINY_CONFIG
from support.dataset import FIT_AND_EVAL, copy_work, make_dataset

CONFIG = {
    **TINY_CONFIG,
    "compare": ["fca", "fcb"],
    "held_out": 0.5,
    "seeds": [0, 1],
    "aggregations": [1, 3, 5, 8, "max"],
    "recipes": {
        "strong": {"title": "small", "head": {"hidden": [32], "max_epochs": [2, 1, 1]}},
        "strong+svm": {"join": ["strong", "svm"]},
    },
}


def make_folder(path: Path) -> Path:
    """A work folder with a dataset and settings: pictures to fit on, to score, and some without annotations."""
    make_dataset(path / "data/tiny", {**FIT_AND_EVAL, "test": ("t", 3)}, unannotated=["test"])
    (path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return path


STEPS = {
    "new": "data new --root data/tiny --name tiny",
    "check": "data check tiny",
    "patches": "patches --dataset tiny --split train --config config.yaml",
    "extract": "extract --dataset tiny --split train --config config.yaml",
    "extract again": "extract --dataset tiny --split train --config config.yaml",
    "extract val": "extract --dataset tiny --split val --config config.yaml",
    "fit-head": "fit-head --dataset tiny --head fca --head fcb --config config.yaml",
    "fit-head again": "fit-head --dataset tiny --head fca --config config.yaml",
    "score": "score --dataset tiny --head fca --head fcb --config config.yaml",
    "evaluate": "evaluate --dataset tiny --head fca --head fcb --config config.yaml",
    "evaluate k": "evaluate --dataset tiny --config config.yaml --k max --output results/tiny_map.json",
    "compare": "compare --dataset tiny --heads --config config.yaml",
    "recipes": "compare --dataset tiny --recipe strong --recipe svm --recipe strong+svm --config config.yaml",
    "sweep": "sweep --dataset tiny --config config.yaml",
    "show": "show results/tiny_map.json results/tiny_heads.json results/tiny_compare.json results/tiny_sweep.json",
}


@pytest.fixture(scope="session")
def stepped(tmp_path_factory) -> tuple[Path, dict[str, Ended]]:
    """A work folder after all steps, one command after the other, and how each ended."""
    folder = make_folder(tmp_path_factory.mktemp("steps"))
    return folder, {name: run_command(folder, *line.split()) for name, line in STEPS.items()}


@pytest.fixture(scope="session")
def begun(tmp_path_factory) -> Path:
    """A work folder with a dataset and settings, in which no stage ran yet."""
    folder = make_folder(tmp_path_factory.mktemp("begun"))
    assert run_command(folder, *STEPS["new"].split()).code == 0
    return folder


@pytest.fixture
def work(stepped, tmp_path) -> Path:
    """A copy of the folder in which all steps ran, to change at will."""
    return copy_work(stepped[0], tmp_path / "work")


@pytest.fixture
def new_work(begun, tmp_path) -> Path:
    """A copy of the folder in which nothing ran yet, to change at will."""
    return copy_work(begun, tmp_path / "work")


@pytest.fixture
def run_new(new_work) -> Callable[..., Ended]:
    """Run a command line, given as one string, in that folder."""
    return lambda line: run_command(new_work, *line.split())


@pytest.fixture
def run(work) -> Callable[..., Ended]:
    """Run a command line, given as one string, in the copied folder."""
    return lambda line: run_command(work, *line.split())
