"""JSON and HDF5 files that carry a checksum of themselves."""

from __future__ import annotations

import json
from typing import Any

from pipeline.io.atomic import render_json
from pipeline.io.digests import digest_of, sha256_bytes


def checksummed_json(value: dict[str, Any]) -> bytes:
    """Render JSON whose last key, ``sha256``, is the digest of the canonical JSON of the rest."""
    return render_json({**value, "sha256": digest_of(value)})


def read_checksummed_json(data: bytes) -> dict[str, Any]:
    """Read JSON that `checksummed_json` rendered, and check its digest.

    Raises
    ------
    ValueError
        Any byte differs from the written ones, spaces included.
    """
    value = json.loads(data)
    if not isinstance(value, dict) or "sha256" not in value:
        raise ValueError("carries no digest of its own")
    value.pop("sha256")
    if checksummed_json(value) != data:
        raise ValueError("disagrees with its own digest")
    return value


USER_BLOCK = 512
"""Bytes at the start of an HDF5 file that HDF5 does not use; here they hold a digest of all bytes after them."""


def _user_block(rest: bytes) -> bytes:
    return f"sha256 of all bytes from {USER_BLOCK} on: {sha256_bytes(rest)}\n".encode().ljust(USER_BLOCK, b"\0")


def checksum_hdf5(data: bytes) -> bytes:
    """Put the digest of an HDF5 file's bytes into its user block, which must have `USER_BLOCK` bytes."""
    return _user_block(data[USER_BLOCK:]) + data[USER_BLOCK:]


def check_hdf5(data: bytes) -> bytes:
    """Check an HDF5 file's bytes against their digest and return them. HDF5 itself checks only data with fletcher32.

    Raises
    ------
    ValueError
    """
    if data[:USER_BLOCK] != _user_block(data[USER_BLOCK:]):
        raise ValueError("changed since it was written: the bytes disagree with their digest")
    return data
