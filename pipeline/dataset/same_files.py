"""Pictures of the split to fit that the split to score holds too, byte for byte: results over them are too good."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.read import read_split
from pipeline.io.digests import sha256_file
from pipeline.io.errors import PipelineError
from pipeline.io.picture_file import PictureFile

SHOWN = 5


def find_same_files(first: Sequence[PictureFile], second: Sequence[PictureFile]) -> list[tuple[int, int]]:
    """Find files of `second` that have the bytes of one of `first`; only files of equal size are read.

    Files elsewhere than in a folder of this machine are passed over.

    Returns
    -------
    Index in `first` and index in `second` of each, in the order of `second`.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, path in enumerate(first):
        if isinstance(path, Path) and path.is_file():
            by_size[path.stat().st_size].append(index)
    digests: dict[PictureFile, str] = {}

    def digest(path: PictureFile) -> str:
        if path not in digests:
            digests[path] = sha256_file(path)
        return digests[path]

    found = []
    for index, path in enumerate(second):
        alike = by_size.get(path.stat().st_size, ()) if isinstance(path, Path) and path.is_file() else ()
        same = next((other for other in alike if digest(first[other]) == digest(path)), None)
        if same is not None:
            found.append((same, index))
    return found


def explain_same_files(manifest: Manifest, data_root: str | Path | None = None) -> str:
    """Return a note on pictures that are both fitted and scored, or an empty text; also where a split cannot be read.

    ``pipeline data check --near`` finds those that were saved again, cut or turned.
    """
    if manifest.is_elsewhere or manifest.fit == manifest.eval:
        return ""
    try:
        fit, scored = (
            read_split(manifest, split, data_root, on_error="skip") for split in (manifest.fit, manifest.eval)
        )
        found = find_same_files(fit.paths, scored.paths)
    except (PipelineError, OSError):
        return ""  # what is wrong is said by who reads the splits
    if not found:
        return ""
    pairs = ", ".join(f"{scored.ids[second]} = {fit.ids[first]}" for first, second in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return (
        f"NOTE: {len(found)} of {len(scored.ids)} pictures of {manifest.eval} have the bytes of pictures of "
        f"{manifest.fit}, so results would be too good: {pairs}{more}"
    )
