"""Where manifests lie, and the names of those that are there."""

from __future__ import annotations

import sys
from pathlib import Path


def manifest_folders(extra: Path | None = None) -> list[Path]:
    """List the folders of manifests: `extra`, the working folder, the package's checkout, its installation."""
    folders = [
        Path("data_manifests"),
        Path(__file__).resolve().parents[2] / "data_manifests",
        Path(sys.prefix) / "share" / "pipeline" / "data_manifests",
    ]
    if extra is not None:
        folders.insert(0, extra)
    return folders


def known_datasets() -> list[str]:
    """List the names of all manifests that can be found."""
    return sorted({p.stem for folder in manifest_folders() for p in folder.glob("*.yaml") if p.stem != "published"})
