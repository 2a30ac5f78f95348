"""The identity of a store of rows that were made elsewhere: their values, and what is said about them."""

from __future__ import annotations

from pipeline.activations.identity import FORMAT, Identity, source_fields
from pipeline.patches.table import PatchTable

LAYER = "features"
"""In place of the name of a layer."""


def imported_identity(
    table: PatchTable, *, name: str, made_by: str, width: int, part_rows: int, values_sha256: str, given_dtype: str
) -> Identity:
    """Make the identity of imported rows. Nothing here knows how they were computed, so it holds their values.

    Parameters
    ----------
    table : whose rows they are
    name : that the user gave them
    made_by : what made them, in the user's words; heads refuse rows of another
    values_sha256 : digest of all rows as float16, in the order of the table
    given_dtype : type of the numbers in the file, before they became float16
    """
    return Identity(
        {
            "seen.pictures": table.pictures_digest(),
            "seen.rows": table.rows_digest,
            "seen.which": "all",
            "seen.n_rows": table.n_rows,
            "seen.skipped": [f"{item}: {reason}" for item, reason in table.skipped],
            "seen.values": values_sha256,
            "seen.given_dtype": given_dtype,
            **source_fields(table),
            "how.format": FORMAT,
            "how.made": "elsewhere",
            "how.name": name,
            "how.made_by": made_by,
            "how.layer": LAYER,
            "how.width": width,
            "how.dtype": "float16",
            "how.part_rows": part_rows,
        }
    )
