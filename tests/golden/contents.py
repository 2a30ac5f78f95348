"""What files hold, in words that can be compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests_below(folder: Path) -> dict[str, str]:
    """Digest of every file, by its name."""
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def content_of(path: Path) -> dict[str, object]:
    """What an HDF5 file holds, in words: forms and digests of datasets, and attributes."""
    found = {}

    def add(name: str, item: h5py.HLObject) -> None:
        attributes = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
        found[name] = {"attributes": attributes} if attributes else {}
        if isinstance(item, h5py.Dataset):
            is_text = h5py.check_string_dtype(item.dtype)
            values = item.asstr()[()] if is_text else item[()]
            said = np.asarray(values).tolist() if is_text else hashlib.sha256(values.tobytes()).hexdigest()
            packed = [item.compression, "shuffle" if item.shuffle else None, "fletcher32" if item.fletcher32 else None]
            found[name] |= {
                "dtype": str(item.dtype),
                "shape": list(item.shape),
                "filters": list(filter(None, packed)),
                "content": json.loads(said) if name == "facts" else said,
            }

    with h5py.File(path, "r") as file:
        add("/", file)
        file.visititems(add)
    return found
