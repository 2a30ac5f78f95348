"""Pictures of a test that are in no dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.manifest_entries import SplitEntry
from pipeline.dataset.split import Split


def split_of(paths: Sequence[Path], ids: Sequence[str], name: str = "tiny") -> Split:
    """Return a split ``train`` of pictures without annotations, of the one class ``ball``."""
    manifest = Manifest(
        name=name,
        title="drawn",
        folder="tiny",
        classes=("ball",),
        metric="voc12",
        fit="train",
        eval="train",
        splits={"train": SplitEntry()},
    )
    return Split.of_files(manifest, paths, tuple(ids), "train")
