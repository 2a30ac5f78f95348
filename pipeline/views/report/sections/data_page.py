"""What is found about a dataset itself, as sections of the report, and as one HTML file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from pipeline.io.atomic import write_atomic
from pipeline.stages import label_faults, near
from pipeline.stages.context import RunContext
from pipeline.version import __version__
from pipeline.views.report.sections.labels import labels_section
from pipeline.views.report.sections.near import near_section
from pipeline.views.report.sections.pictures import Thumbnails

MOST_ON_PAGE, MOST_IN_REPORT = 100, 12
"""Pairs, or pictures, that are shown of each list; the JSON file has all."""


def data_sections(run: RunContext, most: int = MOST_IN_REPORT) -> str:
    """Return the sections on the data as HTML, of what was searched and is current; empty where nothing is."""
    found, judged = near.read(run), label_faults.read(run)
    if found is None and judged is None:
        return ""
    thumbnails = Thumbnails(run)
    return render_section(
        "data.html",
        near=None if found is None else near_section(run, found, thumbnails, most),
        labels=None if judged is None else labels_section(run, judged, thumbnails, most),
    )


def write_page(run: RunContext) -> Path:
    """Write the page of a dataset, and return its file."""
    path = run.ws.data_page_path(run.dataset)
    style = (files("pipeline.views.report") / "style.css").read_text(encoding="utf-8")
    text = render_section(
        "page.html",
        title=run.manifest.title,
        sections=data_sections(run, MOST_ON_PAGE),
        style=style,
        version=__version__,
        command=run.command,
    )
    write_atomic(path, text.encode())
    return path


def render_section(template: str, **values: Any) -> str:
    """Fill in one of the templates beside this module."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    text = (files("pipeline.views.report.sections") / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(**values)


def percent(share: float | None) -> str:
    """A share as a person reads it; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f}"
