"""The measurement of one head on one split: average precision, accuracy, where heat maps point, what says nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.read import is_official
from pipeline.dataset.split import Annotation
from pipeline.metrics.accuracy import measure_confusion, shows_one_class
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.heat_maps import point_at
from pipeline.scoring.results import Result, check_scores, number, versions
from pipeline.scoring.scores import SplitScores

POINTING = (
    "of the pictures that show a class, the share whose map of it is highest inside of a box of it (pointing game); "
    "the mean is over classes; middle: the same for the middle of each picture in place of the map"
)
ACCURACY = (
    "each picture shows one class, and is taken for the class of its highest score; undecided: its highest score is "
    "that of several classes, or it has none, which counts as wrong; a class that was never learnt is no answer"
)


@dataclass(frozen=True)
class Evaluation:
    """The measurement of one head on one split.

    Parameters
    ----------
    scores : of the head on the split
    table, manifest : of the split, and of its dataset
    k : aggregation of the scores that are reported
    trunk : name of the trunk
    seconds : by stage
    command : that evaluates
    fit_pictures : SHA-256 of the files that the head was fitted on; empty where they are not known

    Raises
    ------
    StoreError
        The scores are of other pictures than the table.
    """

    scores: SplitScores
    table: PatchTable
    manifest: Manifest
    k: Aggregation
    trunk: str
    seconds: dict[str, float]
    command: str
    fit_pictures: Collection[str] = ()

    def __post_init__(self) -> None:
        check_scores(self.scores, self.table)

    def result(self, annotations: Mapping[str, Annotation] | None = None) -> Result:
        """Measure a labelled split.

        Parameters
        ----------
        annotations : of each id of the table, to measure where heat maps point
        """
        table = self.table
        mean, each = self._mean_average_precision(self.k)
        by_class = {c: ap for c, ap in zip(table.classes, each, strict=True) if c not in table.unscored}
        reasons = self._why_undefined()
        official = self._is_official()
        notes = [self._subset_note()] if self.manifest.official and not official else []
        notes += [*self._skipped_notes(), *self._notes_on_twins(), *_notes_on_undefined(reasons)]
        notes += self._notes_on_constants(by_class)
        return Result(
            **self._origin(),
            mAP=number(mean),
            AP={c: number(ap) for c, ap in by_class.items()},
            undefined=list(reasons),
            k_sweep={str(a): number(self._mean_average_precision(a)[0]) for a in self.scores.aggregations},
            pointing=self._pointing(annotations),
            official=official,
            notes=notes,
            why_undefined=reasons or None,
            **self._accuracy(),
        )

    def unlabelled(self) -> Result:
        """Return the result on a split that only an evaluation server can measure: everything except AP."""
        return Result(
            **self._origin(),
            mAP=None,
            AP={c: None for c in self.table.classes if c not in self.table.unscored},
            undefined=[],
            k_sweep={},
            pointing=None,
            official=False,
            notes=self._skipped_notes(),
        )

    @property
    def _labels(self) -> np.ndarray:
        """Labels of the pictures, 0 (left out) for classes that are not scored or have no AP."""
        reasons = self._why_undefined()
        return np.where([c not in reasons for c in self.table.classes], self.table.scored_labels, np.int8(0))

    def _mean_average_precision(self, aggregation: Aggregation) -> tuple[float, np.ndarray]:
        return mean_average_precision(self.scores.by(aggregation), self._labels, self.manifest.metric)

    def _why_undefined(self) -> dict[str, str]:
        return why_undefined(self.table, self.scores)

    def _notes_on_constants(self, by_class: Mapping[str, float]) -> list[str]:
        """Return a note on the classes with an AP for which every picture has the same score."""
        table, values = self.table, self.scores.by(self.k)
        constant = [
            name
            for column, name in enumerate(table.classes)
            if not math.isnan(by_class.get(name, math.nan))
            and len(np.unique(values[table.picture_labels[:, column] != 0, column])) == 1
        ]
        return [f"one score for all pictures, so that AP is chance: {', '.join(constant)}"] if constant else []

    def _accuracy(self) -> dict[str, Any]:
        """Measure accuracy where every picture shows one of the scored classes; no entries elsewhere."""
        table, never_learnt = self.table, self.scores.facts.head.never_learnt
        columns = [column for column, name in enumerate(table.classes) if name not in table.unscored]
        labels, classes = table.picture_labels[:, columns], [table.classes[c] for c in columns]
        if not shows_one_class(labels):
            return {}
        answers = np.array([name not in never_learnt for name in classes])
        found = measure_confusion(self.scores.by(self.k)[:, columns], labels, answers)
        return {
            "accuracy": number(found.accuracy),
            "balanced_accuracy": number(found.balanced_accuracy),
            "confusion": {
                "definition": ACCURACY,
                "classes": classes,
                "counts": found.counts.tolist(),
                "undecided": {c: int(n) for c, n in zip(classes, found.undecided, strict=True) if n},
            },
        }

    def _is_official(self) -> bool:
        head, table = self.scores.facts.head, self.table
        return is_official(self.manifest, table.split, len(table.ids)) and is_official(
            self.manifest, head.split, head.pictures["used"]
        )

    def _subset_note(self) -> str:
        head, table = self.scores.facts.head, self.table
        fit_count, eval_count = (self.manifest.splits[split].pictures for split in (head.split, table.split))
        return (
            f"not the official splits: {head.split} has {head.pictures['used']:,} of {fit_count:,} pictures, "
            f"{table.split} {len(table.ids):,} of {eval_count:,}; this mAP compares with no published one"
        )

    def _skipped_notes(self) -> list[str]:
        head, table = self.scores.facts.head, self.table
        if not (head.skipped or table.skipped):
            return []
        return [f"bad pictures left out: {len(head.skipped)} of {head.split}, {len(table.skipped)} of {table.split}"]

    def _notes_on_twins(self) -> list[str]:
        """Return a note on the pictures that the head was fitted on, whatever their names."""
        table, fit_split = self.table, self.scores.facts.head.split
        known = set(self.fit_pictures)
        twins = [i for i, digest in zip(table.ids, table.picture_sha256, strict=True) if digest in known]
        if not twins:
            return []
        return [
            f"{len(twins)} of {len(table.ids)} pictures of {table.split} have the bytes of pictures of {fit_split}, on "
            f"which the head was fitted, so results are too good: {', '.join(twins[:5])}"
            + (f" and {len(twins) - 5} more" if len(twins) > 5 else "")
        ]

    def _pointing(self, annotations: Mapping[str, Annotation] | None) -> dict[str, Any] | None:
        """Measure how well heat maps localise; None without peaks or annotations."""
        table, peak_xy = self.table, self.scores.peak_xy
        if peak_xy is None or annotations is None:
            return None
        of_pictures = [annotations[i] for i in table.ids]
        never_learnt = self.scores.facts.head.never_learnt
        labels = np.where([c not in never_learnt for c in table.classes], table.scored_labels, np.int8(0))
        each = point_at(peak_xy, labels, of_pictures)
        # The score of always pointing at the middle, where objects often are.
        middle = np.broadcast_to(table.size_wh[:, None] / 2, peak_xy.shape)
        by_middle = point_at(middle, labels, of_pictures)
        counted = ~np.isnan(each)
        by_class = zip(table.classes, each, strict=True)
        return {
            "definition": POINTING,
            "mean": number(float(each[counted].mean())) if counted.any() else None,
            "middle": number(float(by_middle[counted].mean())) if counted.any() else None,
            "share": {c: number(share) for c, share in by_class if c not in table.unscored},
        }

    def _origin(self) -> dict[str, Any]:
        """Return the fields of a result that do not depend on labels."""
        table, head = self.table, self.scores.facts.head
        layer = head.how["how.layer"]
        return {
            "dataset": table.dataset,
            "split": table.split,
            "fit_split": head.split,
            "metric": self.manifest.metric,
            "k": self.k,
            "recipe": {"head": head.settings, "reading": head.reading, "layer": layer},
            "head": head.name,
            "trunk": self.trunk,
            "layer": layer,
            "fingerprints": {
                "fit": head.fingerprint,
                "eval": self.scores.facts.fingerprint,
                "labels_fit": head.labels_digest,
                "labels_eval": table.labels_digest(LabelSettings.model_validate(head.reading)),
            },
            "pictures": {
                "fit": {"used": head.pictures["used"], "skipped": head.pictures["skipped"]},
                "eval": {"used": len(table.ids), "skipped": len(table.skipped)},
            },
            "skipped": {"fit": head.skipped, "eval": [list(item) for item in table.skipped]},
            "patches": head.patches,
            "seed": head.seed,
            "loss": head.epochs,
            "seconds": self.seconds,
            "versions": versions(),
            "command": self.command,
        }


def why_undefined(table: PatchTable, scores: SplitScores) -> dict[str, str]:
    """Return the scored classes of a labelled split without an AP by a head's scores, each with the reason."""
    head = scores.facts.head
    reasons = {}
    for column, name in enumerate(table.classes):
        of_class = table.picture_labels[:, column]
        if name in table.unscored:
            continue
        if not (of_class == 1).any():
            reasons[name] = "no positive picture"
        elif not (of_class == -1).any():
            reasons[name] = "no negative picture, AP would be 100 % whatever the scores"
        elif name in head.never_learnt:
            reasons[name] = f"never learnt, {head.split} has {head.never_learnt[name]} to fit on"
    return reasons


def _notes_on_undefined(reasons: Mapping[str, str]) -> list[str]:
    """Return one note per reason, with all classes that have no AP for it."""
    classes: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        classes.setdefault(reason, []).append(name)
    return [f"{reason}, left out of the mean: {', '.join(names)}" for reason, names in classes.items()]
