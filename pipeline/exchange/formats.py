"""The table of file formats: what a file's ending means, and who writes it. A new format is one entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.io.errors import SettingsError
from pipeline.io.extras import import_extra
from pipeline.io.likeness import suggest_nearest

Writer = Callable[..., Any]


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes
    ----------
    ending : of a file's name; ``/`` for a folder of shards
    title : in words
    writer : ``module:function`` below `pipeline.exchange`
    next_to_it : endings of the files that are written next to it, behind its whole name
    libraries : that it needs beyond those of this package
    is_folder : whether the format is a folder
    bytes_per_byte : bytes of the file per byte of activations, at most
    provenance_in : ending of the file that holds the provenance alone, or ``schema`` for the metadata of Parquet;
        empty where it cannot be read without the rows
    """

    ending: str
    title: str
    writer: str
    next_to_it: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    is_folder: bool = False
    bytes_per_byte: float = 1.0
    provenance_in: str = ""

    def paths(self, path: Path) -> list[Path]:
        """Return all files of an export: that of `path`, then those next to it."""
        return [path, *(path.with_name(path.name + ending) for ending in self.next_to_it)]

    def read_provenance(self, path: Path) -> dict[str, Any] | None:
        """Read what an export says of itself; None where it says nothing that can be read quickly."""
        try:
            if self.provenance_in == "schema":
                text = import_extra("pyarrow.parquet").read_schema(path).metadata[b"pipeline"]
            elif self.provenance_in:
                text = path.with_name(path.name + self.provenance_in).read_bytes()
            else:
                return None
            found = json.loads(text)
        except (OSError, ValueError, KeyError, TypeError):  # another program's file
            return None
        return found if isinstance(found, dict) else None

    def import_writer(self) -> Writer:
        """Import the function that writes it.

        Raises
        ------
        MissingDataError
            A library is not installed; the message has the command that installs it.
        """
        for library in self.libraries:
            import_extra(library)
        module, _, function = self.writer.partition(":")
        return getattr(import_module(f"pipeline.exchange.{module}"), function)


PROVENANCE = ".json"
FORMATS = (
    Format(".parquet", "Parquet", "arrow:write_parquet", libraries=("pyarrow",), provenance_in="schema"),
    Format(".npy", "NumPy, activations alone", "arrays:write_npy", (".rows.csv", PROVENANCE), provenance_in=PROVENANCE),
    Format(".npz", "NumPy, all arrays", "arrays:write_npz"),
    Format(
        ".csv",
        "text",
        "text:write_csv_with_provenance",
        (PROVENANCE,),
        bytes_per_byte=12.0,
        provenance_in=PROVENANCE,
    ),
    Format(".h5", "HDF5", "arrays:write_hdf5"),
    Format(".safetensors", "safetensors", "arrays:write_safetensors"),
    Format(".lance", "Lance", "arrow:write_lance", libraries=("pyarrow", "lance"), is_folder=True),
    Format(
        "/", "Parquet shards for Hugging Face datasets", "arrow:write_shards", libraries=("pyarrow",), is_folder=True
    ),
)


OTHER_NAMES = {".hdf5": ".h5", ".hdf": ".h5", ".pq": ".parquet", ".tsv": ".csv", ".txt": ".csv", ".pkl": ".npz"}
"""What people also write, and the ending that is meant."""


def find_format(name: str) -> Format:
    """Find the format of a file or folder by its ending; an existing folder, or a name that ends in ``/``, is shards.

    Raises
    ------
    SettingsError
        No format has this ending; those that there are.

    >>> find_format("rows.parquet").title, find_format("rows/").ending
    ('Parquet', '/')
    """
    for item in FORMATS:
        if name.lower().endswith(item.ending):
            return item
    path = Path(name)
    if path.is_dir():
        return FORMATS[-1]
    known = [item.ending for item in FORMATS if item.ending != "/"]
    lacks = f"unknown ending {path.suffix!r}" if path.suffix else "no ending"
    meant = OTHER_NAMES.get(path.suffix.lower())
    near = f"; did you mean {meant}?" if meant else suggest_nearest(path.suffix, known)
    raise SettingsError(
        f"{name}: {lacks}; known: {', '.join(known)}, or a folder, whose name ends in / (Hugging Face){near}"
    )


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Return those files of an export that exist."""
    return [path for path in paths if path.exists()]
