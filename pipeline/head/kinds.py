"""The table of the kinds of heads: a new kind is a module, a line here, and settings in `head.settings.AnyHead`."""

from __future__ import annotations

from typing import Any

from pipeline.head import adapted, attention, code, knn, logistic, native, ncm, strong, svm, vlad, weak
from pipeline.head.task import HeadKind

KINDS: dict[str, HeadKind[Any]] = {
    "strong": strong.KIND,
    "weak": weak.KIND,
    "svm": svm.KIND,
    "adapted": adapted.KIND,
    "own": native.KIND,
    "code": code.KIND,
    "knn": knn.KIND,
    "ncm": ncm.KIND,
    "attention": attention.KIND,
    "vlad": vlad.KIND,
    "logistic": logistic.KIND,
}
"""The implementation of each kind, by the ``kind`` of its settings."""
