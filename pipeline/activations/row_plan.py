"""The plan of some rows: everything needed to compute them, independent of table and dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.io.picture_file import PictureFile
from pipeline.patches.table import PatchTable


@dataclass(frozen=True)
class PlannedPicture:
    """A picture of a plan: its file, and the digest that its bytes must have."""

    index: int
    id: str
    path: PictureFile
    sha256: str
    apply_exif: bool


@dataclass(frozen=True)
class RowPlan:
    """Everything needed to compute some rows: small, and independent of table and dataset.

    Attributes
    ----------
    picture : int32 ndarray (n,), rising; index of each row's picture in the id list
    box_xyxy : float32 ndarray (n, 4)
    scale : uint8 ndarray (n,)
    source : where the windows come from
    flip : bool ndarray (n,), rows of mirrored patches; None if no row is mirrored
    pictures : the pictures of the rows, in rising order of their index
    turn : float32 ndarray (n,), degrees by which pictures are turned first; None if none is
    """

    picture: np.ndarray
    box_xyxy: np.ndarray
    scale: np.ndarray
    source: str
    flip: np.ndarray | None
    pictures: tuple[PlannedPicture, ...]
    turn: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        return len(self.picture)

    def select(self, rows: np.ndarray) -> RowPlan:
        """Return the plan of some of the rows.

        Parameters
        ----------
        rows : int ndarray, rising
        """
        picture = self.picture[rows]
        needed = set(np.unique(picture).tolist())
        flip, turn = (None if column is None else column[rows] for column in (self.flip, self.turn))
        pictures = tuple(item for item in self.pictures if item.index in needed)
        return RowPlan(picture, self.box_xyxy[rows], self.scale[rows], self.source, flip, pictures, turn)


def plan_rows(table: PatchTable, picture_paths: Mapping[str, PictureFile], rows: slice | np.ndarray) -> RowPlan:
    """Plan a range of rows, or chosen rows in rising order."""
    of_table = table.rows_at(rows)
    pictures = tuple(
        PlannedPicture(
            index,
            table.ids[index],
            picture_paths[table.ids[index]].absolute(),
            table.picture_sha256[index],
            bool(table.apply_exif[index]),
        )
        for index in np.unique(of_table.picture).tolist()
    )
    geometry = of_table.picture, of_table.box_xyxy, of_table.scale
    return RowPlan(*geometry, table.source, of_table.flip, pictures, of_table.turn)
