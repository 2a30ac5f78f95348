"""Training patches of a picture, by scale and label, from files to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.picture import decode_annotated
from pipeline.dataset.split import Annotation
from pipeline.dataset.voc_xml import parse_annotation
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import DatasetError, SettingsError
from pipeline.io.messages import enumerate_problems
from pipeline.io.names import make_distinct_part
from pipeline.patches.grid import grid_windows
from pipeline.patches.labels import BACKGROUND, UNUSED, label_patches, measure_overlap
from pipeline.stages.boxes import refuse_without_boxes
from pipeline.stages.context import RunContext
from pipeline.stages.patches import current_table
from pipeline.views.figures import style
from pipeline.views.figures.taught import positives_sheet, taught_sheet


def draw_taught(
    run: RunContext, images: Sequence[str], split: str | None, annotation: Path | None, out: Path
) -> list[dict[str, Any]]:
    """Draw two sheets per picture: its patches by scale and label, and its positives.

    Parameters
    ----------
    images : ids of the split; or, with `annotation`, one photo
    annotation : XML file of the devkit's form with the objects of the photo

    Returns
    -------
    JSON objects: ``picture``, ``sheet``, ``positives`` (paths), ``patches`` (numbers by label)
    """
    manifest, made = run.manifest, []
    if annotation is None:
        instead = (
            "the labels of its pictures are all that heads learn from, or give one photo with --annotation FILE.xml"
        )
        refuse_without_boxes(manifest, "a drawing of labelled patches", instead)
    for image, pixels, objects in _with_objects(run, split or manifest.fit, images, annotation):
        box_xyxy, scale = grid_windows(pixels.shape[1], pixels.shape[0], run.settings.grid)
        overlap = measure_overlap(box_xyxy, objects.box_xyxy, objects.class_index, objects.difficult)
        labels = label_patches(overlap, run.settings.labels)
        name = make_distinct_part(Path(image).stem if annotation is not None else image)
        sheet = taught_sheet(
            pixels,
            image if annotation is None else Path(image).stem,
            box_xyxy,
            scale,
            labels,
            manifest.classes,
            objects.box_xyxy,
            objects.class_index,
        )
        paths = out / f"{name}_patches.png", out / f"{name}_positives.png"
        style.save(sheet, paths[0])
        style.save(positives_sheet(pixels, f"{name}: positives", box_xyxy, labels, manifest.classes), paths[1])
        counts = {c: int((labels == index).sum()) for index, c in enumerate(manifest.classes)}
        counts = {c: n for c, n in counts.items() if n}
        counts |= {"background": int((labels == BACKGROUND).sum()), "not used": int((labels == UNUSED).sum())}
        made.append(
            {"picture": image, "sheet": paths[0].as_posix(), "positives": paths[1].as_posix(), "patches": counts}
        )
    return made


def _with_objects(
    run: RunContext, split: str, images: Sequence[str], annotation: Path | None
) -> list[tuple[str, np.ndarray, Annotation]]:
    """Return pixels and objects of each picture."""
    if annotation is not None:
        if len(images) != 1:
            raise SettingsError(f"--annotation: is of one photo, got {len(images)}")
        try:
            data, objects = (
                Path(images[0]).read_bytes(),
                parse_annotation(annotation.read_bytes(), run.manifest.classes),
            )
        except OSError as error:
            raise DatasetError(f"{error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise DatasetError(f"{annotation}: {error}") from error
        decoded = decode_annotated(data, objects.size_wh, images[0], box_xyxy=objects.box_xyxy)
        return [(images[0], decoded.pixels, objects)]
    of_split = run.split(split)
    index = {i: n for n, i in enumerate(of_split.ids)}
    unknown = [image for image in images if image not in index]
    if unknown:
        raise DatasetError(
            f"{run.dataset} {split}: no such picture\n{enumerate_problems(unknown)}\n"
            "give ids of the split (another one: --split), or one photo and its objects with --annotation FILE.xml"
        )
    found = []
    for image in images:
        objects, path = of_split.annotations[index[image]], of_split.paths[index[image]]
        data = path.read_bytes()
        decoded = decode_annotated(data, objects.size_wh, image, box_xyxy=objects.box_xyxy)
        if not decoded.is_told:  # the patch table holds what was decided
            turned = current_table(run, split).turns.get(sha256_bytes(data), True)
            decoded = decode_annotated(data, objects.size_wh, image, box_xyxy=objects.box_xyxy, otherwise=turned)
        found.append((image, decoded.pixels, objects))
    return found
