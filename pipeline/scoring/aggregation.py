"""Aggregations: how the scores of a picture's patches become the score of the picture.

Sources: Oquab et al. (CVPR 2014) section 3.4, ``score(C) = mean_i y(C|P_i)^k``, k = 5. The maximum is the one of
their follow-up on weak supervision. The mean of the best patches and log-mean-exp lie between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from pipeline.head.settings import SETTINGS_OF_KIND, ScoreKind
from pipeline.io.messages import brief

AggregationKind = Literal["power", "max", "top", "lme", "pooled", "joined"]


@dataclass(frozen=True)
class Aggregation:
    """One way from patch scores to picture scores.

    Attributes
    ----------
    kind : the formula
        ``power``, the mean of k-th powers; ``max``, the maximum; ``top``, the mean of the T highest, of all where a
        picture has fewer; ``lme``, ``log(mean(exp(R s))) / R``; ``pooled`` and ``joined``, no function of patch
        scores: of a head that scores one vector per picture, and of several recipes
    amount : k, T or R; 0 for kinds without a parameter

    Examples
    --------
    >>> Aggregation.parse("5"), str(Aggregation.parse("top:20"))
    (Aggregation(kind='power', amount=5.0), 'top:20')
    >>> Aggregation.parse("top:0")
    Traceback (most recent call last):
    ...
    ValueError: must be a power in 1..100, max, top:T (T in 1..1000), lme:R (R in 0.1..100) or pooled, got 'top:0'
    """

    kind: AggregationKind
    amount: float = 0.0

    @classmethod
    def parse(cls, value: object) -> Aggregation:
        """Read an aggregation as settings and Python users write it.

        Parameters
        ----------
        value : an `Aggregation`; or a number, ``max``, ``top:T``, ``lme:R`` or ``pooled``

        Raises
        ------
        ValueError
            None of these, or a parameter out of range.
        """
        if isinstance(value, cls):
            return value
        text = str(value)
        name, _, number = text.partition(":")
        try:
            amount = float(number or text)
        except ValueError:
            amount = float("nan")
        if text in ("max", "pooled"):
            return MAXIMUM if text == "max" else POOLED
        if name == "top" and amount in range(1, 1001):
            return cls("top", amount)
        if name == "lme" and 0.1 <= amount <= 100:
            return cls("lme", float(f"{amount:g}"))
        if not number and 1 <= amount <= 100:
            return cls("power", amount)
        raise ValueError(
            f"must be a power in 1..100, max, top:T (T in 1..1000), lme:R (R in 0.1..100) or pooled, got {brief(value)}"
        )

    @classmethod
    def from_json(cls, value: AggregationLike) -> Aggregation:
        """Read `to_json`; unlike in settings, ``joined`` is allowed."""
        return JOINED if value == JOINED.kind else cls.parse(value)

    def to_json(self) -> float | str:
        """Return the form in settings, files and results: a float for a power, text for the others."""
        return self.amount if self.kind == "power" else str(self)

    def __str__(self) -> str:
        """Return the form in messages, tables and the keys of a sweep: ``5`` for a power, ``top:20``, ``max``."""
        if self.kind == "power":
            return f"{self.amount:g}"
        return f"{self.kind}:{self.amount:g}" if self.kind in ("top", "lme") else self.kind

    def in_words(self) -> str:
        """Return a sentence on how a picture's score follows from the scores of its patches.

        >>> Aggregation.parse(5).in_words()
        "A picture's score is the mean over its patches of the score to the power of 5."
        """
        number = f"{self.amount:g}"
        sentences: dict[AggregationKind, str] = {
            "power": f"A picture's score is the mean over its patches of the score to the power of {number}.",
            "max": "A picture's score is its highest patch's.",
            "top": f"A picture's score is the mean of its {number} highest patches'.",
            "lme": f"A picture's score is log(mean(exp({number} s))) / {number} over the scores s of its patches.",
            "pooled": "The head scores one vector per picture, pooled over its patches.",
            "joined": "A picture's score is joined from its scores by several recipes.",
        }
        return sentences[self.kind]

    def applies_to(self, score_kind: ScoreKind) -> bool:
        """Return whether scores of this kind have this aggregation: powers need scores in 0..1."""
        if self.kind in ("pooled", "joined") or score_kind == "pooled":
            return self.kind == score_kind
        return self.kind != "power" or score_kind in ("softmax", "logistic")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Aggregate the patches of pictures.

        Parameters
        ----------
        values : float64 ndarray of shape (n_pictures, n_patches, n_classes), one patch at least
            In 0..1 for a power.

        Returns
        -------
        float64 ndarray of shape (n_pictures, n_classes)

        Raises
        ------
        ValueError
            ``pooled`` or ``joined``, which are no functions of patch scores.

        Examples
        --------
        >>> scores = np.array([[[0.1], [0.2], [0.9]]])
        >>> [round(float(Aggregation.parse(k).apply(scores)[0, 0]), 3) for k in (1.0, 5.0, "lme:8", "top:2", "max")]
        [0.4, 0.197, 0.763, 0.55, 0.9]
        """
        if self.kind == "power":
            return (values if self.amount == 1 else values**self.amount).mean(1)
        if self.kind == "max":
            return values.max(1)
        if self.kind == "top":
            return _mean_of_highest(values, int(self.amount))
        if self.kind == "lme":
            return _log_mean_exp(values, self.amount)
        raise ValueError(f"{self} is no aggregation of patch scores")


