"""Notes on the pictures of a split: bad ones and what lets them pass, and turned, constant and clipped ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.dataset.split import Split
from pipeline.io.errors import DatasetError
from pipeline.io.messages import enumerate_problems
from pipeline.io.picture_file import PictureFile
from pipeline.io.progress import Say
from pipeline.patches.inspect import Bad, Inspected


def say_notes(split: Split, inspected: Sequence[Inspected | Bad], votes: tuple[int, int], say: Say) -> None:
    for note in (*_explain_exif(split, inspected, votes), *_explain_content(split, inspected)):
        say(f"{split.manifest.name} {split.name}: {note}")


def _explain_exif(split: Split, inspected: Sequence[Inspected | Bad], votes: tuple[int, int]) -> list[str]:
    """Say how many pictures with an EXIF orientation are turned, and by which rule."""
    of_file = dict(zip(split.paths, inspected, strict=True))  # persons share a picture
    marked = [item for item in of_file.values() if isinstance(item, Inspected) and item.orientation > 1]
    if not marked:
        return []
    manifest, agreed = split.manifest, sum(votes) > 0 and 0 in votes
    if manifest.exif is not None:
        why = f"'exif: {manifest.exif}' in the manifest"
    elif agreed:
        why = "as the others of the split"
    elif sum(votes):
        why = f"as they are shown: the others disagree, {votes[0]} turned and {votes[1]} not"
    else:
        why = "as they are shown" if not manifest.has_boxes else "as they are shown: no annotation tells"
    counts = {
        "turned (their annotations tell)": [item for item in marked if item.is_told and item.apply_exif],
        "as stored (their annotations tell)": [item for item in marked if item.is_told and not item.apply_exif],
        f"turned ({why})": [item for item in marked if not item.is_told and item.apply_exif],
        f"as stored ({why})": [item for item in marked if not item.is_told and not item.apply_exif],
    }
    parts = [f"{len(items)} {_n_of(items)}{what}" for what, items in counts.items() if items]
    guessed = any(not item.is_told for item in marked) and manifest.exif is None and not agreed and manifest.has_boxes
    hint = "; if the boxes lie elsewhere, write 'exif: ignore' into the manifest" if guessed else ""
    return [f"EXIF orientation: {', '.join(parts)}{hint}"]


def _n_of(items: Sequence[object]) -> str:
    """Return the word after the number of some pictures."""
    return "picture " if len(items) == 1 else "pictures "


def _explain_content(split: Split, inspected: Sequence[Inspected | Bad]) -> list[str]:
    """Name the pictures that show next to nothing, and those with clipped boxes."""
    notes = []
    pairs = [(i, item) for i, item in zip(split.ids, inspected, strict=True) if isinstance(item, Inspected)]
    if constant := [i for i, item in pairs if item.is_nearly_constant]:
        notes.append(
            f"NOTE: {len(constant)} of {len(pairs)} pictures are all but constant after decoding, so nothing can be "
            f"seen in them (fewer bits than the file's type holds?): {_first(constant)}"
        )
    notes += _explain_twins(split, pairs)
    if clipped := [i for i, item in pairs if item.n_clipped]:
        n_boxes = sum(item.n_clipped for _, item in pairs)
        notes.append(
            f"{n_boxes} box(es) reached a little out of the picture and were clipped, in {len(clipped)} picture(s): "
            f"{_first(clipped)}"
        )
    return notes


def _explain_twins(split: Split, pairs: Sequence[tuple[str, Inspected]]) -> list[str]:
    """Name the pictures of the same bytes under several names; as class folders, one may have several labels."""
    rows = {i: row for row, i in enumerate(split.ids)}
    by_bytes: dict[str, dict[PictureFile, str]] = {}
    for i, item in pairs:
        by_bytes.setdefault(item.sha256, {})[split.paths[rows[i]]] = i  # persons share a picture
    twins = [list(ids.values()) for ids in by_bytes.values() if len(ids) > 1]
    if not twins:
        return []
    labels = split.labels
    differ = [ids for ids in twins if labels is not None and len({labels[rows[i]].tobytes() for i in ids}) > 1]
    of_them = f", {len(differ)} of them with other labels under each name" if differ else ""
    shown = _first([" = ".join(ids) for ids in differ or twins])
    return [f"NOTE: {len(twins)} pictures are there under several names, with the same bytes{of_them}: {shown}"]


def _first(names: Sequence[str], shown: int = 5) -> str:
    """Join the first of some names."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def report_bad(split: Split, inspected: Sequence[object], on_error: str, max_skipped: float, say: Say) -> None:
    """List the bad pictures among those inspected; raise an error unless they may be skipped.

    Raises
    ------
    DatasetError
    """
    problems = [
        f"{name}: {path}: {item.problem}"
        for name, path, item in zip(split.ids, split.paths, inspected, strict=True)
        if isinstance(item, Bad)
    ]
    if not problems:
        return
    count = f"{len(problems)} of {len(inspected)} pictures are bad"
    where = f"{split.manifest.name} {split.name}: {count}\n{enumerate_problems(problems)}"
    ways = list_remedies(inspected)
    if not may_pass(inspected, on_error, max_skipped):
        if on_error == "fail":
            raise DatasetError(f"{where}\n{ways}")
        raise DatasetError(
            f"{where}\nmore than may be skipped (setting max_skipped: {max_skipped:g} of all, and never all)\n{ways}"
        )
    say(f"{where}\nleft out of this run, and recorded in the patch table")


def may_pass(inspected: Sequence[object], on_error: str, max_skipped: float) -> bool:
    """Whether a table is made of these pictures: none is bad, or few enough to be skipped."""
    n_bad = sum(isinstance(item, Bad) for item in inspected)
    return not n_bad or (on_error == "skip" and is_few(n_bad, len(inspected), max_skipped))


def is_few(n_bad: int, n_pictures: int, max_skipped: float) -> bool:
    """Whether so many of the pictures may be left out: never all."""
    return n_bad < n_pictures and n_bad <= max_skipped * n_pictures


def list_remedies(inspected: Sequence[object]) -> str:
    """Return what lets bad pictures pass: repaired files, settings, or leaving them out."""
    values: dict[str, list[float]] = {}
    for item in inspected:
        if isinstance(item, Bad) and item.remedy is not None:
            values.setdefault(item.remedy[0], []).append(item.remedy[1])
    ways = []
    if (sides := values.get("grid.min_side_px")) and min(sides) >= 0.1:
        ways.append(f"grid.min_side_px: {math.floor(min(sides) * 10) / 10:g} or less")
    if totals := values.get("grid.max_patches"):
        ways.append(f"grid.max_patches: {max(totals)} or more")
    if values:
        ways.append("source: whole (a patch per picture)")
    settings = f"\nor set {', or '.join(ways)}, in a file for --config" if ways else ""
    return f"fix them, or leave them out with --on-error skip (setting max_skipped: the largest share){settings}"
