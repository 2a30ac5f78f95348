"""Build a patch table: decode every picture of a split, count its windows, join it with its objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from pipeline.dataset.decode_memory import DecodeMemory
from pipeline.dataset.split import Split
from pipeline.io.errors import DatasetError
from pipeline.io.progress import Say, silent
from pipeline.patches.inspect import Bad, Inspected, inspect_split
from pipeline.patches.notes import report_bad, say_notes
from pipeline.patches.rows import Objects
from pipeline.patches.settings import Source, SourceSettings
from pipeline.patches.table import PatchTable


def make_table(
    split: Split,
    sources: SourceSettings,
    *,
    on_error: str = "fail",
    max_skipped: float = 0.05,
    workers: int = 1,
    known_turns: Mapping[str, bool] = MappingProxyType({}),
    memory: DecodeMemory | None = None,
    say: Say = silent,
) -> PatchTable:
    """Decode every picture of a split and plan its rows.

    A picture is turned by its EXIF orientation as its annotation tells. Where that does not tell, the manifest's
    ``exif`` decides; without it, the other pictures of the split, if their annotations agree; else the picture is
    turned, so that it is read as it is shown.

    Parameters
    ----------
    on_error : {"fail", "skip"}
        With bad pictures: list all of them and make nothing, or leave them out of rows and id list and record them.
    max_skipped : largest share of pictures that may be skipped, 0..1
    workers : number of decoding threads
    known_turns : whether pictures without an annotation are turned by EXIF, by the SHA-256 of their bytes
    memory : what is known of pictures that were decoded before; None decodes every one
    say : takes notes: pictures left out, turned, all but constant, and boxes clipped

    Raises
    ------
    DatasetError
        Bad pictures under ``fail``; under ``skip`` if all or more than `max_skipped` are bad. A source that does
        not go with the samples: ``boxes`` is for persons, and ``grid`` is not.
    """
    check_source(split, sources.source)
    what = f"patches {split.manifest.name} {split.name}"
    inspected, votes = inspect_split(split, sources, workers, what, known_turns, memory=memory)
    report_bad(split, inspected, on_error, max_skipped, say)
    say_notes(split, inspected, votes, say)
    return _assemble(split, sources, inspected)


def find_bad(split: Split, sources: SourceSettings, workers: int = 1, say: Say = silent) -> list[Bad | None]:
    """Inspect every picture of a split as `make_table` does; return what is wrong with each, None if nothing is.

    Parameters
    ----------
    say : takes notes: pictures turned, all but constant, and boxes clipped
    """
    inspected, votes = inspect_split(split, sources, workers, f"check {split.name}")
    say_notes(split, inspected, votes, say)
    return [item if isinstance(item, Bad) else None for item in inspected]


def _assemble(split: Split, sources: SourceSettings, inspected: Sequence[Inspected | Bad]) -> PatchTable:
    """Join the facts of all good pictures into a table."""
    good = [index for index, item in enumerate(inspected) if isinstance(item, Inspected)]
    good_ids = tuple(split.ids[index] for index in good)
    pictures = [item for item in inspected if isinstance(item, Inspected)]
    bad = [(split.ids[index], item) for index, item in enumerate(inspected) if isinstance(item, Bad)]
    table = PatchTable(
        dataset=split.manifest.name,
        split=split.name,
        classes=split.manifest.classes,
        source=sources.source,
        grid=sources.grid,
        ids=good_ids,
        size_wh=np.array([item.size_wh for item in pictures], np.int32),
        first_row=np.cumsum([0, *(item.n_rows for item in pictures)], dtype=np.int64),
        objects=Objects.join(
            [item.box_xyxy for item in pictures],
            [item.class_index for item in pictures],
            [item.difficult for item in pictures],
        ),
        apply_exif=np.array([item.apply_exif for item in pictures], bool),
        picture_sha256=tuple(item.sha256 for item in pictures),
        picture_labels=np.zeros((len(pictures), 0), np.int8) if split.labels is None else split.labels[good],
        skipped=tuple((i, item.problem) for i, item in bad),
        annotation_digest=split.annotation_digest,
        skipped_sha256=tuple(item.sha256 for _, item in bad),
        sample_xyxy=np.array([item.sample_xyxy for item in pictures]) if sources.source == "boxes" else None,
        crops=sources.crops,
        boxes=sources.boxes,
        unscored=split.manifest.unscored,
        has_boxes=split.manifest.has_boxes,
        exif=split.manifest.exif,
        from_numbers=tuple(i for i, item in zip(good_ids, pictures, strict=True) if item.from_numbers),
    )
    return replace(table, rows_digest=table.compute_rows_digest(), label_hashes=table.compute_label_hashes())


def check_source(split: Split, source: Source) -> None:
    """Raise an error for a source that does not fit a split's samples.

    Raises
    ------
    DatasetError
    """
    name = split.manifest.name
    if split.manifest.by_person and source == "grid":
        raise DatasetError(
            f"{name} {split.name}: samples are persons, and a grid covers pictures: all persons of one would score "
            "the same; use the setting source=boxes, or a manifest with 'samples: pictures'"
        )
    if source == "boxes" and not split.manifest.by_person:
        raise DatasetError(
            f"{name} {split.name}: source boxes is for samples that are persons, as in layout voc-action "
            "with 'samples: persons'; these are pictures: use source=grid, whole or crops"
        )
