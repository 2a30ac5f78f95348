"""Git LFS pointers: small texts that stand in place of files that were not fetched."""

from __future__ import annotations

LFS_POINTER = b"version https://git-lfs"
"""First bytes of a pointer."""
UNFETCHED = "a Git LFS pointer without its file; get it with: git lfs pull"
"""What a message says of one, after the file's path."""


def is_lfs_pointer(data: bytes) -> bool:
    """Whether the bytes of a file are those of a pointer.

    >>> is_lfs_pointer(b"version https://git-lfs.github.com/spec/v1"), is_lfs_pointer(b"version: 1")
    (True, False)
    """
    return data.startswith(LFS_POINTER)
