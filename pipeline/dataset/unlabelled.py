"""Pictures without labels: a folder, and all folders below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.dataset.describe.tree import Folder, read_tree
from pipeline.dataset.listing import Listing, id_of, name_clashes
from pipeline.dataset.split import is_picture_name

DEPTH = 64
"""Folders below folders: more than anybody has, and fewer than Python's calls."""


def list_pictures(folder: Path) -> Listing:
    """List all pictures of a folder and of those below it, in the order of their paths; labels are int8 (n, 0).

    Hidden files and folders are passed over, and links to a folder above. A link that leads nowhere is listed, so that
    it is refused or skipped as any picture that cannot be read.
    """
    places = list(read_tree(folder, depth=DEPTH).walk(DEPTH))
    paths = tuple(sorted(place.below(name) for place in places for name in place.pictures + _broken_pictures(place)))
    ids = tuple(map(id_of, paths))
    closed = [
        f"{place.below(name)}: the folder cannot be listed; check the rights there"
        for place in places
        for name in place.broken
        if name.endswith("/") and not (place.path / name.rstrip("/")).is_symlink()
    ]
    return Listing(paths, ids, np.zeros((len(paths), 0), np.int8), None, (*closed, *name_clashes(paths, ids)))


def _broken_pictures(place: Folder) -> tuple[str, ...]:
    return tuple(name for name in place.broken if is_picture_name(name))
