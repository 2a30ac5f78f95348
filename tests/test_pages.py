"""Pages whose commands and Python run together, in the order in which they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from support.cli import run_command
from support.demo import CHECKOUT, copy_demo
from support.threads import same_threads_after  # noqa: F401

from pipeline.dataset.demo.scenes import draw_demo

LEFT_OUT = re.compile("pip |snakemake |pipeline (demo|serve|compare --dataset (demo|mine))|.*efficientnet")
"""Other programs, a page that waits for its reader, and what takes minutes; tests of recipes run comparisons."""


def run_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page in a folder, whose `home` is the person's own."""
    monkeypatch.chdir(folder)
    namespace: dict[str, object] = {}
    text = (CHECKOUT / "docs" / page).read_text()
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", text, re.S):
        if language == "python":
            exec(compile(block, page, "exec"), namespace)
            continue
        for line in block.splitlines():
            if LEFT_OUT.match(line):
                continue
            words = [word.replace("~", "home") for word in shlex.split(line, comments=True)]
            words = [str(path) for word in words for path in (sorted(Path().glob(word)) if "*" in word else [word])]
            ended = run_command(folder, *words[1:])
            assert ended.code == 0, f"{line}: {ended.err}"


@pytest.mark.parametrize("page", ["export", "embeddings", "linear-probe"])
def test_a_page_on_the_demo_runs(demo_extracted, tmp_path, monkeypatch, page):
    folder = copy_demo(demo_extracted, tmp_path / "demo")
    shutil.copy(folder / "data/demo/JPEGImages/val_0001.jpg", folder / "photo.jpg")
    run_page(f"how-to/{page}.md", folder, monkeypatch)


@pytest.mark.parametrize("page", ["own-photos", "own-annotations", "without-labels"])
def test_a_tutorial_runs_in_a_folder_of_its_own(tmp_path, monkeypatch, page):
    home = tmp_path / "home"
    draw_demo(home / "my-pictures", 6, 3, seed=0)
    drawn = sorted((home / "my-pictures/JPEGImages").glob("*.jpg"))
    for i, picture in enumerate(drawn):
        (home / "scenes" / ("beach", "wood")[i % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, home / "scenes" / ("beach", "wood")[i % 2])
    (home / "photos").mkdir()
    for target in (home / "photos/mine.jpg", home / "photos/other.jpg", tmp_path / "photo.jpg"):
        shutil.copy(drawn[len(target.stem)], target)
    run_page(f"tutorial/{page}.md", tmp_path, monkeypatch)
