"""Pictures of a run, from files to files: maps, highest right and wrong pictures, what a head is taught."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline.average_precision import average_precision
from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.dataset.picture import decode_annotated, decode_picture
from pipeline.dataset.voc import Annotation, Split, parse_annotation, read_split
from pipeline.errors import DatasetError, HeadError, SettingsError, brief, enumerate_problems
from pipeline.figures import style
from pipeline.figures.maps import map_sheet
from pipeline.figures.ranking import Ranked, ranking_sheet
from pipeline.figures.taught import positives_sheet, taught_sheet
from pipeline.files import write_whole
from pipeline.head.head import Head, check_joined, load_head, read_facts
from pipeline.patches.grid import grid_windows
from pipeline.patches.labels import label_patches, measure_overlap
from pipeline.photos import Look, PhotoReader, check_makes_maps
from pipeline.progress import track
from pipeline.run import sealed_store
from pipeline.scoring.results import check_scores, number
from pipeline.scoring.scores import SplitScores, applicable, effective, load_scores
from pipeline.settings import Aggregation
from pipeline.tables import Say, current_table
from pipeline.workspace import Workspace

N_AUTO = 6
"""Classes that are drawn where none are named: those with the highest scores."""
THUMBNAIL_PX = 320


def find_head(ws: Workspace, dataset: str | None, head: str | None) -> Head:
    """The fitted head that is meant: by its file, by its name and dataset, or the only one that there is.

    Raises
    ------
    HeadError
        There is none, or it cannot be told which of several is meant.
    """
    if head is not None and head.endswith(".safetensors"):
        return load_head(Path(head))
    name = head or ws.settings.head
    ws.settings.head_settings(name)  # refuses unknown names
    if dataset is not None:
        path = ws.head_path(dataset, name)
        if not path.is_file():
            raise HeadError(
                f"{dataset}: no head {name!r} with these settings (no {path}); make it with: "
                f"snakemake --cores 2 {ws.results}/{dataset}_map.json, or pipeline fit-head --dataset {dataset} "
                f"--head {name}, with the same settings"
            )
        return load_head(path)
    files = sorted((ws.results / "heads").glob(f"*-{name}-*.safetensors"))
    datasets = sorted({read_facts(path)["dataset"] for path in files})
    fitted = [each for each in datasets if ws.head_path(each, name).is_file()]
    if len(fitted) != 1:
        what = f"of {', '.join(fitted)}: say which with --dataset" if fitted else "with these settings"
        raise HeadError(
            f"{ws.results / 'heads'}: {len(fitted)} fitted heads {name!r} {what}; "
            "fit one with: pipeline fit-head --dataset NAME, or give the file of one with --head FILE.safetensors"
        )
    return load_head(ws.head_path(fitted[0], name))


@dataclass(frozen=True)
class SplitReader:
    """Looks at pictures of a split through its store: the trunk does not run.

    Parameters
    ----------
    split : None for the dataset's evaluation split
    """

    ws: Workspace
    head: Head
    dataset: str
    split: str | None
    say: Say

    def looks(self, ids: Sequence[str]) -> list[Look]:
        """
        Raises
        ------
        DatasetError
            Pictures that the split does not have; all are named.
        """
        manifest = load_manifest(self.dataset)
        name = self.split or manifest.eval
        check_makes_maps(self.head)
        table = current_table(self.ws, self.dataset, name, self.say)
        unknown = sorted(set(ids) - set(table.ids))
        if unknown:
            raise DatasetError(
                f"{self.dataset} {name}: neither a file nor a picture of this split\n{enumerate_problems(unknown)}\n"
                f"give the path of a photo, or an id such as {table.ids[0]} (of another split: --split)"
            )
        store = sealed_store(self.ws, self.dataset, name)
        check_joined(store, table)
        self.head.check_rows(store)
        paths = _paths(read_split(manifest, name, self.ws.settings.data_root))
        looks = []
        for i in track(ids, "pictures from the store", len(ids), "pictures"):
            index = table.ids.index(i)
            rows = np.arange(*table.first_row[index : index + 2])
            pixels = decode_picture(paths[i].read_bytes(), bool(table.apply_exif[index]), i)
            scores = self.head.patch_scores(store.read_rows(rows))
            looks.append(Look(i, pixels, table.box_xyxy[rows], self.head.classes, scores, self.head.scale))
        return looks


def _paths(split: Split) -> dict[str, Path]:
    return dict(zip(split.ids, split.paths, strict=True))


def choose_classes(classes: Sequence[str], wanted: Sequence[str], scores: np.ndarray) -> np.ndarray:
    """Columns of the named classes, in their order; of the highest scores where none are named.

    Raises
    ------
    SettingsError
        Names that are no classes.
    """
    unknown = [name for name in wanted if name not in classes]
    if unknown:
        raise SettingsError(f"--classes: no class {', '.join(map(brief, unknown))}; there are {', '.join(classes)}")
    if wanted:
        return np.array([classes.index(name) for name in dict.fromkeys(wanted)])
    return np.argsort(-scores, kind="stable")[:N_AUTO]


def aggregation_of(ws: Workspace, scale: str) -> Aggregation:
    """The configured one, or the maximum where these scores have no powers."""
    return ws.settings.aggregation if applicable(scale, [ws.settings.aggregation]) else "max"


def run_map(
    ws: Workspace,
    images: Sequence[str],
    dataset: str | None,
    split: str | None,
    head: str | None,
    classes: Sequence[str],
    out: Path,
    arrays: bool,
    highest: float | None,
    say: Say,
) -> list[dict[str, Any]]:
    """A sheet of maps a picture: of files, or of pictures of a split by their id.

    Parameters
    ----------
    arrays : also write the maps of all classes as ``.npz``
    highest : upper end of the scale; None for the highest value of each sheet

    Returns
    -------
    JSON objects: ``picture``, ``sheet`` (its path), ``scores`` of all classes, the highest first
    """
    fitted = find_head(ws, dataset, head)
    files = [image for image in images if Path(image).is_file()]
    ids = [image for image in images if image not in files]
    if ids and dataset is None:
        raise DatasetError(
            f"no such file: {', '.join(ids)}; give the path of a photo, or --dataset and an id of its split"
        )
    looks = (
        dict(zip(ids, SplitReader(ws, fitted, dataset, split, say).looks(ids), strict=True)) if dataset and ids else {}
    )
    reader = PhotoReader(ws, fitted) if files else None
    made, taken = [], set()
    for image in track(images, "maps", len(images), "pictures"):
        if image in looks:
            look = looks[image]
        else:
            assert reader is not None  # what is no id is a file
            look = reader.look(Path(image))
        name = look.name
        while name in taken:  # photos of one name from several folders
            name += "_"
        taken.add(name)
        k = aggregation_of(ws, look.scale)
        scores = look.picture_scores(k)
        columns = choose_classes(look.classes, classes, scores)
        sheet = map_sheet(
            look.pixels,
            look.name,
            [look.classes[c] for c in columns],
            [f"{scores[c]:.3g}" for c in columns],
            look.maps(columns),
            highest,
        )
        path = out / f"{name}_map.png"
        style.save(sheet, path)
        if arrays:
            buffer = io.BytesIO()
            maps = look.maps(np.arange(len(look.classes)))
            np.savez_compressed(buffer, maps=maps, classes=np.array(look.classes), scores=scores)
            write_whole(path.with_suffix(".npz"), buffer.getvalue())
        order = np.argsort(-scores, kind="stable")
        made.append(
            {
                "picture": image,
                "sheet": path.as_posix(),
                "k": k,
                "scores": {look.classes[c]: round(float(scores[c]), 6) for c in order},
            }
        )
    return made


def read_thumbnail(path: Path, apply_exif: bool, name: str) -> tuple[np.ndarray, float]:
    """A picture made small: its pixels, and by how much its sides were multiplied."""
    pixels = decode_picture(path.read_bytes(), apply_exif, name)
    factor = min(1.0, THUMBNAIL_PX / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)), factor


@dataclass(frozen=True)
class Ranking:
    """Scores of a labelled split and what its pictures show: for the highest right and wrong ones of each class."""

    ws: Workspace
    dataset: str
    split: str
    scores: SplitScores
    k: Aggregation
    labels: np.ndarray
    apply_exif: np.ndarray
    paths: dict[str, Path]
    annotations: dict[str, Annotation]

    def ap(self, name: str, metric: Literal["voc07", "voc12"]) -> float | None:
        """Average precision of a class; None where no picture shows it."""
        column = self.scores.classes.index(name)
        return number(average_precision(self.scores.by(self.k)[:, column], self.labels[:, column], metric))

    def of_class(self, name: str, n: int) -> tuple[list[Ranked], list[Ranked]]:
        """The `n` highest pictures that show a class, and the `n` highest that do not."""
        column = self.scores.classes.index(name)
        values, labels = self.scores.by(self.k)[:, column], self.labels[:, column]
        counted = np.flatnonzero((labels != 0) & ~np.isnan(values))
        order = counted[np.argsort(-values[counted], kind="stable")]
        found: dict[int, list[Ranked]] = {1: [], -1: []}
        for rank, index in enumerate(order.tolist(), start=1):
            same = found[int(labels[index])]
            if len(same) < n:
                i = self.scores.ids[index]
                pixels, factor = read_thumbnail(self.paths[i], bool(self.apply_exif[index]), i)
                annotation = self.annotations[i]
                box_xyxy = annotation.box_xyxy[annotation.class_index == column] * factor
                shows = tuple(self.scores.classes[c] for c in np.flatnonzero(self.labels[index] == 1))
                same.append(Ranked(rank, i, float(values[index]), shows, pixels, box_xyxy))
            if min(map(len, found.values())) == n:
                break
        return found[1], found[-1]


def read_ranking(ws: Workspace, dataset: str, split: str | None, head: str, say: Say) -> Ranking:
    """Scores and labels of a split, for `Ranking`.

    Raises
    ------
    StoreError
        Not scored yet.
    DatasetError
        The split has no labels.
    """
    manifest = load_manifest(dataset)
    split = split or manifest.eval
    table = current_table(ws, dataset, split, say)
    if not table.labelled:
        raise DatasetError(f"{dataset} {split}: has no labels, so that no picture is right or wrong")
    scores = load_scores(ws.scores_path(dataset, head, split))
    check_scores(scores, table)
    k = effective(ws.settings.aggregation, scores.aggregations)
    of_split = read_split(manifest, split, ws.settings.data_root)
    annotations = dict(zip(of_split.ids, of_split.annotations, strict=True))
    return Ranking(ws, dataset, split, scores, k, table.scored_labels, table.apply_exif, _paths(of_split), annotations)


def run_ranking(
    ws: Workspace,
    dataset: str,
    split: str | None,
    head: str,
    classes: Sequence[str],
    n: int,
    out: Path,
    say: Say,
) -> list[Path]:
    """A sheet a class: the highest right pictures and the highest wrong ones."""
    ranking = read_ranking(ws, dataset, split, head, say)
    metric = load_manifest(dataset).metric
    columns = choose_classes(ranking.scores.classes, classes or ranking.scores.classes, np.zeros(0))
    paths = []
    names = [ranking.scores.classes[c] for c in columns]
    for name in track(names, "sheets", len(names), "classes"):
        right, wrong = ranking.of_class(name, n)
        paths.append(out / f"{dataset}_{ranking.split}_{head}_{name}.png")
        style.save(ranking_sheet(name, ranking.ap(name, metric), right, wrong), paths[-1])
    return paths


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
