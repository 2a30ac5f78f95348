"""Where the members of a tar archive lie, read from its headers alone and cached by the archive's version."""

from __future__ import annotations

import contextlib
import io
import json
import os
import posixpath
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

from pipeline.dataset.split import is_picture_name
from pipeline.io.atomic import read_json, write_atomic
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError
from pipeline.io.messages import enumerate_problems
from pipeline.io.names import show_name
from pipeline.io.picture_file import TAR_BLOCK, Member, RemoteFile

FORMAT = "tar-index-2"
"""Indexes of format 1 lack links."""
AHEAD_BYTES = 256 * 1024
"""Read at once: the headers of many small members, or of one large one."""


class Ranges(io.RawIOBase):
    """A file elsewhere as a stream, read in ranges of `AHEAD_BYTES`; parts that are passed over are not read."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at, self._start, self._data = file, 0, 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        size = min(self._file.size - self._at, self._file.size if size < 0 else size)
        if size <= 0:
            return b""
        if not (self._start <= self._at and self._at + size <= self._start + len(self._data)):
            self._start = self._at
            end = min(self._file.size, self._at + max(size, AHEAD_BYTES))
            self._data = self._file.read_range(self._start, end)
        data = self._data[self._at - self._start : self._at - self._start + size]
        self._at += len(data)
        return data


def index_tar(archive: RemoteFile, cache: Path | None) -> list[Member]:
    """Return the files in an archive, in its order; a link is the file that it leads to, under the link's own name.

    Parameters
    ----------
    cache : folder of indexes; None for none. One that cannot be written is none

    Raises
    ------
    DatasetError
        Not a tar archive, a compressed or truncated one, or it is not there; a picture that is a link to what is no
        file of the archive, or is stored as a sparse file. All of them are named.
    PipelineError
        The file system does not answer.
    """
    path = None
    if cache is not None and archive.version is not None:
        key = digest_of([FORMAT, str(archive), archive.size, archive.version])
        path = cache / f"{archive.name}-{key[:16]}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return [
                Member(str(name), int(at), int(size), int(crc)) for name, at, size, crc in read_json(path)["members"]
            ]
    try:
        if archive.size < 0:
            archive.read_range(0, TAR_BLOCK)
            raise DatasetError(f"{archive}: the server does not tell its size; give archives from one that does")
        members = _read_headers(archive)
    except FileNotFoundError as error:
        raise DatasetError(f"{archive}: no such archive") from error
    except PermissionError as error:
        raise DatasetError(f"{archive}: {error.strerror}") from error
    if path is not None:
        with contextlib.suppress(OSError):
            content = {"format": FORMAT, "members": [[m.name, m.offset, m.size, m.header_crc] for m in members]}
            # As ASCII, since names that are not UTF-8 hold halves of characters, which only escapes keep.
            write_atomic(path, json.dumps(content, indent=2).encode())
    return members


def _read_headers(archive: RemoteFile) -> list[Member]:
    stream, members = Ranges(archive), _Members()
    again = "write the archive again, or leave it out"
    begin = stream.read(TAR_BLOCK)
    stream.seek(0)
    if begin[:2] in (b"\x1f\x8b", b"BZ") or begin[:4] in (b"\x28\xb5\x2f\xfd", b"\xfd7zX"):
        raise DatasetError(f"{archive}: compressed, so no range of it can be read alone; unpack it to a plain .tar")
    try:
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            for item in tar:
                if item.islnk() or item.issym():
                    members.add_link(item)
                elif item.isfile():
                    stream.seek(item.offset_data - TAR_BLOCK)
                    header = stream.read(TAR_BLOCK)
                    members.add(item, Member(item.name, item.offset_data, item.size, zlib.crc32(header)))
            end = tar.offset
    except tarfile.TarError as error:
        names = [name for name, _ in members.entries]
        last = f" after {len(names)} members, the last {show_name(names[-1])}" if names else ""
        raise DatasetError(f"{archive}: truncated, or no tar archive{last}: {error}; {again}") from error
    stream.seek(end)
    if stream.read(TAR_BLOCK) != bytes(TAR_BLOCK):
        raise DatasetError(
            f"{archive}: truncated: {len(members.entries)} members, and the mark of the archive's end is missing; "
            f"{again}"
        )
    found, problems = members.resolve()
    if problems:
        raise DatasetError(
            f"{archive}: {len(problems)} pictures cannot be read by range\n{enumerate_problems(problems)}\n"
            "write the archive again with the files in it: tar --dereference --hard-dereference"
        )
    return found


class _Members:
    """The files and links of an archive, in its order."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Member | str]] = []
        """Name, and the file or the path in the archive to which the link of this name leads."""
        self._at: dict[str, Member | str] = {}
        """The last entry of each path."""
        self._sparse: set[int] = set()
        """Offsets of files whose zeros are left out."""

    def add(self, item: tarfile.TarInfo, member: Member) -> None:
        if item.issparse():
            self._sparse.add(member.offset)
        self._add(item.name, member)

    def add_link(self, item: tarfile.TarInfo) -> None:
        # A hard link names a member that was written before; a symbolic one a path beside itself.
        base = posixpath.dirname(item.name) if item.issym() else ""
        target = posixpath.normpath(posixpath.join(base, item.linkname))
        self._add(item.name, self._at.get(target, target) if item.islnk() else target)

    def _add(self, name: str, entry: Member | str) -> None:
        self.entries.append((name, entry))
        self._at[posixpath.normpath(name)] = entry

    def resolve(self) -> tuple[list[Member], list[str]]:
        """Return all files that can be read by range, and the pictures among the rest, one line each."""
        found, problems = [], []
        for name, entry in self.entries:
            member, passed = entry, set()
            while isinstance(member, str) and member not in passed:
                passed.add(member)
                member = self._at.get(member, member)
            if isinstance(member, Member) and member.offset not in self._sparse:
                found.append(replace(member, name=name))
            elif _is_picture(name):
                no_file = f"a link to {show_name(str(entry))}, which is no file of the archive"
                problems.append(f"{show_name(name)}: {no_file if isinstance(member, str) else 'a sparse file'}")
        return found, problems


def _is_picture(name: str) -> bool:
    return is_picture_name(posixpath.basename(name))
