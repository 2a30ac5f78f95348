"""Name, size and time of files: a cheap state that changes whenever a file is likely to have changed."""

from __future__ import annotations

import os
from pathlib import Path

FileState = tuple[str, int, int]
"""Name, size in bytes, time of the last change in ns; size -1 for a file without a state, such as a dangling link."""


def state_of_file(path: Path) -> FileState:
    """Read the state of a file that exists, under its plain name."""
    stat = path.stat()
    return path.name, stat.st_size, changed_ns(stat)


def state_of_entry(entry: os.DirEntry[str], name: str) -> FileState:
    """Read the state of an entry of a folder's listing, under `name`."""
    try:
        stat = entry.stat()
    except OSError:  # a dangling link, say: the patch table names it
        return name, -1, 0
    return name, stat.st_size, changed_ns(stat)


def changed_ns(stat: os.stat_result) -> int:
    """Return the time of the last change in ns: by the kernel where a tool gave a file back its older time."""
    return max(stat.st_mtime_ns, getattr(stat, "st_ctime_ns", None) or 0)


def is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder's listing is a folder, or a link to one; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder's listing is a plain file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:
        return False
