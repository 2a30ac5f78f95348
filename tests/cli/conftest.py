"""Commands run in-process in a work folder with a tiny dataset; what they print and how they end."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw

from pipeline.cli.main import main

BOXES = {"ball": (40, 10, 59, 29), "crate": (6, 20, 25, 39)}  # 1-based, inclusive, as in VOC files
CONFIG = {
    "trunk": "random",
    "precision": "fp32",
    "threads": 1,
    "grid": {"scales": [1.0, 2.0], "overlap": 0.5},
    "heads": {"fca": {"hidden": [32], "max_epochs": [2, 1, 1]}},
    "compare": ["fca", "fcb"],
    "held_out": 0.5,
    "seeds": [0, 1],
    "aggregations": [1, 3, 5, 8, "max"],
    "recipes": {
        "strong": {"title": "small", "head": {"hidden": [32], "max_epochs": [2, 1, 1]}},
        "strong+svm": {"join": ["strong", "svm"]},
    },
}


@dataclass(frozen=True)
class Ended:
    """Exit code and both streams of a command."""

    code: int
    out: str
    err: str


def run_command(folder: Path, *argv: str) -> Ended:
    """Run ``pipeline *argv`` in a folder; a bug comes through as its exception."""
    out, err, before, old_argv = StringIO(), StringIO(), Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["pipeline", *argv]
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(list(argv))
    except SystemExit as exit_:
        code = exit_.code or 0
    finally:
        os.chdir(before)
        sys.argv = old_argv
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run_in() -> Callable[..., Ended]:
    """``run_in(folder, *argv)`` runs a command in any folder."""
    return run_command


def make_dataset(root: Path) -> None:
    """Six pictures to fit on, four to score, three without annotations."""
    kinds = (["ball"], ["crate"], ["ball", "crate"])
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / sub).mkdir(parents=True)
    for split, letter, n in (("train", "p", 6), ("val", "q", 4), ("test", "t", 3)):
        ids = [f"{letter}{i}" for i in range(n)]
        for i, name in enumerate(ids):
            picture = Image.new("RGB", (64, 48), (90 + 20 * i,) * 3)
            draw, objects = ImageDraw.Draw(picture), ""
            for kind in kinds[i % 3]:
                box = BOXES[kind]
                corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
                objects += f"<object><name>{kind}</name><bndbox>{corners}</bndbox></object>"
                (draw.ellipse if kind == "ball" else draw.rectangle)([v - 1 for v in box], fill="red")
            picture.save(root / "JPEGImages" / f"{name}.png")
            if split != "test":
                (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")


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
    folder = tmp_path_factory.mktemp("steps")
    make_dataset(folder / "data/tiny")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder, {name: run_command(folder, *line.split()) for name, line in STEPS.items()}


@pytest.fixture(scope="session")
def begun(tmp_path_factory) -> Path:
    """A work folder with a dataset and settings, in which no stage ran yet."""
    folder = tmp_path_factory.mktemp("begun")
    make_dataset(folder / "data/tiny")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert run_command(folder, *STEPS["new"].split()).code == 0
    return folder


def copy_work(folder: Path, to: Path) -> Path:
    """A work folder of its own, pictures included."""
    shutil.copytree(folder, to)
    manifest = to / "data_manifests/tiny.yaml"
    content = yaml.safe_load(manifest.read_text())
    manifest.write_text(yaml.safe_dump({**content, "folder": "tiny"}))
    return to


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
