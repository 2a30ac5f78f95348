"""The identity of a store: everything that decides its values, and nothing else.

A flat JSON object. Keys that start with ``seen.`` say what was looked at, keys that start with
``how.`` say how. The SHA-256 of its canonical JSON is the fingerprint. Not in it: paths, workers,
device numbers, head settings, lossless codecs, library versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.activations import VERSION
from pipeline.dataset.picture import DECODER
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.messages import enumerate_problems
from pipeline.patches.table import PatchTable
from pipeline.trunk import VERSION as TRUNK_VERSION
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import Trunk

FORMAT = "activations-2"
Identity = dict[str, Any]


def make_identity(
    table: PatchTable,
    trunk: Trunk,
    precision: str,
    batch: int,
    part_rows: int,
    window_fields: Mapping[str, str] = TrunkRunner.window_fields,
    dtype: str = "float16",
    rows: np.ndarray | None = None,
) -> Identity:
    """The identity of the activations of one layer over one patch table.

    Parameters
    ----------
    precision : arithmetic and backend, such as ``cpu-bf16``
    batch : rows that go through the trunk at once; the last bits can depend on it
    part_rows : rows a part; batches start at a part's first row
    window_fields : `window_fields` of the runner, how windows are looked at
    dtype : ``float16``, or ``8bit`` for codes over each column's range
    rows : int64 ndarray, rising: rows of the table that are looked at; None for all
    """
    if table.source in ("grid", "whole"):
        source = {"scales": list(table.grid.scales), "overlap": table.grid.overlap}
    else:
        source = {**table.sources.own(), "cut": "each window by itself, mirrored past the picture's edges"}
    return {
        "seen.pictures": table.pictures_digest(),
        "seen.rows": table.rows_digest,
        "seen.which": which_rows(rows),
        "seen.n_rows": table.n_rows if rows is None else len(rows),
        "seen.skipped": [f"{name}: {reason}" for name, reason in table.skipped],
        "how.source": table.source,
        **{f"how.{name}": value for name, value in source.items()},
        **trunk_fields(trunk, precision, batch, part_rows, window_fields),
        "how.dtype": dtype,
    }


def which_rows(rows: np.ndarray | None) -> str:
    """What an identity says of the rows of a table that a store holds: ``all``, or a digest of their numbers."""
    return "all" if rows is None else f"rows of {sha256_bytes(rows.astype('<i8').tobytes())}"


def trunk_fields(
    trunk: Trunk, precision: str, batch: int, part_rows: int, window_fields: Mapping[str, str] = TrunkRunner.window_fields
) -> Identity:
    """Those fields that follow from the code and the trunk: what a worker can check by itself."""
    preprocessing = trunk.card.preprocessing
    return {
        "how.format": FORMAT,
        "how.extractor": f"{VERSION}.{TRUNK_VERSION}",
        "how.architecture": trunk.card.architecture,
        "how.weights": trunk.weights_sha256,
        "how.layer": trunk.layer,
        "how.width": trunk.width,
        "how.input_px": trunk.card.input_px,
        "how.decoder": DECODER,
        "how.resize": f"pillow-{preprocessing.interpolation}-antialiased, once a scale, uint8",
        "how.colour_order": preprocessing.colour_order,
        "how.mean": list(preprocessing.mean),
        "how.std": list(preprocessing.std),
        **{f"how.{name}": value for name, value in window_fields.items()},
        "how.precision": precision,
        "how.batch": batch,
        "how.part_rows": part_rows,
    }


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of the identity's canonical JSON, as hex."""
    return digest_of(dict(identity))


def how_part(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part that a head carries: it scores only rows that were made in the same way."""
    return {key: value for key, value in identity.items() if key.startswith("how.")}


def differences(got: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """One line a field in which two identities differ.

    >>> differences({"how.layer": "fc6"}, {"how.layer": "fc7"})
    ["how.layer: got 'fc6', expected 'fc7'"]
    """
    lines = []
    for key in sorted({*got, *expected}):
        if got.get(key) != expected.get(key):
            lines.append(f"{key}: got {got.get(key)!r}, expected {expected.get(key)!r}")
    return lines


def explain_differences(got: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """All differing fields, as lines of a message."""
    return enumerate_problems(differences(got, expected), shown=30)
