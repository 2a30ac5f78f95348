"""Figures that others published, from ``data_manifests/published.yaml``; they are not mixed with measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.dataset.manifest_places import manifest_folders
from pipeline.io.errors import SettingsError
from pipeline.io.messages import enumerate_problems
from pipeline.io.model import Settings, explain_validation
from pipeline.io.yaml import read_mapping

WHY_APART = (
    "published figures are of a whole official test split, by networks pre-trained on ImageNet and fitted on all "
    "training pictures; a mAP on some of the pictures, or of another split, is another quantity: compare the order "
    "of rows, not the points"
)
"""Why figures on a subset cannot be set against published ones, in one line."""

Percent = Annotated[float, Field(ge=0, le=100)]


class PublishedRow(Settings):
    """One row of somebody's table, as printed: in percent."""

    name: str = Field(min_length=1)
    dataset: str = Field(description="benchmark; its rows are shown with datasets of this name, or NAME_...")
    split: str = Field(description="split that was scored, or 'not stated'")
    metric: Literal["voc07", "voc12"]
    mAP: Percent | None = Field(description="null where only a remark was printed")
    AP: dict[str, Percent] = Field({}, description="by class; classes that could not be read are missing")
    few: dict[int, Percent] = Field({}, description="mAP by the number of positive fit pictures per class")
    source: str = Field(min_length=1, description="document, and the table or slide in it")
    note: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> PublishedRow:
        if self.mAP is None and not self.note:
            raise ValueError(f"{self.name}: has neither mAP nor note")
        return self


class PublishedRows(Settings):
    """The file: rows in the order in which they are shown."""

    rows: tuple[PublishedRow, ...] = ()

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> PublishedRows:
        keys = [f"{row.dataset} {row.name}" for row in self.rows]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self


def load_published(folder: Path | None = None) -> tuple[PublishedRow, ...]:
    """Read all rows from the first ``published.yaml`` in the folders of manifests; no file gives no rows.

    Parameters
    ----------
    folder : searched first

    Raises
    ------
    SettingsError
        Mistakes in the file; the message lists all.
    """
    for candidate in manifest_folders(folder):
        path = candidate / "published.yaml"
        if path.is_file():
            try:
                return PublishedRows.model_validate(read_mapping(path)).rows
            except ValidationError as error:
                raise SettingsError(f"{path}:\n{enumerate_problems(explain_validation(error))}") from error
    return ()


def published_rows(dataset: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """Return the published rows of a dataset's benchmark, as JSON objects like those of measured rows.

    ``voc12``, ``voc12_test`` and ``voc12_subset`` are of ``voc12``, ``voc12_action`` is of itself, and a
    dataset such as ``demo`` is of none.

    Returns
    -------
    list of the rows' fields, in the file's order; mAP and AP in 0..1, as measured ones are
    """
    rows = load_published(folder)
    benchmarks = [b for b in {row.dataset for row in rows} if f"{dataset}_".startswith(f"{b}_")]
    benchmark = max(benchmarks, key=len, default=None)
    return [
        {
            **row.model_dump(),
            "mAP": None if row.mAP is None else round(row.mAP / 100, 6),
            "AP": {name: round(value / 100, 6) for name, value in row.AP.items()},
            "few": {n: round(value / 100, 6) for n, value in row.few.items()},
        }
        for row in rows
        if row.dataset == benchmark
    ]
