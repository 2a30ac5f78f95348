"""Training patches of a picture, by scale and label, from files to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.dataset.picture import decode_annotated
from pipeline.dataset.read import read_split
from pipeline.dataset.split import Annotation
from pipeline.dataset.voc_xml import parse_annotation
from pipeline.io.errors import DatasetError, SettingsError
from pipeline.io.messages import enumerate_problems
from pipeline.patches.grid import grid_windows
from pipeline.patches.labels import label_patches, measure_overlap
from pipeline.stages.workspace import Workspace
from pipeline.views.figures import style
from pipeline.views.figures.taught import positives_sheet, taught_sheet


def run_taught(
    ws: Workspace, images: Sequence[str], dataset: str, split: str | None, annotation: Path | None, out: Path
) -> list[dict[str, Any]]:
    """For each picture two sheets: its patches by scale and label, and its positives.

    Parameters
    ----------
    images : ids of the split; or, with `annotation`, one photo
    annotation : XML file of the devkit's form with the objects of the photo

    Returns
    -------
    JSON objects: ``picture``, ``sheet``, ``positives`` (paths), ``patches`` (numbers by label)
    """
    manifest = load_manifest(dataset)
    made = []
    for image, pixels, objects in _with_objects(ws, manifest, split or manifest.fit, images, annotation):
        box_xyxy, scale = grid_windows(pixels.shape[1], pixels.shape[0], ws.settings.grid)
        overlap = measure_overlap(box_xyxy, objects.box_xyxy, objects.class_index, objects.difficult)
        labels = label_patches(overlap, ws.settings.labels)
        name = Path(image).stem
        sheet = taught_sheet(
            pixels, name, box_xyxy, scale, labels, manifest.classes, objects.box_xyxy, objects.class_index
        )
        paths = out / f"{name}_patches.png", out / f"{name}_positives.png"
        style.save(sheet, paths[0])
        style.save(positives_sheet(pixels, f"{name}: positives", box_xyxy, labels, manifest.classes), paths[1])
        counts = {c: int((labels == index).sum()) for index, c in enumerate(manifest.classes)}
        counts = {c: n for c, n in counts.items() if n}
        counts |= {"background": int((labels == -1).sum()), "not used": int((labels == -2).sum())}
        made.append(
            {"picture": image, "sheet": paths[0].as_posix(), "positives": paths[1].as_posix(), "patches": counts}
        )
    return made


def _with_objects(
    ws: Workspace, manifest: Manifest, split: str, images: Sequence[str], annotation: Path | None
) -> list[tuple[str, np.ndarray, Annotation]]:
    """Pixels and objects of each picture."""
    if annotation is not None:
        if len(images) != 1:
            raise SettingsError(f"--annotation: is of one photo, got {len(images)}")
        try:
            data, objects = Path(images[0]).read_bytes(), parse_annotation(annotation.read_bytes(), manifest.classes)
        except OSError as error:
            raise DatasetError(f"{error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise DatasetError(f"{annotation}: {error}") from error
        return [(images[0], decode_annotated(data, objects.size_wh, images[0])[0], objects)]
    of_split = read_split(manifest, split, ws.settings.data_root)
    index = {i: n for n, i in enumerate(of_split.ids)}
    unknown = [image for image in images if image not in index]
    if unknown:
        raise DatasetError(
            f"{manifest.name} {split}: no such picture\n{enumerate_problems(unknown)}\n"
            "give ids of the split (another one: --split), or one photo and its objects with --annotation FILE.xml"
        )
    found = []
    for image in images:
        objects, path = of_split.annotations[index[image]], of_split.paths[index[image]]
        found.append((image, decode_annotated(path.read_bytes(), objects.size_wh, image)[0], objects))
    return found
