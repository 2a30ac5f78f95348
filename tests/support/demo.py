"""The drawn demo, extracted once per session: what the tests of the documentation and of the pages begin with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.dataset.demo.scenes import draw_demo
from support.cli import run_to_success

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def demo_extracted(tmp_path_factory) -> Path:
    """A work folder as after the demo's extractions, with fewer pictures; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "data_manifests").symlink_to(CHECKOUT / "data_manifests")
    draw_demo(folder / "data/demo", 30, 16, seed=0)
    run_to_success(
        folder,
        "extract --dataset demo --split train --threads 2",
        "extract --dataset demo --split val --threads 2",
    )
    return folder


def copy_demo(demo_extracted: Path, target: Path) -> Path:
    """Copy that work folder, to run further stages in."""
    return shutil.copytree(demo_extracted, target, symlinks=True)
