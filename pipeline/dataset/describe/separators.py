"""Whether the labels of a table's column seem to be several labels each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.dataset.csv_table import LIST


def suspect_separator(labels: Sequence[str]) -> tuple[str, str] | None:
    """Return the sign that seems to separate several labels, and a label with it; None if there is none.

    ``|``, ``;``, ``/`` and lists are always in doubt. A comma, plus or ampersand is, if a part of the label occurs in
    another; a space, if every word of every label with several occurs in another.

    >>> suspect_separator(["cat", "cat|pet"]), suspect_separator(["rose", "tulip, red"])
    (('|', 'cat|pet'), None)
    """
    for sign in "|;/":
        if example := next((label for label in labels if sign in label), None):
            return sign, example
    if example := next((label for label in labels if label[:1] in "[({" and label[-1:] in "])}" and label), None):
        return LIST, example
    for sign in ",+&":
        whole = {label.strip() for label in labels if sign not in label}
        seen: set[str] = set()
        for label in labels:
            if sign in label:
                parts = {part.strip() for part in label.split(sign)}
                if parts & (whole | seen):
                    return sign, label
                seen |= parts
    of_words = [set(label.split()) for label in labels]
    several = [label for label, words in zip(labels, of_words, strict=True) if len(words) > 1]
    n_labels = Counter(word for words in of_words for word in words)
    if len(several) > 1 and all(n_labels[word] > 1 for label in several for word in label.split()):
        return " ", several[0]
    return None
