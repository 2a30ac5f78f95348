"""Pictures that are both fitted and scored are said before anything is extracted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.cli import run_command
from support.noise import draw_noise

from pipeline.dataset.same_files import find_same_files


@pytest.fixture
def folders(tmp_path) -> Path:
    """Class folders of two splits, without a picture in both."""
    for n, (split, label) in enumerate((s, c) for s in ("train", "val") for c in ("cat", "dog")):
        (tmp_path / "data" / split / label).mkdir(parents=True)
        for k in range(3):
            draw_noise(tmp_path / f"data/{split}/{label}/{split}_{label}_{k}.png", (40, 32), seed=10 * n + k)
    return tmp_path


def test_they_are_found_by_their_bytes(folders):
    train, val = (sorted((folders / "data" / split).rglob("*.png")) for split in ("train", "val"))
    assert find_same_files(train, val) == []

    shutil.copy(train[4], val[1])

    assert find_same_files(train, val) == [(4, 1)]
    assert find_same_files([*train, folders / "missing.png"], [folders / "missing.png", *val]) == [(4, 2)]


def test_data_new_and_data_check_say_them_and_what_is_measured(folders):
    new = ("data", "new", "--root", "data", "--name", "pets")
    clean = run_command(folders, *new)
    assert "heads are fitted on train and measured on val\n" in clean.err and "too good" not in clean.err
    assert "too good" not in run_command(folders, "data", "check", "pets").err

    shutil.copy(folders / "data/train/cat/train_cat_2.png", folders / "data/val/dog/copied.png")

    note = "NOTE: 1 of 7 pictures of val have the bytes of pictures of train, so results would be too good: "
    for line in ((*new, "--overwrite"), ("data", "check", "pets")):
        ended = run_command(folders, *line)
        assert note in ended.err and "copied" in ended.err and "train_cat_2" in ended.err, ended.err
