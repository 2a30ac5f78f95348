"""Bounded text for messages: values that a user gave, and lists of problems."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence


class _Brief(reprlib.Repr):
    """A bounded ``repr``: of some values (a few YAML aliases, a number in hexadecimal) the full one never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        return f"a number of {x.bit_length()} bits" if x.bit_length() > 128 else repr(x)


def brief(value: object) -> str:
    """Render a user's value with ``repr``, at most one line long.

    >>> brief("fc9"), brief(2**300)
    ("'fc9'", 'a number of 301 bits')
    """
    return shorten(_Brief().repr(value), 200)


def shorten(text: str, width: int = 100) -> str:
    """Cut a text of any length.

    >>> shorten("cat" * 100, width=4)
    'catc...'
    """
    return text if len(text) <= width else f"{text[:width]}..."


def enumerate_problems(problems: Sequence[str], shown: int = 10) -> str:
    """Join all problems as an indented list, the first `shown` in full.

    >>> print(enumerate_problems(["a.jpg: truncated", "b.jpg: empty"], shown=1))
      - a.jpg: truncated
      ... and 1 more
    """
    lines = [f"  - {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  ... and {len(problems) - shown} more")
    return "\n".join(lines)
