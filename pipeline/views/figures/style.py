"""What all figures share: size, colours, and how they are written."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from pipeline.io.atomic import write_atomic
from pipeline.io.names import make_distinct_part

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

DPI = 110
INK = "#1f2328"
QUIET = "#59636e"
RIGHT, WRONG = "#1a7f37", "#cf222e"
LINE, SECOND = "#2f7bd6", "#8b8f98"
"""Of charts: with enough contrast on white and on black."""
MAP_COLORS = mpl.colormaps["plasma"]
"""Even to the eye, also to one that does not tell red from green, and in grey."""
SAVED: dict[RcKeyType, Any] = {"svg.fonttype": "none", "svg.hashsalt": "pipeline"}
"""Text stays text, and equal figures give equal bytes."""


def class_colors(n: int) -> np.ndarray:
    """A colour a class: float ndarray of shape (n, 3). Twenty are well apart; more lie evenly around the circle."""
    if n <= 20:
        # Light and dark of a hue lie side by side in tab20: apart, neighbours in a list of classes differ most.
        twenty = mpl.colormaps["tab20"]
        assert isinstance(twenty, ListedColormap)
        return np.array(twenty.colors)[[*range(0, 20, 2), *range(1, 20, 2)]][:n]
    return mpl.colormaps["hsv"](np.arange(n) / n)[:, :3]


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure, drawn without a display."""
    return Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained", facecolor="white")


def bare(axes: mpl.axes.Axes) -> None:
    """Leave nothing but the picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def png(figure: Figure) -> bytes:
    """The bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, name: str, label: str) -> str:
    """An SVG element, transparent, whose ink is the colour of the text around it.

    Parameters
    ----------
    name : begins all ids in it, so that several stand on one page
    label : what it shows, for those who do not see it
    """
    buffer = io.StringIO()
    with mpl.rc_context(SAVED):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(QUIET, "currentColor")
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
    return re.sub(r'((?: id="|url\(#|href="#))', rf"\g<1>{name}-", text)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_atomic(path, png(figure))


VECTOR: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
"""Vector formats, and what their files say of themselves: no time, so that equal figures give equal bytes."""


def save_vector(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as SVG and as PDF, whole or not at all, with text as text.

    Parameters
    ----------
    name : of the files, without ending; characters that not every file system holds are replaced

    Returns
    -------
    The files.
    """
    paths = []
    for form, metadata in VECTOR.items():
        buffer = io.BytesIO()
        # Type 42: journals refuse the bitmaps' and type 3 fonts.
        with mpl.rc_context({**SAVED, "pdf.fonttype": 42}):
            figure.savefig(buffer, format=form, metadata=metadata)
        paths.append(folder / f"{make_distinct_part(name)}.{form}")
        write_atomic(paths[-1], buffer.getvalue())
    return paths


def jpeg_uri(pixels: np.ndarray, most_px: int | None = None, quality: int = 83) -> str:
    """A JPEG in a URI, for a page.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (height, width, 3)
    most_px : the longer side is made no longer than this
    quality : of the JPEG, at most 95
    """
    image = Image.fromarray(pixels)
    if most_px is not None:
        image.thumbnail((most_px, most_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
