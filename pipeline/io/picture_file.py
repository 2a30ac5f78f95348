"""Files of pictures, wherever they lie: what readers of pictures ask of a file, and files that are elsewhere."""

from __future__ import annotations

import io
import os
import stat
import time
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.io.errors import PipelineError
from pipeline.io.names import show_name
from pipeline.io.remote import connect, redact_url, with_retries

TAR_BLOCK = 512
NOT_THERE = "not there"
"""The version of a file that was missing or forbidden when it was listed."""


class PictureFile(Protocol):
    """What readers of pictures ask of a file: a `pathlib.Path`, or a `RemoteFile`."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...

    def exists(self) -> bool: ...

    def is_file(self) -> bool: ...

    def stat(self) -> os.stat_result: ...

    def absolute(self) -> PictureFile: ...


@dataclass(frozen=True, repr=False)
class Member:
    """A file inside a tar archive: where its bytes are.

    Attributes
    ----------
    name : in the archive; bytes that are not UTF-8 as halves of characters, as in names of files
    offset, size : of its bytes in the archive
    header_crc : CRC-32 of the 512 bytes before them, the last of its headers
    """

    name: str
    offset: int
    size: int
    header_crc: int


@dataclass(frozen=True, repr=False)
class RemoteFile:
    """A file on a file system of fsspec, or a member of a tar archive there; small, and the same in every process.

    Attributes
    ----------
    url : of the file, or of the archive; a query is used, and shown nowhere
    size : bytes of the file, or of the archive; -1 where the server does not tell
    version : what changes with its content, such as an ETag; None where the server tells nothing, `NOT_THERE` if it has
        no such file
    member : of the archive; None for the whole file
    """

    url: str
    size: int
    version: str | None
    member: Member | None = None

    def __str__(self) -> str:
        shown = redact_url(self.url)
        return show_name(shown if self.member is None else f"{shown}#{self.member.name}")

    def __repr__(self) -> str:
        return f"RemoteFile({str(self)!r})"

    @property
    def name(self) -> str:
        return str(self).partition("?")[0].rpartition("/")[2] if self.member is None else show_name(self.member.name)

    def absolute(self) -> RemoteFile:
        return self

    def exists(self) -> bool:
        return True

    def is_file(self) -> bool:
        return True

    @cached_property
    def _time_ns(self) -> int:
        """A number that changes with the version; of a file without any version another one in each process."""
        if self.version is None:
            return time.time_ns()
        return zlib.crc32(self.version.encode()) << 31 | zlib.adler32(self.version.encode()) >> 1

    def stat(self) -> os.stat_result:
        """Return size, and a time that stands for the version: equal where the bytes are.

        What was not there when it was listed is no plain file, so that no digest of later bytes is remembered.
        """
        size = self.size if self.member is None else self.member.size
        inode = 0 if self.member is None else self.member.offset
        mode = 0 if self.version == NOT_THERE else stat.S_IFREG | 0o444
        numbers = (mode, inode, 0, 1, 0, 0, size, 0, self._time_ns // 10**9, 0)
        return os.stat_result(numbers, {"st_mtime_ns": self._time_ns})

    def read_range(self, start: int, end: int) -> bytes:
        """Read the bytes from `start` to `end` of the file or archive; fewer where it ends before.

        Raises
        ------
        FileNotFoundError, PermissionError, PipelineError
        """
        system, path = connect(self.url, "pictures")
        return with_retries(lambda: system.cat_file(path, start=start, end=end), str(self))

    def read_bytes(self) -> bytes:
        """Read the file, or the member of its archive by one range.

        Raises
        ------
        FileNotFoundError, PermissionError
            The one file.
        PipelineError
            The file system does not answer, or the archive is not the one that was indexed.
        """
        if self.member is None:
            # One request per picture: s3fs asks for the size first, unless it is told to read in one piece.
            options = {"max_concurrency": 1} if self.url.startswith("s3://") else {}
            system, path = connect(self.url, "pictures", **options)
            return with_retries(lambda: system.cat_file(path), str(self))
        start, end = self.member.offset, self.member.offset + self.member.size
        data = self.read_range(start - TAR_BLOCK, end)
        if len(data) != end - start + TAR_BLOCK or zlib.crc32(data[:TAR_BLOCK]) != self.member.header_crc:
            raise PipelineError(
                f"{self}: the archive changed while it was read: this member is not where it was; start the same "
                "command again"
            )
        return data[TAR_BLOCK:]


def open_picture(file: PictureFile) -> BinaryIO:
    """Open a file of a picture for reading; one that is elsewhere is read in full."""
    return open(file, "rb") if isinstance(file, Path) else io.BytesIO(file.read_bytes())