AggregationLike: TypeAlias = Aggregation | float | str
"""An aggregation, or its form in settings: ``5.0``, ``"max"``, ``"top:20"``."""
MAXIMUM = Aggregation("max")
POOLED = Aggregation("pooled")
JOINED = Aggregation("joined")


def select_applicable(score_kind: ScoreKind, aggregations: Iterable[Aggregation]) -> tuple[Aggregation, ...]:
    """Select the aggregations that apply to scores of one kind; pooled scores have one, which need not be named.

    >>> [str(a) for a in select_applicable("log-odds", [Aggregation.parse(5), MAXIMUM])]
    ['max']
    >>> [str(a) for a in select_applicable("pooled", [MAXIMUM])]
    ['pooled']
    """
    if POOLED.applies_to(score_kind):
        return (POOLED,)
    return tuple(aggregation for aggregation in aggregations if aggregation.applies_to(score_kind))


def natural_aggregation(head: Mapping[str, Any]) -> Aggregation | None:
    """Return the aggregation by which a head was fitted: pooled vectors, or its best patches; None for other kinds.

    Heads whose patch scores are of any size have the maximum, since powers do not apply to them.

    Parameters
    ----------
    head : JSON object, settings of a head of any kind

    Examples
    --------
    >>> str(natural_aggregation({"kind": "weak", "top": 20})), str(natural_aggregation({"kind": "svm"}))
    ('top:20', 'pooled')
    """
    settings = SETTINGS_OF_KIND.get(head["kind"])
    scores_patches = getattr(settings, "scores_patches", True)
    if scores_patches is False or head.get("takes") == "pictures":  # a property where it follows from what is taken
        return POOLED
    if head["kind"] == "weak":
        return MAXIMUM if head["top"] == 1 else Aggregation("top", float(head["top"]))
    if not getattr(settings, "in_unit_range", True) or head.get("score_kind") == "log-odds":
        return MAXIMUM
    return None


def reported_aggregation(head: Mapping[str, Any], configured: Aggregation) -> Aggregation:
    """Return the configured aggregation where it applies to a head's scores, and the natural one of the head elsewhere.

    >>> weak = {"kind": "weak", "top": 1}
    >>> [str(reported_aggregation(weak, Aggregation.parse(k))) for k in (5, "lme:8")]
    ['max', 'lme:8']
    """
    natural = natural_aggregation(head)
    if natural is None or (natural != POOLED and configured.kind not in ("power", "pooled")):
        return configured
    return natural


def _mean_of_highest(values: np.ndarray, n_highest: int) -> np.ndarray:
    n_patches = values.shape[1]
    if n_highest < n_patches:
        values = np.partition(values, n_patches - n_highest, axis=1)[:, n_patches - n_highest :]
    return values.mean(1)


def _log_mean_exp(values: np.ndarray, sharpness: float) -> np.ndarray:
    # Relative to the maximum no exponential overflows, and the sum is at least 1.
    highest = values.max(1)
    return highest + np.log(np.exp(sharpness * (values - highest[:, None])).mean(1)) / sharpness
