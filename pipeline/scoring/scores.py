"""Scores of a split: one value per aggregation, picture and class, with the facts of their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.head.facts import HeadFacts
from pipeline.io.errors import HeadError
from pipeline.scoring.aggregation import JOINED, Aggregation, AggregationLike, reported_aggregation


@dataclass(frozen=True)
class ScoreFacts:
    """What scores were computed from.

    Attributes
    ----------
    dataset, split : of the pictures
    fingerprint : of the store of the rows
    rows_digest, pictures_digest : of the patch table
    head : facts of the head
    n_scored : pictures with scores, where only some were wanted; None for all
    device : kind of the device that scored patches
    joined : JSON object, of scores that were joined from several recipes: ``recipe`` and how it joins them
    """

    dataset: str
    split: str
    fingerprint: str
    rows_digest: str
    pictures_digest: str
    head: HeadFacts
    n_scored: int | None = None
    device: str = "cpu"
    joined: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object in files."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "fingerprint": self.fingerprint,
            "rows": self.rows_digest,
            "pictures": self.pictures_digest,
            **({} if self.n_scored is None else {"scored": self.n_scored}),
            **({} if self.device == "cpu" else {"device": self.device}),
            "head": self.head.to_dict(),
            **self.joined,
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> ScoreFacts:
        """Read `to_dict`.

        Raises
        ------
        KeyError
            A missing fact.
        """
        known = ("dataset", "split", "fingerprint", "rows", "pictures", "head", "scored", "device")
        return cls(
            facts["dataset"],
            facts["split"],
            facts["fingerprint"],
            facts["rows"],
            facts["pictures"],
            HeadFacts.from_dict(facts["head"]),
            facts.get("scored"),
            facts.get("device", "cpu"),
            {name: value for name, value in facts.items() if name not in known},
        )


@dataclass(frozen=True)
class SplitScores:
    """Picture scores of one head over one split.

    Attributes
    ----------
    scores : float64 ndarray of shape (n_aggregations, n_pictures, n_classes)
    aggregations : of the first axis: those that apply to the head's scores
    ids, classes : names of the other axes
    facts : what the scores were computed from
    peak_xy : float32 ndarray of shape (n_pictures, n_classes, 2), highest points of the heat maps
        (`heat_maps.Peaks`); None for heads that score whole pictures, and for splits without boxes or labels
    """

    scores: np.ndarray
    aggregations: tuple[Aggregation, ...]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    facts: ScoreFacts
    peak_xy: np.ndarray | None = None

    def by(self, aggregation: AggregationLike) -> np.ndarray:
        """Return the scores (n_pictures, n_classes) of one aggregation, such as ``5.0`` or ``"max"``.

        Raises
        ------
        HeadError
            It was not computed; the message names the computed ones.
        """
        wanted = Aggregation.from_json(aggregation)
        if wanted not in self.aggregations:
            computed = ", ".join(map(str, self.aggregations))
            raise HeadError(f"no scores for k={wanted} by head {self.facts.head.name!r}; choose k among {computed}")
        return self.scores[self.aggregations.index(wanted)]

    def resolve(self, aggregation: AggregationLike) -> Aggregation:
        """Return the aggregation to report where `aggregation` is configured: the head's own where that cannot be."""
        if self.aggregations == (JOINED,):
            return JOINED
        return reported_aggregation(self.facts.head.settings, Aggregation.from_json(aggregation))

    def __repr__(self) -> str:
        facts = self.facts
        return (
            f"<scores of {facts.dataset} {facts.split} by head {facts.head.name}: {len(self.ids):,} pictures x "
            f"{len(self.classes):,} classes, k = {', '.join(map(str, self.aggregations))}>"
        )
