"""The file of scores: HDF5 with a checksum."""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np

from pipeline.io.atomic import write_atomic
from pipeline.io.checksummed import USER_BLOCK, check_hdf5, checksum_hdf5
from pipeline.io.errors import StoreError
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.scores import ScoreFacts, SplitScores

FORMAT = "scores-3"


def save_scores(scores: SplitScores, path: Path) -> None:
    """Write scores atomically; equal scores give equal bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        file.create_dataset("scores", data=scores.scores, chunks=True, fletcher32=True)
        if scores.peak_xy is not None:
            file.create_dataset("peak_xy", data=scores.peak_xy, chunks=True, fletcher32=True)
        file.create_dataset("id", data=np.array(scores.ids, object), dtype=h5py.string_dtype())
        file.attrs["format"] = FORMAT
        file.attrs["aggregations"] = json.dumps([aggregation.to_json() for aggregation in scores.aggregations])
        file.attrs["classes"] = json.dumps(scores.classes)
        # As a dataset: attributes are limited to 64 KiB.
        facts = json.dumps(scores.facts.to_dict(), sort_keys=True)
        file.create_dataset("facts", data=facts, dtype=h5py.string_dtype())
    write_atomic(path, checksum_hdf5(buffer.getvalue()))


def load_scores(path: Path) -> SplitScores:
    """Read a file of scores.

    Raises
    ------
    StoreError
        No such file, not a file of scores, or changed since it was written.
    """
    if not path.is_file():
        raise StoreError(
            f"{path}: no such scores; make them with: pipeline score, with the same dataset, head and settings"
        )
    try:
        with h5py.File(io.BytesIO(check_hdf5(path.read_bytes())), "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise StoreError(f"{path}: not a file of scores; make it again with: pipeline score")
            return SplitScores(
                file["scores"][:],
                tuple(map(Aggregation.from_json, json.loads(file.attrs["aggregations"]))),
                tuple(file["id"].asstr()[:]),
                tuple(json.loads(file.attrs["classes"])),
                ScoreFacts.from_dict(json.loads(file["facts"].asstr()[()])),
                file["peak_xy"][:] if "peak_xy" in file else None,
            )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: damaged: {error}; make it again with: pipeline score") from error
