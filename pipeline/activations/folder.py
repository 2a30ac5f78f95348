"""Where a store lies: a folder on a disk, or a prefix of anything that fsspec reaches.

Both promise the same: a file is there whole or not at all, and what `write` returned from stays. On
a disk that takes a temporary name, fsync and rename; an object store's put does it by itself.
Temporary names stand outside of the store, so that a killed writer leaves nothing in it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pipeline.errors import PipelineError, SettingsError
from pipeline.files import create_whole, write_whole
from pipeline.settings import refuse_credentials


class Folder(Protocol):
    """A place for files by relative name, with ``/`` between its parts."""

    name: str

    def __str__(self) -> str: ...

    def child(self, name: str) -> Folder:
        """A folder in this one; nothing is made."""
        ...

    def read(self, name: str) -> bytes:
        """All of a file; FileNotFoundError if it is not there."""
        ...

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those of the files that are there."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all; on return it will survive a crash."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """As `write`, but a file that is there already stays as it is."""
        ...

    def exists(self, name: str) -> bool: ...

    def sizes(self) -> dict[str, int]:
        """Bytes of every file in the folder, by name, in order of the names."""
        ...

    def folders(self) -> list[str]:
        """Names of the folders right in this one."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is none to remove."""
        ...

    def remove_all(self) -> None:
        """Remove the folder with all that is in it."""
        ...

    def free_bytes(self) -> int | None:
        """Room left, or None where there is no such limit."""
        ...

    def changed(self) -> float:
        """When the youngest file in it was written, in seconds since 1970."""
        ...


class LocalFolder:
    """A folder on a disk of this machine, or mounted on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        return {name: self.read(name) for name in names if self.exists(name)}

    def write(self, name: str, data: bytes) -> None:
        write_whole(self.path / name, data, self.path.parent / ".partial")

    def create(self, name: str, data: bytes) -> None:
        create_whole(self.path / name, data, self.path.parent / ".partial")

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def sizes(self) -> dict[str, int]:
        files = (path for path in self.path.rglob("*") if not path.is_dir())
        return dict(sorted((path.relative_to(self.path).as_posix(), path.lstat().st_size) for path in files))

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.is_dir()) if self.path.is_dir() else []

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove_all(self) -> None:
        shutil.rmtree(self.path)

    def free_bytes(self) -> int | None:
        there = self.path
        while not there.exists():
            there = there.parent
        return shutil.disk_usage(there).free

    def changed(self) -> float:
        return max((path.lstat().st_mtime for path in [self.path, *self.path.rglob("*")]), default=0.0)


class RemoteFolder:
    """A prefix of an fsspec file system, such as ``s3://bucket/stores``.

    Credentials come from where the file system looks for them (environment, its own configuration
    files); none is taken from settings, and none is written anywhere.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            # Nothing is answered from listings: another process may have written since.
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"stores {url!r}: {error}") from error
        self._root = root.rstrip("/")
        self.url = url.rstrip("/")
        self.name = self.url.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return self.url

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def child(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.url}/{name}")

    def read(self, name: str) -> bytes:
        return self._fs.cat_file(self._at(name))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        places = {self._at(name): name for name in names}
        if not places:
            return {}
        found = self._fs.cat(list(places), on_error="return")
        for problem in found.values():
            if isinstance(problem, Exception) and not isinstance(problem, FileNotFoundError):
                raise problem
        return {places[at]: data for at, data in found.items() if isinstance(data, bytes)}

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(self._at(name), data)

    def create(self, name: str, data: bytes) -> None:
        try:
            self._fs.pipe_file(self._at(name), data, mode="create")
        except FileExistsError:
            return
        except NotImplementedError:
            if not self.exists(name):
                self.write(name, data)

    def exists(self, name: str) -> bool:
        return self._fs.exists(self._at(name))

    def sizes(self) -> dict[str, int]:
        self._fs.invalidate_cache()
        found = self._fs.find(self._root, detail=True)
        return {at[len(self._root) + 1 :]: int(info["size"]) for at, info in sorted(found.items())}

    def folders(self) -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return sorted(i["name"].rstrip("/").rsplit("/", 1)[-1] for i in found if i["type"] == "directory")

    def remove(self, name: str) -> None:
        if self.exists(name):
            self._fs.rm_file(self._at(name))

    def remove_all(self) -> None:
        self._fs.rm(self._root, recursive=True)

    def free_bytes(self) -> int | None:
        return None

    def changed(self) -> float:
        times = []
        for info in self._fs.find(self._root, detail=True).values():
            when = info.get("LastModified") or info.get("mtime") or info.get("created")
            times.append(when.timestamp() if hasattr(when, "timestamp") else float(when or 0.0))
        return max(times, default=0.0)


def open_folder(place: str | Path | Folder) -> Folder:
    """The folder at a path or an fsspec URL; a folder stays what it is.

    Raises
    ------
    SettingsError
        The URL carries credentials, or its scheme needs a package that is not installed.
    """
    if not isinstance(place, str | Path):
        return place
    text = str(place)
    if "://" not in text:
        return LocalFolder(Path(text))
    refuse_credentials(text)
    if text.startswith("file://"):
        # fsspec would write in place: a killed writer would leave half a file.
        return LocalFolder(Path(text.removeprefix("file://")))
    return RemoteFolder(text)


def disk_trouble(error: OSError, folder: Folder) -> PipelineError:
    """An `OSError` while writing, in the words of a user who can mend it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PipelineError(
            f"{folder}: the disk is full ({(folder.free_bytes() or 0) / 2**30:.1f} GiB free); what is recorded is "
            "kept: free some space and start the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) or isinstance(error, PermissionError):
        reason = os.strerror(error.errno) if error.errno else str(error)
        return PipelineError(f"{folder}: cannot be written: {reason}; check the rights there")
    return PipelineError(f"{folder}: {error.strerror or error}; start the same command again to go on")
