"""Measures on held-out fit pictures, by which sweeps and recipes choose: mAP, or accuracy where every picture shows one
class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pipeline.io.errors import HeadError
from pipeline.metrics.accuracy import is_right, shows_one_class
from pipeline.metrics.average_precision import leave_out_certain, mean_average_precision
from pipeline.metrics.bootstrap import bootstrap_interval, interval, resample_counts, spread
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.table import PatchTable
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.results import number
from pipeline.scoring.scores import SplitScores

RESAMPLES = 400
"""Resamples of an interval: of every point one is computed."""


class HeldOutMeasure:
    """What a choice on held-out pictures is made by; a class without a positive or a negative one among them has no AP.

    Attributes
    ----------
    one_class : whether every fit picture shows one class, of those that are scored
    """

    def __init__(self, table: PatchTable, is_held_out: np.ndarray, metric: Literal["voc07", "voc12"]) -> None:
        self._table, self.is_held_out, self._metric = table, is_held_out, metric
        self._columns = _scored_columns(table)
        self.one_class = self.tells_one_class(table)
        self._labels = leave_out_certain(table.scored_labels[is_held_out])

    @classmethod
    def of_share(cls, table: PatchTable, share: float, metric: Literal["voc07", "voc12"]) -> HeldOutMeasure:
        """Return the measure on the held-out share of the fit pictures."""
        return cls(table, hold_out_pictures(table.picture_sha256, share), metric)

    @staticmethod
    def tells_one_class(table: PatchTable) -> bool:
        """Whether every picture shows one class, of those that are scored, so that accuracy decides."""
        return table.labelled and shows_one_class(table.picture_labels[:, _scored_columns(table)])

    @property
    def n_held_out(self) -> int:
        """Number of held-out pictures."""
        return len(self._labels)

    @property
    def by(self) -> Literal["accuracy", "mAP"]:
        """What decides."""
        return "accuracy" if self.one_class and self.n_held_out else "mAP"

    def choose(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return the row with the highest measure, the first of equal ones.

        Parameters
        ----------
        rows : each with what `of` measures

        Raises
        ------
        HeadError
            No row has a measure.
        """
        measured = [row for row in rows if row[f"held_out_{self.by}"] is not None]
        if not measured:
            raise HeadError(
                f"{self._table.dataset} {self._table.split}: no class has both a positive and a negative picture among "
                f"the {self.n_held_out} held out, so nothing can be chosen; raise held_out, or state what is chosen"
            )
        return max(measured, key=lambda row: row[f"held_out_{self.by}"])

    def of(self, seeds: Sequence[SplitScores], k: Aggregation) -> dict[str, Any]:
        """Return the mean over seeds of the mAP, and of the accuracy where it is defined."""
        found = {"held_out_mAP": number(float(np.mean([self._mean_ap(scores, k) for scores in seeds])))}
        if self.by == "accuracy":
            found["held_out_accuracy"] = number(float(np.mean([self._is_right(scores, k) for scores in seeds])))
        return found

    def spread_of(self, found: Sequence[SplitScores], k: Aggregation, seeds: Sequence[int]) -> dict[str, Any]:
        """Return what each seed came to, their deviation, and the interval over the held-out pictures."""
        if self.by == "accuracy":
            right = np.array([self._is_right(scores, k) for scores in found], float)
            values, name = right.mean(1).tolist(), "accuracy"
            drawn = right.mean(0) @ resample_counts(right.shape[1], RESAMPLES, 0) / right.shape[1]
            low, high = interval(drawn, measured=float(right.mean()))
        else:
            values, name = [self._mean_ap(scores, k) for scores in found], "mAP"
            scored = np.array([scores.by(k)[self.is_held_out] for scores in found])
            low, high = bootstrap_interval(scored, self._labels, self._metric, n_resamples=RESAMPLES)
        # A fit without chance is the same with every seed.
        values = values * len(seeds) if len(values) < len(seeds) else values
        return {
            "interval": {"low": number(low), "high": number(high)},
            "std": spread(values),
            "runs": [{"seed": seed, name: number(value)} for seed, value in zip(seeds, values, strict=True)],
        }

    def _mean_ap(self, scores: SplitScores, k: Aggregation) -> float:
        return mean_average_precision(scores.by(k)[self.is_held_out], self._labels, self._metric)[0]

    def _is_right(self, scores: SplitScores, k: Aggregation) -> np.ndarray:
        """Return which held-out pictures are taken for their class: bool ndarray; see `measure_confusion`."""
        never = scores.facts.head.never_learnt
        answers = np.array([self._table.classes[column] not in never for column in self._columns])
        values = scores.by(k)[self.is_held_out][:, self._columns]
        return is_right(values, self._table.picture_labels[self.is_held_out][:, self._columns], answers)


def _scored_columns(table: PatchTable) -> list[int]:
    return [column for column, name in enumerate(table.classes) if name not in table.unscored]


def changed_choice(table: PatchTable, held_out_share: float, by_accuracy: bool) -> list[str]:
    """Return how a choice on held-out pictures differs from that of versions before, for digests; empty if it does not.

    Parameters
    ----------
    by_accuracy : whether versions before chose by mAP where now accuracy decides
    """
    held_out = table.scored_labels[hold_out_pictures(table.picture_sha256, held_out_share)]
    certain = (held_out == 1).any(0) & ~(held_out == -1).any(0)
    one_class = by_accuracy and HeldOutMeasure.tells_one_class(table)
    return ["by accuracy"] * one_class + ["classes without a negative left out"] * bool(certain.any())
