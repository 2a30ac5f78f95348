"""Read large JSON files element by element: memory holds one element and a piece of the text, not the whole.

The standard library's scanner, which is written in C, decodes each element. A whole ``json.load`` of COCO's
instances (450 MB) takes several GiB, most of them for polygons that nobody asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.io.errors import DatasetError
from pipeline.io.lfs import UNFETCHED, is_lfs_pointer
from pipeline.io.messages import shorten

CHUNK = 1 << 20


def stream_elements(path: Path, keys: Collection[str]) -> Iterator[tuple[str, int, Any]]:
    """Yield the elements of arrays at the top of a JSON file.

    Parameters
    ----------
    keys : of the object at the top, whose arrays are yielded; other values are passed over. ``""`` stands for an
        array that is itself the top.

    Yields
    ------
    key, number of the element from 0, element

    Raises
    ------
    DatasetError
        It cannot be read, is no JSON in UTF-8, or has something else than an array under one of the keys.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            yield from _Scanner(stream, path).elements(keys)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not JSON in UTF-8: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


class _Scanner:
    def __init__(self, stream: TextIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._text, self._at, self._before = "", 0, 0
        self._decode = json.JSONDecoder().raw_decode

    def elements(self, keys: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        first = self._peek()
        if not first:
            raise DatasetError(f"{self._path}: the file is empty")
        if is_lfs_pointer(self._text[:100].encode()):
            raise DatasetError(f"{self._path}: {UNFETCHED}")
        if first == "[":
            if "" not in keys:
                raise DatasetError(f"{self._path}: expected an object {{...}} at the top, got an array [...]")
            yield from self._array("")
        elif first == "{":
            yield from self._object(keys)
        else:
            raise self._wrong("expected JSON")
        if self._peek():
            raise self._wrong("expected the end of the file")

    def _object(self, keys: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        self._take("{")
        if self._peek() == "}":
            self._take("}")
            return
        while True:
            if self._peek() != '"':
                raise self._wrong("expected a key in quotes")
            key = self._value()
            self._take(":")
            if key not in keys:
                self._peek()
                self._value()
            elif self._peek() == "[":
                yield from self._array(key)
            else:
                raise self._wrong(f"expected an array [...] under {key!r}")
            if self._take(",}") == "}":
                return

    def _array(self, key: str) -> Iterator[tuple[str, int, Any]]:
        self._take("[")
        if self._peek() == "]":
            self._take("]")
            return
        number = 0
        while True:
            self._peek()
            yield key, number, self._value(f"{key}[{number}]")
            number += 1
            if self._take(",]") == "]":
                return

    def _peek(self) -> str:
        """Skip white space; return the next character, or "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _take(self, expected: str) -> str:
        got = self._peek()
        if not got or got not in expected:
            raise self._wrong(f"expected {' or '.join(expected)}")
        self._at += 1
        return got

    def _value(self, where: str = "") -> Any:
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, ValueError) and self._more():
                    continue
                why = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
                raise self._wrong(f"{where}: {why}" if where else str(why)) from error
            if end == len(self._text) and self._more():
                continue  # a number may go on
            self._at = end
            return value

    def _more(self) -> bool:
        """Read on; as much again as is held, so that a long element costs its length, not its square."""
        chunk = self._stream.read(max(CHUNK, len(self._text) - self._at))
        self._before += self._at
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)

    def _wrong(self, why: str) -> DatasetError:
        got = self._text[self._at : self._at + 30]
        got = f"got {shorten(got, 30)!r}" if got else "the file ends here (cut short?)"
        return DatasetError(f"{self._path}: not valid JSON at character {self._before + self._at + 1:,}: {why}, {got}")
