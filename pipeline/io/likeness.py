"""Suggestions for mistyped names: the nearest of those that exist, never the whole list."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 10
"""Names that a message lists at most."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Find the names that are most like `name`, the nearest first; capitals and the kind of dash do not matter.

    >>> nearest("tresh", ["heads", "threads", "grid"]), nearest("Fca_2", ["fca", "fca2"])
    (['threads'], ['fca2', 'fca'])
    """
    plain: dict[str, list[str]] = {}
    for candidate in dict.fromkeys(known):
        plain.setdefault(_plain(candidate), []).append(candidate)
    close = difflib.get_close_matches(_plain(name), plain, n, 0.5)
    return [candidate for match in close for candidate in plain[match]][:n]


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: those that exist, where they are few, and the nearest.

    >>> suggest("fcaa", ["fca", "svm"]), suggest("thread", ["threads", *map(str, range(99))])
    ('; known: fca, svm; did you mean fca?', '; did you mean threads?')
    """
    names = list(dict.fromkeys(known))
    listed = f"; known: {', '.join(names)}" if 0 < len(names) <= SHOWN else ""
    return listed + suggest_nearest(name, names)


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest names, or nothing.

    >>> suggest_nearest("fcaa", ["fca", "svm"]), suggest_nearest("zzz", ["fca", "svm"])
    ('; did you mean fca?', '')
    """
    close = nearest(name, known)
    return f"; did you mean {join_or(close)}?" if close else ""


def join_or(names: list[str]) -> str:
    """Join names as in a sentence.

    >>> join_or(["a"]), join_or(["a", "b", "c"])
    ('a', 'a, b or c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
