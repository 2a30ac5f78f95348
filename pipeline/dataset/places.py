"""Places of pictures that are no folder of this machine: URLs, lists of URLs, and tar archives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

ARCHIVE = ".tar"
LISTS = (".txt", ".lst", ".list")
"""Endings of a list of files: one URL or path per line."""
MAX_ARCHIVES = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_elsewhere(place: str) -> bool:
    """Whether pictures lie at a URL, in tar archives or in a list, and not in a folder of this machine.

    >>> [is_elsewhere(place) for place in ("s3://bucket/photos", "sets/shard-{000..012}.tar", "urls.txt", "photos")]
    [True, True, True, False]
    """
    return "://" in place or place.lower().endswith((ARCHIVE, *LISTS))


def expand_range(place: str) -> list[str]:
    """Expand each ``{000..012}`` in the names of archives, both ends included; numbers keep their width.

    Raises
    ------
    ValueError
        A range that runs backwards, or more than `MAX_ARCHIVES`.

    >>> expand_range("s3://b/shard-{08..10}.tar"), expand_range("a.tar")
    (['s3://b/shard-08.tar', 's3://b/shard-09.tar', 's3://b/shard-10.tar'], ['a.tar'])
    """
    found = _RANGE.search(place)
    if found is None:
        return [place]
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= MAX_ARCHIVES:
        raise ValueError(f"{found[0]}: expected a rising range of at most {MAX_ARCHIVES:,} numbers")
    width = len(found[1]) if found[1].startswith("0") else 0

    def names() -> Iterator[str]:
        for number in range(first, last + 1):
            yield from expand_range(f"{place[: found.start()]}{number:0{width}d}{place[found.end() :]}")

    return list(names())


def absolute_place(place: str) -> str:
    """Return a URL as it is without a slash at its end, and a path as an absolute one."""
    return place.rstrip("/") if "://" in place else os.path.abspath(os.path.expanduser(place))


def name_of_place(place: str) -> str:
    """Return the last part of a place that names it, without ending, range and ``*``.

    >>> name_of_place("s3://bucket/sets/shard-{000..012}.tar"), name_of_place("https://host/photos/list.txt")
    ('sets', 'photos')
    """
    parts = [part for part in place.partition("://")[2].split("/") if part] if "://" in place else place.split("/")
    if parts and is_elsewhere(parts[-1]) or parts and "*" in parts[-1]:
        parts = parts[:-1] or parts
    return re.sub(r"\{.*?\}|\*", "", parts[-1]) if parts else ""
