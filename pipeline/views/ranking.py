"""The highest right and wrong pictures of a class, from files to files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pipeline.dataset.picture import decode_image
from pipeline.dataset.split import Annotation
from pipeline.io.errors import DatasetError
from pipeline.io.names import make_distinct_part
from pipeline.io.picture_file import PictureFile
from pipeline.io.progress import track
from pipeline.metrics.average_precision import average_precision
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.evaluation import why_undefined
from pipeline.scoring.results import check_scores
from pipeline.scoring.scores import SplitScores
from pipeline.stages import score
from pipeline.stages.context import RunContext
from pipeline.stages.patches import current_table
from pipeline.views.figures import style
from pipeline.views.figures.ranking import Ranked, ranking_sheet
from pipeline.views.heat_maps import choose_classes

THUMBNAIL_PX = 320


def read_thumbnail(path: PictureFile, apply_exif: bool, name: str) -> tuple[np.ndarray, float]:
    """A picture made small: its pixels, and by how much its sides were multiplied."""
    image = decode_image(path.read_bytes(), apply_exif, name)
    factor = min(1.0, THUMBNAIL_PX / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS)), factor


@dataclass(frozen=True)
class Ranking:
    """Scores of a labelled split and what its pictures show: for the highest right and wrong ones of each class."""

    split: str
    metric: Literal["voc07", "voc12"]
    scores: SplitScores
    k: Aggregation
    labels: np.ndarray
    apply_exif: np.ndarray
    paths: dict[str, PictureFile]
    annotations: dict[str, Annotation]
    undefined: Mapping[str, str]

    def measured(self, name: str) -> str:
        """Return the average precision of a class, in words; why it has none, as in the result."""
        column = self.scores.classes.index(name)
        if name in self.undefined or not (self.labels[:, column] == 1).any():
            return f"no AP: {self.undefined.get(name, 'not scored')}"
        ap = average_precision(self.scores.by(self.k)[:, column], self.labels[:, column], self.metric)
        return f"AP {100 * ap:.1f} %"

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


def read_ranking(run: RunContext, split: str | None, head: str) -> Ranking:
    """Read scores and labels of a split.

    Raises
    ------
    StoreError
        Not scored yet.
    DatasetError
        The split has no labels.
    """
    split = split or run.manifest.eval
    table = current_table(run, split)
    if not table.labelled:
        raise DatasetError(f"{run.dataset} {split}: has no labels, so that no picture is right or wrong")
    scores = score.require(run, head, split)
    check_scores(scores, table)
    k = scores.resolve(run.settings.aggregation)
    of_split = run.split(split)
    annotations = of_split.annotations_by_id
    paths = of_split.paths_by_id
    metric, undefined = run.manifest.metric, why_undefined(table, scores)
    return Ranking(split, metric, scores, k, table.scored_labels, table.apply_exif, paths, annotations, undefined)


def draw_rankings(
    run: RunContext, split: str | None, head: str, classes: Sequence[str], n: int, out: Path
) -> list[Path]:
    """Draw one sheet per class: the `n` highest right pictures and the `n` highest wrong ones."""
    ranking = read_ranking(run, split, head)
    columns = choose_classes(ranking.scores.classes, classes or ranking.scores.classes, np.zeros(0))
    paths = []
    names = [ranking.scores.classes[c] for c in columns]
    for name in track(names, "sheets", len(names), "classes"):
        right, wrong = ranking.of_class(name, n)
        paths.append(out / f"{run.dataset}_{ranking.split}_{head}_{make_distinct_part(name)}.png")
        style.save(ranking_sheet(name, ranking.measured(name), right, wrong), paths[-1])
    return paths
