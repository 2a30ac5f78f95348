"""Near-duplicates of a dataset, from files to files: within each split, and across the splits to fit and to score on.

The stores choose the pairs, the pictures decide: rows of a network are as near for two photos of one kind of thing as
for a photo and its copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.picture import decode_image
from pipeline.dataset.same_photo import GREY_PX, SMALLEST_CROP, Match, grey_picture, match_pictures
from pipeline.io.atomic import check_writable, read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError, PipelineError, SettingsError
from pipeline.io.progress import Progress, track
from pipeline.patches.table import PatchTable
from pipeline.scoring.near_duplicates import MOST_PAIRS, group_pairs, picture_rows, similar_pairs
from pipeline.scoring.results import number, versions
from pipeline.stages.context import RunContext
from pipeline.stages.hints import name_command, read_if_sound
from pipeline.stages.patches import TableDueError
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import open_rows, require_rows

COSINE, CORRELATION = 0.75, 0.75
"""Usual thresholds: of the rows, to be compared by their pixels; of their detail, to be one photo."""
FORMAT = 1


@dataclass(frozen=True)
class Thresholds:
    """When two pictures are near-duplicates: both must be reached.

    Attributes
    ----------
    cosine : of their whole-picture rows, above 0
    correlation : of their detail, laid over one another
    """

    cosine: float = COSINE
    correlation: float = CORRELATION


def path(run: RunContext) -> Path:
    """Return the file of a dataset's near-duplicates."""
    return run.ws.near_path(run.dataset)


