"""Heat maps of pictures, from files to files: where in a picture each class is seen."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations.match import check_joined
from pipeline.activations.store import Store
from pipeline.dataset.picture import decode_image
from pipeline.dataset.split import Annotation
from pipeline.head.head import Head
from pipeline.io.atomic import write_atomic
from pipeline.io.errors import DatasetError, SettingsError, StoreError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.names import make_distinct_part, normalise
from pipeline.io.picture_file import PictureFile
from pipeline.io.progress import track
from pipeline.patches.table import PatchTable
from pipeline.patches.table_file import read_table
from pipeline.scoring.aggregation import reported_aggregation
from pipeline.stages import patches
from pipeline.stages.context import RunContext
from pipeline.stages.stored import open_rows
from pipeline.stages.workspace import Workspace
from pipeline.views.figures import style
from pipeline.views.figures.heat_maps import Tile, heat_map_sheet
from pipeline.views.photos import Look, Photo, PhotoReader, check_makes_heat_maps, look_at, shrink_for_display

SHEET_PX = 640
"""Longer side of the pictures of a sheet: more than they have on it."""
N_AUTO = 3
"""Classes of the highest scores that are drawn where none are named."""
LEAST_SHARE = 0.05
"""Of the highest score: classes below it are drawn only where they are named, or known to be in the picture."""
MOST_AUTO = 6
"""Classes that are drawn where none are named, with those that the picture is known to show."""


def turns_of(run: RunContext, split: str) -> dict[str, bool]:
    """Return whether each picture of a split is turned by EXIF, by digest; nothing without a patch table."""
    file = patches.path(run, split)
    try:
        return read_table(file).turns if file.is_file() else {}
    except StoreError:  # the commands that need it name it
        return {}


@dataclass(frozen=True)
class SplitReader:
    """Scores pictures of a split from its store: the trunk does not run.

    Parameters
    ----------
    table, store : of one split, joined
    paths, annotations : of the pictures by id
    """

    head: Head
    table: PatchTable
    store: Store
    paths: Mapping[str, PictureFile]
    annotations: Mapping[str, Annotation]

    def looks(self, ids: Sequence[str]) -> list[Look]:
        """
        Raises
        ------
        DatasetError
            Pictures that the split does not have; all are named.
        """
        table, head = self.table, self.head
        written = {normalise(i): i for i in table.ids}  # an id may be typed in another of Unicode's forms
        ids = [i if i in table.ids else written.get(normalise(i), i) for i in ids]
        unknown = sorted(set(ids) - set(table.ids))
        if unknown:
            raise DatasetError(
                f"{table.dataset} {table.split}: neither a file nor a picture of this split\n"
                f"{enumerate_problems(unknown)}\n"
                f"give the path of a photo, or an id such as {table.ids[0]} (of another split: --split)"
            )
        looks = []
        for i in track(ids, "pictures from the store", len(ids), "pictures"):
            index = table.ids.index(i)
            rows = np.arange(*table.first_row[index : index + 2])
            image = decode_image(self.paths[i].read_bytes(), bool(table.apply_exif[index]), i)
            pixels, box_xyxy = shrink_for_display(image), table.windows_of_picture(index).box_xyxy
            look = look_at(head, Photo(i, pixels, image.size, box_xyxy, self.store.read_rows(rows)))
            objects, labels = self._known(index)
            looks.append(replace(look, objects=objects, labels=labels))
        return looks

    def _known(self, index: int) -> tuple[Annotation, np.ndarray | None]:
        """Return what the annotation says of a picture, by the classes of the head."""
        table, classes = self.table, self.head.classes
        place = np.array([classes.index(c) if c in classes else -1 for c in table.classes], np.int64)
        objects = self.annotations[table.ids[index]]
        objects = replace(objects, class_index=place[objects.class_index])
        if not table.labelled:
            return objects, None
        labels = np.full(len(classes), -1, np.int8)
        labels[place[place >= 0]] = table.picture_labels[index][place >= 0]
        return objects, labels


def open_split_reader(run: RunContext, head: Head, split: str | None = None) -> SplitReader:
    """Open a split for the heat maps of its pictures.

    Parameters
    ----------
    split : None for the dataset's evaluation split

    Raises
    ------
    PipelineError
        The head scores no patches, or the split was not extracted.
    """
    check_makes_heat_maps(head)
    split = split or run.manifest.eval
    table, store = open_rows(run, split)
    check_joined(store, table)
    head.check_rows(store)
    of_split = run.split(split)
    return SplitReader(head, table, store, of_split.paths_by_id, of_split.annotations_by_id)


def join_names(parts: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Join the parts of class names that have commas, as ``--classes`` splits at each comma.

    >>> join_names(["salt", "pepper", "dog"], ["dog", "salt, pepper"])
    ['salt, pepper', 'dog']
    """
    plain = {",".join(part.strip() for part in normalise(name).split(",") if part.strip()): name for name in classes}
    names, at = [], 0
    while at < len(parts):
        ends = range(len(parts), at, -1)
        end = next((end for end in ends if ",".join(map(normalise, parts[at:end])) in plain), at + 1)
        names.append(plain.get(",".join(map(normalise, parts[at:end])), parts[at]))
        at = end
    return names


