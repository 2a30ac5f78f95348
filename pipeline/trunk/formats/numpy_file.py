"""``.npz`` and ``.npy``: arrays by name, or a pickled dict of lists of arrays, as Caffe's weights circulated.

A pickle is a program. The one that ``numpy.save`` writes for a dict of arrays needs four names, so this reader
knows those four and no other, and puts plain records in their places: nothing of numpy, or of anything else, is
called with what the file says before it is checked here.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy_format

from pipeline.io.errors import TrunkError
from pipeline.io.messages import brief
from pipeline.trunk.formats.weight_file import WeightFile

DTYPES = {"f2", "f4", "f8"}


class _Dtype:
    """Stands in for ``numpy.dtype``: stores its arguments."""

    def __init__(self, code: object = "", *flags: object) -> None:
        self.code = _as_text(code)
        self.byte_order = "<"

    def __setstate__(self, state: object) -> None:
        order = _as_text(state[1]) if isinstance(state, tuple) and len(state) > 1 else ""
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {brief(order)}")
        self.byte_order = order


class _Array:
    """Stands in for ``numpy.ndarray``: stores shape, dtype and bytes as they are in the file."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[1], tuple):
            raise pickle.UnpicklingError("an array of another version")
        _, self.shape, self.dtype, self.fortran_order, self.data = state
        if not isinstance(self.dtype, _Dtype) or not all(type(n) is int and n >= 0 for n in self.shape):
            raise pickle.UnpicklingError("an array without type or shape")

    def read(self) -> np.ndarray:
        """Return the array, of a float type, checked against its own shape."""
        if self.dtype.code not in DTYPES or not isinstance(self.data, bytes):
            raise ValueError(f"an array of type {brief(self.dtype.code)}; expected one of {', '.join(sorted(DTYPES))}")
        dtype = np.dtype(self.dtype.code).newbyteorder("<" if self.dtype.byte_order in "|=" else self.dtype.byte_order)
        if int(np.prod(self.shape, dtype=object)) * dtype.itemsize != len(self.data):
            raise ValueError(f"an array of shape {self.shape} has {len(self.data)} bytes")
        order: Literal["F", "C"] = "F" if self.fortran_order else "C"
        return np.frombuffer(self.data, dtype).reshape(self.shape, order=order).astype(np.float32)


def _reconstruct(*arguments: object) -> _Array:
    return _Array()


def _encode(text: object, encoding: object = "") -> bytes:
    """Stands in for ``_codecs.encode``: protocol 2 writes bytes as text of the same numbers."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text in another encoding than latin1")
    return text.encode("latin1")


KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and a pickle may run any code that it names")
        return KNOWN[module, name]


def _as_text(value: object) -> str:
    """Text of a pickle, which Python 2 wrote as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _flatten(value: object, name: str, found: dict[str, np.ndarray]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _flatten(item, f"{name}.{_as_text(key)}".strip("."), found)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _flatten(item, f"{name}.{index}", found)
    elif isinstance(value, _Array) and value.dtype.code.startswith("O") and value.shape in ((), (1,)):
        (inner,) = value.data if isinstance(value.data, list) and len(value.data) == 1 else (None,)
        _flatten(inner, name, found)
    elif isinstance(value, _Array):
        found[name] = value.read()
    else:
        raise ValueError(f"{name or 'the file'}: a {type(value).__name__}, expected arrays in dicts and lists")


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as stream:
        version = npy_format.read_magic(stream)
        read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        _, _, dtype = read_header(stream)
        if not dtype.hasobject:
            raise ValueError(f"one array of type {dtype}; expected a dict of the layers' arrays")
        found: dict[str, np.ndarray] = {}
        # Python 2 wrote these files: its text is bytes here.
        _flatten(_ArraysOnly(stream, encoding="bytes").load(), "", found)
        return found


def read_numpy(path: Path) -> WeightFile:
    """Read the arrays of a ``.npz``, or of the pickled dict in a ``.npy``.

    Raises
    ------
    TrunkError
        The file is not one, or its pickle asks for more than arrays in dicts and lists.
    """
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as arrays:
                return WeightFile("npz", {name: arrays[name] for name in arrays.files})
        return WeightFile("npy, a pickled dict", _read_npy(path))
    except pickle.UnpicklingError as error:
        raise TrunkError(f"{path}: a pickle that is not loaded: {error}") from error
    except Exception as error:
        # A damaged pickle can fail in any way: an index, an attribute, memory that is not available.
        raise TrunkError(f"{path}: cannot be read as a dict of arrays: {brief(str(error))}") from error
