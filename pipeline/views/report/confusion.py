"""What pictures that show one class each are taken for, as rows of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_CONFUSED = 20
"""Up to so many classes there is a matrix of what is taken for what; of more, the most frequent pairs alone."""
MOST_PAIRS = 20


@dataclass(frozen=True)
class ConfusionRow:
    """Pictures of one class by what they are taken for; `total` has the undecided ones among them."""

    name: str
    counts: list[int]
    undecided: int
    total: int
    right: int

    @property
    def recall(self) -> float | None:
        """Share of the pictures that are taken for their class; None where no picture shows it."""
        return self.right / self.total if self.total else None


def confusion_rows(result: Mapping[str, Any]) -> list[ConfusionRow]:
    """One row per class where every picture shows one class; none elsewhere."""
    confusion = result.get("confusion")
    if confusion is None:
        return []
    rows = []
    for index, (name, counts) in enumerate(zip(confusion["classes"], confusion["counts"], strict=True)):
        undecided = confusion["undecided"].get(name, 0)
        rows.append(ConfusionRow(name, counts, undecided, sum(counts) + undecided, counts[index]))
    return rows


def wrong_pairs(rows: Sequence[ConfusionRow]) -> list[tuple[str, str, int, float]]:
    """Class, answer, number of pictures and their share of the class, of the wrong answers that are most frequent."""
    pairs = [
        (row.name, other.name, n, n / row.total)
        for row in rows
        for other, n in zip(rows, row.counts, strict=True)
        if n and other.name != row.name
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:MOST_PAIRS]
