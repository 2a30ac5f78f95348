"""Names of the formats of annotations other than VOC's, apart from their readers: help texts need no more."""

from __future__ import annotations

from typing import Literal, get_args

Annotated = Literal["coco", "yolo", "labelme", "open-images", "imagefolder", "label-studio"]
ANNOTATED: tuple[str, ...] = get_args(Annotated)
"""Values of a manifest's ``layout``, and of ``pipeline data new --layout``."""
