"""A table of results as a value: columns of known kinds, rows, and which cells are the best of their column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["text", "share", "interval", "difference", "number", "flag"]
Cell = Any
"""Of a column's kind: text; a share 0..1; ``{"low", "high"}``; ``{"difference", "low", "high"}``; a number; True or
False. None where there is none."""


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes
    ----------
    name : for programs: the name of a column in CSV
    title : for people
    kind : of its cells
    has_best : whether the highest share is marked
    is_number : whether a text is aligned as a number
    """

    name: str
    title: str
    kind: Kind = "text"
    has_best: bool = False
    is_number: bool = False

    @property
    def is_left(self) -> bool:
        """Whether cells are aligned to the left."""
        return self.kind in ("text", "flag") and not self.is_number

    def flat_names(self) -> list[str]:
        """Return the names of the plain columns that it becomes."""
        ends = {"interval": ("_low", "_high"), "difference": ("", "_low", "_high")}.get(self.kind, ("",))
        return [self.name + end for end in ends]

    def flat_cells(self, cell: Cell) -> list[Any]:
        """Return a cell as plain values, one per name of `flat_names`; None where there is none."""
        if self.kind == "interval":
            return [None, None] if cell is None else [cell["low"], cell["high"]]
        if self.kind == "difference":
            return [None] * 3 if cell is None else [cell["difference"], cell["low"], cell["high"]]
        return [cell]

    def shown(self, cell: Cell) -> str:
        """Return a cell as people read it; shares are in percent.

        >>> Column("mAP", "mAP", "share").shown(0.4756), Column("i", "i", "interval").shown({"low": 0.1, "high": 0.25})
        ('47.6', '10.0 to 25.0')
        """
        if cell is None:
            return "-"
        if self.kind == "share":
            return f"{100 * cell:.1f}"
        if self.kind == "interval":
            return _range(cell)
        if self.kind == "difference":
            return "-" if cell["difference"] is None else f"{100 * cell['difference']:+.1f} ({_range(cell)})"
        if self.kind == "number":
            return f"{cell:.1f}"
        if self.kind == "flag":
            return f"<- {self.title}" if cell else ""
        return str(cell)


def _range(interval: Mapping[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    return "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


@dataclass(frozen=True)
class ResultTable:
    """A table.

    Attributes
    ----------
    title : one line
    rows : each a cell per column
    footer : a last row, such as the mean; None without
    notes : sentences below it
    """

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    footer: Sequence[Cell] | None = None
    notes: tuple[str, ...] = field(default=())

    def select(self, names: Sequence[str]) -> ResultTable:
        """Return the table with the columns of these names alone."""
        chosen = [index for index, column in enumerate(self.columns) if column.name in names]
        rows = [[row[index] for index in chosen] for row in self.rows]
        footer = None if self.footer is None else [self.footer[index] for index in chosen]
        return replace(self, columns=tuple(self.columns[index] for index in chosen), rows=rows, footer=footer)

    @property
    def all_rows(self) -> list[Sequence[Cell]]:
        """The rows, and the footer if there is one."""
        return [*self.rows, *([] if self.footer is None else [self.footer])]

    def is_best(self) -> list[list[bool]]:
        """Return for each cell of `rows` whether it is the best of its column: the highest share as it is shown.

        Of columns without a best, and of a single row, none is.
        """
        marks = [[False] * len(self.columns) for _ in self.rows]
        for index, column in enumerate(self.columns):
            shares = [row[index] for row in self.rows if row[index] is not None] if column.has_best else []
            if len(shares) > 1:
                best = column.shown(max(shares))
                for mark, row in zip(marks, self.rows, strict=True):
                    mark[index] = row[index] is not None and column.shown(row[index]) == best
        return marks

    def records(self) -> list[dict[str, Any]]:
        """Return all rows as flat objects: plain values by name, None where there is none."""
        names = [name for column in self.columns for name in column.flat_names()]
        return [
            dict(
                zip(
                    names,
                    [v for c, cell in zip(self.columns, row, strict=True) for v in c.flat_cells(cell)],
                    strict=True,
                )
            )
            for row in self.all_rows
        ]
