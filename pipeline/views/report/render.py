"""From the content of a report to one HTML file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import jinja2

from pipeline.io.atomic import write_atomic
from pipeline.io.digests import digest_of, sha256_file
from pipeline.io.numbers import format_bytes, format_seconds
from pipeline.stages import evaluate, label_faults, localise, near
from pipeline.stages.context import RunContext
from pipeline.version import __version__
from pipeline.views.figures.style import save_vector
from pipeline.views.report.content import Content, gather
from pipeline.views.report.read import read_run
from pipeline.views.report.since import find_previous

HEAD_CHARACTERS = 2000
"""So far into a page stands what it was made from."""


def percent(share: float | None) -> str:
    """A share as a person reads it; a dash where there is none.

    >>> percent(0.4756), percent(None)
    ('47.6', '–')
    """
    return "–" if share is None else f"{100 * share:.1f}"


def render(content: Content, made_from: str = "") -> str:
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
        made_from=made_from,
        style=(folder / "style.css").read_text(encoding="utf-8"),
        script=(folder / "table.js").read_text(encoding="utf-8"),
    )


def path(run: RunContext) -> Path:
    """Return the file of a dataset's report."""
    return run.ws.report_path(run.dataset)


def why_due(run: RunContext, head: str) -> str | None:
    """Return why the report must be written, or None if it is of this result, these settings and comparisons."""
    file = path(run)
    if not file.is_file():
        return "it has not been written yet"
    with open(file, encoding="utf-8", errors="replace") as stream:
        beginning = stream.read(HEAD_CHARACTERS)
    return None if f'content="{digest_of_inputs(run, head)}"' in beginning else "it is of another result or settings"


def digest_of_inputs(run: RunContext, head: str) -> str:
    """Return the digest of the files and settings from which a report would be written now."""
    files = (evaluate.path(run, head), run.ws.compare_path(run.dataset), run.ws.heads_path(run.dataset))
    digests = [sha256_file(file) if file.is_file() else None for file in files]
    drawn = (run.ws.curve_path(run.dataset), run.ws.ladder_path(run.dataset))
    optional = (*drawn, near.path(run), label_faults.path(run), *localise.paths(run, head))
    # Only those that are there, so that reports without them stay current.
    digests += [sha256_file(file) for file in optional if file.is_file()]
    previous = find_previous(run, head)
    if previous is not None:
        digests.append(sha256_file(previous))
    return digest_of([__version__, run.settings.model_dump(mode="json"), head, digests])


def write_report(run: RunContext, head: str, file: Path | None = None, figures: Path | None = None) -> list[Path]:
    """Write the report of a run, atomically, and its charts as SVG and PDF.

    Parameters
    ----------
    figures : folder of the charts; None for none

    Returns
    -------
    The files of the charts.
    """
    content = gather(run, read_run(run, head))
    write_atomic(file or path(run), render(content, digest_of_inputs(run, head)).encode())
    if figures is None:
        return []
    return [path for name, figure in content.figures.items() for path in save_vector(figure, figures, name)]
