"""JSON and HDF5 files that carry a checksum of themselves."""

from __future__ import annotations

import json
from typing import Any

from pipeline.io.atomic import render_json
from pipeline.io.digests import digest_of, sha256_bytes


def signed_json(value: dict[str, Any]) -> bytes:
    """JSON bytes that carry their own digest as the last key, ``sha256``: of the canonical JSON of the rest."""
    return render_json({**value, "sha256": digest_of(value)})


def read_signed_json(data: bytes) -> dict[str, Any]:
    """What `signed_json` was given.

    Raises
    ------
    ValueError
        Any byte differs from what was written, spaces included.
    """
    value = json.loads(data)
    if not isinstance(value, dict) or "sha256" not in value:
        raise ValueError("carries no digest of its own")
    value.pop("sha256")
    if signed_json(value) != data:
        raise ValueError("disagrees with its own digest")
    return value


USER_BLOCK = 512
"""Bytes in front of an HDF5 file that HDF5 leaves to others; here they hold a digest of all that follows."""


def _user_block(rest: bytes) -> bytes:
    return f"sha256 of all bytes from {USER_BLOCK} on: {sha256_bytes(rest)}\n".encode().ljust(USER_BLOCK, b"\0")


def sign_hdf5(data: bytes) -> bytes:
    """An HDF5 file, made with ``userblock_size=USER_BLOCK``, with the digest of its bytes in that block."""
    return _user_block(data[USER_BLOCK:]) + data[USER_BLOCK:]


def check_hdf5(data: bytes) -> bytes:
    """The same bytes, if they agree with their digest. HDF5 itself checks only what has fletcher32.

    Raises
    ------
    ValueError
    """
    if data[:USER_BLOCK] != _user_block(data[USER_BLOCK:]):
        raise ValueError("changed since it was written: the bytes disagree with their digest")
    return data
