"""From the content of a report to one HTML file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import jinja2

from pipeline.io.atomic import write_atomic
from pipeline.io.numbers import format_bytes, format_seconds
from pipeline.stages.context import RunContext
from pipeline.views.report.content import Content, gather


def percent(share: float | None) -> str:
    """A share as a person reads it; a dash where there is none.

    >>> percent(0.4756), percent(None)
    ('47.6', '–')
    """
    return "–" if share is None else f"{100 * share:.1f}"


def render(content: Content) -> str:
    """The page."""
    folder = files("pipeline.views.report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"percent": percent, "bytes": format_bytes, "duration": format_seconds}
    template = environment.from_string((folder / "template.html").read_text(encoding="utf-8"))
    return template.render(
        c=content,
        r=content.result,
        style=(folder / "style.css").read_text(encoding="utf-8"),
        script=(folder / "table.js").read_text(encoding="utf-8"),
    )


def write_report(run: RunContext, head: str, path: Path) -> None:
    """Write the report of a run, atomically."""
    write_atomic(path, render(gather(run, head)).encode())
