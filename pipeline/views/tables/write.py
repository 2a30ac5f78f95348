"""Tables as text: CSV and JSON for programs, Markdown and LaTeX for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.io.csv_line import csv_line
from pipeline.views.tables.table import ResultTable

LATEX = str.maketrans(
    {
        **{character: rf"\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def write_csv(tables: Sequence[ResultTable]) -> str:
    """Write tables as CSV, one after the other with an empty line between: shares 0..1, nothing rounded."""
    texts = []
    for table in tables:
        header = [name for column in table.columns for name in column.flat_names()]
        lines = [header, *([_plain(value) for value in record.values()] for record in table.records())]
        texts.append("".join(f"{csv_line(line)}\n" for line in lines))
    return "\n".join(texts)


def _plain(value: Any) -> Any:
    return "" if value is None else int(value) if isinstance(value, bool) else value


def write_json(tables: Sequence[ResultTable]) -> str:
    """Write tables as JSON: the rows of a single one as a list of objects, of several as a list of such lists."""
    content = [table.records() for table in tables]
    return json.dumps(content[0] if len(content) == 1 else content, indent=2, ensure_ascii=False) + "\n"


def write_markdown(tables: Sequence[ResultTable]) -> str:
    """Write tables for Markdown: percent, the best of a column in bold, notes below."""
    return "\n".join(map(_markdown, tables))


def _markdown(table: ResultTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = _shown_rows(table, lambda text: text.replace("|", r"\|").replace("\n", " "), "**{}**")
    rules = [":--" if column.is_left else "--:" for column in table.columns]
    titles = [column.title.replace("|", r"\|") for column in table.columns]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join(
        [table.title, "", line(titles), line(rules), *map(line, rows), *([""] if notes else []), *notes, ""]
    )


def write_latex(tables: Sequence[ResultTable]) -> str:
    """Write tables for LaTeX (package booktabs): percent, the best of a column in bold, notes as comments."""
    return "\n".join(map(_latex, tables))


def _latex(table: ResultTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"{' & '.join(cells)} \\\\"

    rows = [line(cells) for cells in _shown_rows(table, _escape_latex, r"\textbf{{{}}}")]
    if table.footer is not None:
        rows.insert(len(rows) - 1, r"\midrule")
    places = "".join("l" if column.is_left else "r" for column in table.columns)
    comments = [f"% {' '.join(text.split())}" for text in (table.title, *table.notes)]
    return "\n".join(
        [
            *comments,
            rf"\begin{{tabular}}{{{places}}}",
            r"\toprule",
            line([_escape_latex(column.title) for column in table.columns]),
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _escape_latex(text: str) -> str:
    return " ".join(text.translate(LATEX).split())


def _shown_rows(table: ResultTable, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    """Return all rows as people read them, the best cells in bold."""
    marks = [*table.is_best(), [False] * len(table.columns)]
    return [
        [
            bold.format(escape(c.shown(cell))) if best else escape(c.shown(cell))
            for c, cell, best in zip(table.columns, row, mark, strict=True)
        ]
        for row, mark in zip(table.all_rows, marks, strict=False)
    ]


FORMATS: dict[str, Callable[[Sequence[ResultTable]], str]] = {
    "csv": write_csv,
    "markdown": write_markdown,
    "latex": write_latex,
    "json": write_json,
}
"""Writers by the name of the format."""
