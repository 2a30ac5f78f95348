"""Each record belongs to the picture that it names, and to no other; a picture that is not there is named."""

from __future__ import annotations

from support.cli import run_command
from support.own_pictures import draw, write

from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split


def new(folder, *options: str):
    return run_command(folder, "data", "new", "--root", "own", "--name", "own", "--overwrite", *options)


def described(folder, *options: str):
    """Run ``data new``; return what it said and the manifest."""
    ended = new(folder, *options)
    assert ended.code == 0, ended.err
    return ended.err, load_manifest("own", folder / "data_manifests")


def test_a_class_that_is_present_nowhere_is_no_class(tmp_path):
    for split in ("train", "val"):
        draw(tmp_path / "own" / split, *(f"{split}{k}.jpg" for k in range(2)))
        rows = [f"{split}{k},{name},{value}" for k in range(2) for name, value in (("cat", 1 - k), ("dog", 0))]
        rows.append(f"{split}1,fox,0.5")
        write(tmp_path, f"own/{split}-labels.csv", "\n".join(["ImageID,LabelName,Confidence", *rows]))
    said, manifest = described(tmp_path)
    assert "classes without any object are no classes here: 'dog', 'fox'" in said
    assert manifest.classes == ("cat",)
    assert read_split(manifest, "val").labels.tolist() == [[1], [-1]]
