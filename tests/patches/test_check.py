"""``data check --deep`` and the stage ``patches`` agree on what is bad."""

import os
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.cli import run_command
from support.own_pictures import annotate, draw

GOOD = 64, 48
BOX_OUTSIDE = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>90</xmax><ymax>40</ymax></bndbox>"
WRONG_SIZE = "<size><width>70</width><height>48</height></size>"


def small(root: Path) -> None:
    draw(root, "JPEGImages/b.png", size_wh=(28, 28))


def panorama(root: Path) -> None:
    draw(root, "JPEGImages/b.png", size_wh=(900, 100))


def torn(root: Path) -> None:
    path = root / "JPEGImages/b.png"
    path.write_bytes(path.read_bytes()[:60])


def empty(root: Path) -> None:
    (root / "JPEGImages/b.png").write_bytes(b"")


def outside(root: Path) -> None:
    annotate(root, "Annotations/b.xml", "cat", box=BOX_OUTSIDE)


def other_size(root: Path) -> None:
    annotate(root, "Annotations/b.xml", "cat", size=WRONG_SIZE)


def gone(root: Path) -> None:
    (root / "JPEGImages/b.png").unlink()


def no_file(root: Path) -> None:
    gone(root)
    (root / "JPEGImages/b.png").mkdir()


def pipe(root: Path) -> None:
    gone(root)
    os.mkfifo(root / "JPEGImages/b.png")


def broken_xml(root: Path) -> None:
    (root / "Annotations/b.xml").write_text("<annotation>")


def another_class(root: Path) -> None:
    annotate(root, "Annotations/b.xml", "zebra")


def two_annotations(root: Path) -> None:
    (root / "Annotations/b.XML").write_bytes((root / "Annotations/b.xml").read_bytes())


def no_change(root: Path) -> None:
    pass


HARM = (
    small,
    panorama,
    torn,
    empty,
    outside,
    other_size,
    gone,
    no_file,
    pipe,
    broken_xml,
    another_class,
    two_annotations,
    no_change,
)
SETTINGS = {
    "default": {},
    "small windows": {"grid": {"min_side_px": 7}},
    "many patches": {"grid": {"max_patches": 100_000}},
    "whole": {"source": "whole"},
    "crops": {"source": "crops"},
    "boxes": {"source": "boxes"},
    "skip": {"on_error": "skip", "max_skipped": 0.5},
    "skip few": {"on_error": "skip", "max_skipped": 0.01},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_check_and_patches_agree(tmp_path, harm, settings):
    root = tmp_path / "own"
    for i in "abcdef":
        draw(root, f"JPEGImages/{i}.png", size_wh=GOOD)
        annotate(root, f"Annotations/{i}.xml", "cat" if i < "d" else "dog")
    for split, ids in {"train": "abd", "val": "cef"}.items():
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(ids) + "\n")
    assert run_command(tmp_path, "data", "new", "--root", "own", "--name", "own").code == 0
    harm(root)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"threads": 1, **SETTINGS[settings]}))

    checked = run_command(tmp_path, "data", "check", "own", "--deep", "--config", "c.yaml")
    made = [
        run_command(tmp_path, "patches", "--dataset", "own", "--split", s, "--config", "c.yaml")
        for s in ("train", "val")
    ]

    assert checked.code == max(ended.code for ended in made), checked.err
    assert ("complete" in checked.out) == (checked.code == 0)
    if settings == "default" and harm in (small, panorama):
        setting = "grid.min_side_px: 7 or less" if harm is small else "grid.max_patches: "
        for ended in (checked, made[0]):
            assert setting in ended.err and "source: whole" in ended.err and "--on-error skip" in ended.err


def test_class_folders_and_tables(tmp_path):
    draw(tmp_path, *(f"own/{c}/{k}.png" for c in ("cat", "dog") for k in range(3)), size_wh=GOOD)
    Image.new("RGB", (1500, 250)).save(tmp_path / "own/cat/0.png")
    assert run_command(tmp_path, "data", "new", "--root", "own", "--name", "own").code == 0

    assert run_command(tmp_path, "data", "check", "own").code == 0
    checked = run_command(tmp_path, "data", "check", "own", "--deep")
    assert checked.code == 2 and "1500 x 250 pixels give 2431 patches" in checked.err


def test_settings_go_with_a_deep_check(tmp_path):
    (tmp_path / "c.yaml").write_text("threads: 1\n")
    assert (
        "--config: settings go with --deep" in run_command(tmp_path, "data", "check", "demo", "--config", "c.yaml").err
    )