def choose_classes(
    classes: Sequence[str], wanted: Sequence[str], scores: np.ndarray, shown: np.ndarray | None = None
) -> np.ndarray:
    """Columns of the named classes, in their order; where none are named, those of the highest scores, up to three.

    Parameters
    ----------
    shown : bool ndarray of shape (n_classes,), of the classes that are drawn in any case where none are named; at most
        `MOST_AUTO`

    Raises
    ------
    SettingsError
        Names that are no classes.

    Examples
    --------
    >>> scores, shown = np.array([0.1, 0.5, 0.2, 0.4, 0.3]), np.array([True, False, False, True, False])
    >>> choose_classes("abcde", [], scores, shown).tolist()
    [1, 3, 4, 0]
    """
    wanted = join_names(wanted, classes)
    unknown = [name for name in wanted if name not in classes]
    if unknown:
        raise SettingsError(f"--classes: no class {', '.join(map(brief, unknown))}; there are {', '.join(classes)}")
    if wanted:
        return np.array([classes.index(name) for name in dict.fromkeys(wanted)])
    order = np.argsort(-scores, kind="stable")
    best = order[:N_AUTO]
    if scores[best[0]] > 0:
        best = best[scores[best] >= LEAST_SHARE * scores[best[0]]]
    drawn = np.zeros(len(scores), bool) if shown is None else shown.copy()
    drawn[best] = True
    return order[drawn[order]][:MOST_AUTO]


@dataclass(frozen=True)
class HeatMapOptions:
    """How heat maps are drawn.

    Attributes
    ----------
    classes : names; none for those with the highest scores
    out : folder of the sheets
    arrays : also write the heat maps of all classes as ``.npz``, at the size in which the picture is shown, with the
        ``size_wh`` of the picture itself
    highest : upper end of the scale; None for the highest value of each sheet
    """

    classes: Sequence[str] = ()
    out: Path = Path("maps")
    arrays: bool = False
    highest: float | None = None


def tiles_of(look: Look, columns: np.ndarray, scores: np.ndarray) -> list[Tile]:
    """Heat maps of some classes with their score for the picture, and with the boxes of known objects."""
    tiles = []
    for column, values in zip(columns.tolist(), look.smooth_maps(columns), strict=True):
        note, boxes = f"{scores[column]:.3g}", look.boxes_of(column)
        if look.labels is not None:
            # Without a difficult object, a label that counts neither way is not known.
            neither = "difficult" if boxes[1].any() else "not known"
            note += {1: ", in the picture", 0: f", {neither}", -1: ", not in it"}[int(look.labels[column])]
        tiles.append(Tile(look.classes[column], note, values, *boxes))
    return tiles


def draw_heat_maps(
    ws: Workspace,
    head: Head,
    images: Sequence[str],
    options: HeatMapOptions,
    run: RunContext | None = None,
    split: str | None = None,
) -> list[dict[str, Any]]:
    """Draw one sheet of heat maps per picture: of files, or of pictures of a split by their id.

    Parameters
    ----------
    images : paths of photos, or ids
    run : of the dataset whose pictures are given by id; None where none was named
    split : of these pictures; None for the evaluation split

    Returns
    -------
    JSON objects: ``picture``, ``sheet`` (its path), ``scores`` of all classes, the highest first
    """
    files = [image for image in images if Path(image).is_file()]
    ids = [image for image in images if image not in files]
    if ids and run is None:
        raise DatasetError(
            f"no such file: {', '.join(ids)}; give the path of a photo, or --dataset and an id of its split"
        )
    looks = dict(zip(ids, open_split_reader(run, head, split).looks(ids), strict=True)) if run and ids else {}
    reader = PhotoReader(ws, head) if files else None
    known_turns = turns_of(run, split or run.manifest.eval) if run and files else {}
    configured = ws.settings.main_aggregation
    made, taken = [], set()
    for image in track(images, "heat maps", len(images), "pictures"):
        if image in looks:
            look = looks[image]
        else:
            assert reader is not None  # what is no id is a file
            look = reader.look(Path(image), known_turns)
        name = make_distinct_part(look.name)
        while name in taken:  # photos of one name from several folders
            name += "_"
        taken.add(name)
        k = reported_aggregation(head.facts.settings, configured)
        scores = look.picture_scores(k)
        shown = None if look.labels is None else look.labels == 1
        columns = choose_classes(look.classes, options.classes, scores, shown)
        drawn = look.shrunk(SHEET_PX)
        sheet = heat_map_sheet(drawn.pixels, look.name, tiles_of(drawn, columns, scores), options.highest)
        path = options.out / f"{name}_map.png"
        style.save(sheet, path)
        if options.arrays:
            buffer = io.BytesIO()
            maps = look.maps(np.arange(len(look.classes)))
            np.savez_compressed(
                buffer, maps=maps, classes=np.array(look.classes), scores=scores, size_wh=np.array(look.size_wh)
            )
            write_atomic(path.with_suffix(".npz"), buffer.getvalue())
        order = np.argsort(-scores, kind="stable")
        made.append(
            {
                "picture": image,
                "sheet": path.as_posix(),
                "k": k.to_json(),
                "scores": {look.classes[c]: round(float(scores[c]), 6) for c in order},
            }
        )
    return made