def why_due(run: RunContext, thresholds: Thresholds | None = None) -> str | None:
    """Return why near-duplicates must be searched, or None if they are of these rows, pictures, splits and thresholds.

    Parameters
    ----------
    thresholds : None for those of the file
    """
    file = path(run)
    if not file.is_file():
        return "near-duplicates have not been searched yet"
    try:
        found = read_json(file)
        stated, made_from = Thresholds(float(found["cosine"]), float(found["correlation"])), found["made_from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}: does not say what it was made from ({type(error).__name__} {error})"
    try:
        now = _digest_of_inputs(run, thresholds or stated)
    except TableDueError as due:
        return str(due)
    return None if made_from == now else "it is of other rows, pictures, splits or thresholds"


def _digest_of_inputs(run: RunContext, thresholds: Thresholds) -> str:
    opened = [require_rows(run, split) for split in _splits(run)]
    seen = [[table.split, table.pictures_digest(), store.fingerprint] for table, store in opened]
    return digest_of([FORMAT, seen, thresholds.cosine, thresholds.correlation])


def _splits(run: RunContext) -> list[str]:
    return list(dict.fromkeys((run.manifest.fit, run.manifest.eval)))


def make(run: RunContext, thresholds: Thresholds) -> dict[str, Any]:
    """Search near-duplicates and write them.

    Returns
    -------
    JSON object: ``pairs``, those across splits first, then by falling correlation; each with ``first`` and ``second``
    (``split``, ``id``), ``cosine``, ``correlation``, ``mirrored``, ``same_file`` and ``leak``; and ``groups``, pairs
    joined

    Raises
    ------
    SettingsError
        A threshold out of range, or rows of persons.
    MissingDataError
        The pictures are not available.
    StoreError
        A split was not extracted.
    """
    if not 0 < thresholds.cosine <= 1 or not 0 < thresholds.correlation <= 1:
        raise SettingsError(
            "--cosine and --correlation: expected numbers above 0, at most 1, got "
            f"{thresholds.cosine:g} and {thresholds.correlation:g}"
        )
    if run.manifest.by_person or run.settings.source == "boxes":
        raise SettingsError(
            f"{run.dataset}: its rows are of persons, and near-duplicates are searched of whole pictures"
        )
    check_writable(path(run))
    splits = [open_rows(run, split) for split in _splits(run)]
    set_threads(run.settings.threads)
    rows = np.concatenate([picture_rows(store, table) for table, store in splits])
    with Progress("compare rows of pictures", len(rows), "pictures") as progress:
        candidates, cosine = similar_pairs(rows, thresholds.cosine)
        progress.advance(len(rows))
    pictures = Pictures(run, [table for table, _ in splits])
    # A row of zeros has no direction, so that nothing is like it; of its picture the bytes tell.
    blank = np.flatnonzero(~rows.any(1))
    same = pictures.of_one_file(blank)
    candidates, cosine = np.concatenate([candidates, same]), np.append(cosine, np.full(len(same), np.nan))
    matches = pictures.match(candidates)
    pairs = [
        (first, second, value, match)
        for (first, second), value, match in zip(candidates.tolist(), cosine.tolist(), matches, strict=True)
        if match.correlation >= thresholds.correlation
    ]
    is_leak = [pictures.split_of(first) != pictures.split_of(second) for first, second, *_ in pairs]
    order = sorted(range(len(pairs)), key=lambda i: (not is_leak[i], -pairs[i][3].correlation, pairs[i][:2]))
    result = {
        "dataset": run.dataset,
        "splits": {table.split: len(table.ids) for table, _ in splits},
        "trunk": run.settings.trunk,
        "layer": splits[0][1].identity["how.layer"],
        "source": splits[0][0].source,
        "definition": define(thresholds),
        "cosine": thresholds.cosine,
        "correlation": thresholds.correlation,
        "compared": len(candidates),
        "pairs": [pictures.describe(*pairs[i]) for i in order],
        "groups": [[pictures.name(index) for index in group] for group in group_pairs([p[:2] for p in pairs])],
        "skipped": {table.split: len(table.skipped) for table, _ in splits},
        **({"rows_of_zeros": pictures.count(blank)} if len(blank) else {}),
        "fingerprints": {table.split: store.fingerprint for table, store in splits},
        "settings": run.settings.to_file(),
        "made_from": _digest_of_inputs(run, thresholds),
        "versions": versions(),
        "command": run.command,
    }
    write_json(path(run), result)
    return result


def define(thresholds: Thresholds) -> str:
    """Say what a near-duplicate is."""
    return (
        "two pictures whose whole-picture rows (mean over the windows of the largest scale, length 1) have a cosine of "
        f"{thresholds.cosine:g} or more, and whose pixels ({GREY_PX} px, grey, less a blurred copy) have a correlation "
        f"of {thresholds.correlation:g} or more where they lie over one another best: one whole, the other whole or a "
        f"crop of {100 * SMALLEST_CROP:.0f} % of the sides or more, mirrored or not; leak: one is in the split to fit, "
        "the other in the split to score"
    )


class Pictures:
    """The pictures of some splits, numbered through, and the small grey ones of those that are compared.

    Parameters
    ----------
    tables : of the splits
    """

    def __init__(self, run: RunContext, tables: Sequence[PatchTable]) -> None:
        self._tables = tables
        self._paths = [run.split(table.split).paths_by_id for table in tables]
        self._starts = np.cumsum([0, *(len(table.ids) for table in tables)])

    def _at(self, index: int) -> tuple[int, int]:
        """Return which table a picture is of, and its place there."""
        which = int(np.searchsorted(self._starts, index, side="right") - 1)
        return which, index - int(self._starts[which])

    def split_of(self, index: int) -> str:
        """Return the split of a picture."""
        return self._tables[self._at(index)[0]].split

    def name(self, index: int) -> dict[str, str]:
        """Return split and id of a picture."""
        which, place = self._at(index)
        return {"split": self._tables[which].split, "id": self._tables[which].ids[place]}

    def count(self, pictures: np.ndarray) -> dict[str, int]:
        """Count some pictures by split."""
        found = Counter(map(self.split_of, pictures.tolist()))
        return {table.split: found[table.split] for table in self._tables}

    def of_one_file(self, pictures: np.ndarray) -> np.ndarray:
        """Return the pairs among some pictures that have one file: int64 ndarray (n_pairs, 2), rising.

        Raises
        ------
        DatasetError
            More than `MOST_PAIRS` pairs.
        """
        by_file: dict[str, list[int]] = {}
        for index in pictures.tolist():
            by_file.setdefault(self._sha256(index), []).append(index)
        n_pairs = sum(len(some) * (len(some) - 1) // 2 for some in by_file.values())
        if n_pairs > MOST_PAIRS:
            raise DatasetError(f"{n_pairs:,} pairs of pictures have one file; at most {MOST_PAIRS:,} are compared")
        pairs = sorted(pair for some in by_file.values() for pair in combinations(some, 2))
        return np.array(pairs, np.int64).reshape(-1, 2)

    def _sha256(self, index: int) -> str:
        which, place = self._at(index)
        return self._tables[which].picture_sha256[place]

    def _grey(self, index: int) -> np.ndarray:
        which, place = self._at(index)
        table = self._tables[which]
        data = self._paths[which][table.ids[place]].read_bytes()
        return grey_picture(decode_image(data, bool(table.apply_exif[place]), table.ids[place]))

    def match(self, pairs: np.ndarray) -> list[Match]:
        """Compare pairs (n, 2) by their pixels; each picture is decoded once, and none of equal files."""
        different = [pair for pair in pairs.tolist() if not self._same_file(*pair)]
        needed = sorted({index for pair in different for index in pair})
        grey = {index: self._grey(index) for index in track(needed, "pictures to compare", len(needed), "pictures")}
        matches = {
            (first, second): match_pictures(grey[first], grey[second])
            for first, second in track(different, "compare pictures", len(different), "pairs")
        }
        return [matches.get((first, second), Match(1.0, False)) for first, second in pairs.tolist()]

    def _same_file(self, first: int, second: int) -> bool:
        return self._sha256(first) == self._sha256(second)

    def describe(self, first: int, second: int, cosine: float, match: Match) -> dict[str, Any]:
        """Return a pair as a JSON object."""
        return {
            "first": self.name(first),
            "second": self.name(second),
            "cosine": number(cosine),
            "correlation": number(match.correlation),
            "mirrored": match.mirrored,
            "same_file": self._same_file(first, second),
            "leak": self.split_of(first) != self.split_of(second),
        }


def read(run: RunContext) -> dict[str, Any] | None:
    """Return the near-duplicates if there are any that are current; says where they are not."""
    if not path(run).is_file():
        return None
    try:
        reason = why_due(run)
    except PipelineError as error:
        reason = str(error).partition("\n")[0]
    if reason is not None:
        stated, usual = read_if_sound(path(run)), Thresholds()
        options = [
            word
            for name in ("cosine", "correlation")
            if stated.get(name, getattr(usual, name)) != getattr(usual, name)
            for word in (f"--{name}", str(stated[name]))
        ]
        command = name_command("data check", run.dataset, "--near", *options)
        run.say(f"{path(run)}: {reason}; search again: {command}")
        return None
    return read_json(path(run))
