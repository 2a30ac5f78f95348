"""Accuracy where every picture shows one class: the class of the highest score, and what is taken for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def shows_one_class(labels: np.ndarray) -> bool:
    """Return whether every picture has one positive class and no difficult one, of two classes at least.

    Parameters
    ----------
    labels : int ndarray of shape (n_pictures, n_classes), 1, -1, or 0 (difficult)

    Examples
    --------
    >>> shows_one_class(np.array([[1, -1], [-1, 1]])), shows_one_class(np.array([[1, -1], [1, 1]]))
    (True, False)
    """
    sure = (labels != 0).all() and ((labels == 1).sum(1) == 1).all()
    return bool(len(labels) and labels.shape[1] > 1 and sure)


@dataclass(frozen=True, repr=False)
class Confusion:
    """What pictures of each class are taken for.

    Attributes
    ----------
    counts : int64 ndarray of shape (n_classes, n_classes), pictures by their class (row) and answer (column)
    undecided : int64 ndarray of shape (n_classes,), pictures of each class without an answer
    """

    counts: np.ndarray
    undecided: np.ndarray

    def __repr__(self) -> str:
        n_classes, n_pictures = len(self.counts), int(self.counts.sum() + self.undecided.sum())
        return (
            f"<Confusion of {n_pictures:,} pictures of {n_classes:,} classes: accuracy {100 * self.accuracy:.1f} %, "
            f"balanced {100 * self.balanced_accuracy:.1f} %, {int(self.undecided.sum()):,} undecided>"
        )

    @property
    def accuracy(self) -> float:
        """Share of the pictures whose answer is their class, 0..1; a picture without an answer counts as wrong."""
        return float(np.trace(self.counts) / (self.counts.sum() + self.undecided.sum()))

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the accuracy of each class that some picture shows, 0..1."""
        totals = self.counts.sum(1) + self.undecided
        return float((np.diag(self.counts)[totals > 0] / totals[totals > 0]).mean())


def _decide(
    scores: np.ndarray, labels: np.ndarray, answers: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the class that each picture shows, the one that it is taken for, and whether it is taken for one at all.

    Parameters, errors as of `measure_confusion`.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores and labels must have one shape (n, n_classes), got {scores.shape}, {labels.shape}")
    if not shows_one_class(labels):
        raise ValueError("every picture must have one positive class and no difficult one, of two classes at least")
    values = np.where(np.isnan(scores), -np.inf, scores)
    if answers is not None:
        values = np.where(answers, values, -np.inf)
    highest = values.max(1, keepdims=True)
    is_highest = (values == highest) & (highest > -np.inf)
    return labels.argmax(1), is_highest.argmax(1), is_highest.sum(1) == 1


def is_right(scores: np.ndarray, labels: np.ndarray, answers: np.ndarray | None = None) -> np.ndarray:
    """Return which pictures are taken for their class: bool ndarray (n_pictures,), whose mean is the accuracy.

    Parameters, errors as of `measure_confusion`.
    """
    shown, taken_for, is_decided = _decide(scores, labels, answers)
    return is_decided & (shown == taken_for)


def measure_confusion(scores: np.ndarray, labels: np.ndarray, answers: np.ndarray | None = None) -> Confusion:
    """Count what each picture is taken for: the class of its highest score.

    A picture whose highest score is shared by several classes has no answer, nor has a picture without scores (NaN).
    So neither the order nor the names of classes decide anything.

    Parameters
    ----------
    scores : float ndarray of shape (n_pictures, n_classes)
    labels : int ndarray of the same shape; see `shows_one_class`
    answers : bool ndarray of shape (n_classes,), classes that can be an answer; None for all

    Raises
    ------
    ValueError
        Other shapes; a picture does not show exactly one class.

    Examples
    --------
    >>> of_two = measure_confusion(np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]), np.array([[1, -1]] * 3))
    >>> of_two.counts.tolist(), of_two.undecided.tolist(), round(of_two.accuracy, 3)
    ([[1, 1], [0, 0]], [1, 0], 0.333)
    """
    shown, taken_for, is_decided = _decide(scores, labels, answers)
    n_classes = np.shape(labels)[1]
    counts = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (shown[is_decided], taken_for[is_decided]), 1)
    return Confusion(counts, np.bincount(shown[~is_decided], minlength=n_classes))


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Compute the share of the pictures whose highest score is that of their class, 0..1.

    Parameters, errors as of `measure_confusion`. A picture without an answer counts as wrong.

    Examples
    --------
    >>> accuracy([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]], [[1, -1], [1, -1], [1, -1], [-1, 1]])
    0.75
    """
    return measure_confusion(scores, labels).accuracy


def balanced_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean over classes of the share of their pictures that are taken for them, 0..1.

    It is scikit-learn's ``balanced_accuracy_score`` of the class of the highest score (Brodersen et al., ICPR 2010). A
    class that no picture shows is left out of the mean; a picture without an answer counts as wrong. Parameters, errors
    as of `measure_confusion`.

    Examples
    --------
    >>> round(balanced_accuracy([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]], [[1, -1]] * 3 + [[-1, 1]]), 4)
    0.8333
    """
    return measure_confusion(scores, labels).balanced_accuracy
