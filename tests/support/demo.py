"""The drawn demo, extracted once: what the tests of the documentation begin with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.dataset.demo.scenes import draw_demo
from support.cli import run_to_success
from support.once import made_once

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def demo_extracted(tmp_path_factory) -> Path:
    """A work folder as after the demo's extractions, with fewer pictures; not to be changed by a test."""

    def make(folder: Path) -> None:
        draw_small_demo(folder)
        run_to_success(
            folder,
            "extract --dataset demo --split train --threads 1",
            "extract --dataset demo --split val --threads 1",
        )

    return made_once(tmp_path_factory, "demo", make)


def draw_small_demo(folder: Path) -> None:
    """Draw the pictures of a demo, some of them, below a work folder."""
    (folder / "data_manifests").symlink_to(CHECKOUT / "data_manifests")
    draw_demo(folder / "data/demo", 30, 16, seed=0)


def copy_demo(demo_extracted: Path, target: Path) -> Path:
    """Copy that work folder, to run further stages in."""
    return shutil.copytree(demo_extracted, target, symlinks=True)
