"""Folders of stores: on a disk, or below a prefix of any file system that fsspec supports.

Both give the same guarantees: files are written atomically, and a file survives a crash once `write` has returned. On
a disk this takes a temporary name, fsync and rename; an object store's put does it by itself. Temporary files lie
outside of the store, so that a killed writer leaves nothing in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from pipeline.io.atomic import create_atomic, write_atomic
from pipeline.io.errors import PipelineError
from pipeline.io.model import refuse_credentials
from pipeline.io.remote import connect, lacks_bucket


class Folder(Protocol):
    """A container of files with relative names, whose parts are separated by ``/``."""

    name: str

    def __str__(self) -> str: ...

    def child(self, name: str) -> Folder:
        """Return a folder inside this one; create nothing."""
        ...

    def read(self, name: str) -> bytes:
        """Read a whole file.

        Raises
        ------
        FileNotFoundError
        """
        ...

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Read those of the files that exist, by name."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically; on return it survives a crash."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """Write a file unless it exists; an existing file stays as it is."""
        ...

    def exists(self, name: str) -> bool: ...

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file in the folder, by name, in the order of names."""
        ...

    def folders(self) -> list[str]:
        """Return the names of the folders directly inside this one."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; do nothing if it does not exist."""
        ...

    def remove_all(self) -> None:
        """Remove the folder with all of its files."""
        ...

    def free_bytes(self) -> int | None:
        """Return the free bytes, or None if there is no such limit."""
        ...

    def changed(self) -> float:
        """Return when its newest file was written, in seconds since 1970."""
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
        write_atomic(self.path / name, data, self.path.parent / ".partial")

    def create(self, name: str, data: bytes) -> None:
        create_atomic(self.path / name, data, self.path.parent / ".partial")

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def sizes(self) -> dict[str, int]:
        files = (path for path in self.path.rglob("*") if not path.is_dir())
        return dict(sorted((path.relative_to(self.path).as_posix(), path.lstat().st_size) for path in files))

    def folders(self) -> list[str]:
        try:
            return sorted(path.name for path in self.path.iterdir() if path.is_dir())
        except FileNotFoundError:  # a file in its place is no empty folder
            return []

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove_all(self) -> None:
        shutil.rmtree(self.path)

    def free_bytes(self) -> int | None:
        existing = self.path
        while not existing.exists():
            existing = existing.parent
        return shutil.disk_usage(existing).free

    def changed(self) -> float:
        return max((path.lstat().st_mtime for path in [self.path, *self.path.rglob("*")]), default=0.0)


class RemoteFolder:
    """A prefix of an fsspec file system, such as ``s3://bucket/stores``.

    The file system reads credentials from the environment and its own configuration files; none are taken from
    settings, and none are written anywhere. Problems of the whole prefix (no rights, no bucket, no server) raise
    `PipelineError`; errors of a single file are those of `Folder`.
    """

    def __init__(self, url: str) -> None:
        self._fs, root = connect(url, "stores")
        self._root = root.rstrip("/")
        self.url = url.rstrip("/")
        self.name = self.url.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return self.url

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def child(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.url}/{name}")

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Pass errors of a single file, and raise all others as `PipelineError`."""
        try:
            yield
        except (FileExistsError, NotImplementedError, PipelineError):
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not lacks_bucket(error):
                raise
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> PipelineError:
        """Explain what is wrong with the prefix, for a user who can fix it."""
        if isinstance(error, FileNotFoundError):
            return PipelineError(f"{self}: there is no such bucket; make it first, or choose another --stores")
        reason = str(error) or type(error).__name__
        if isinstance(error, PermissionError):
            return PipelineError(
                f"{self}: no rights: {reason}; files there must be read, written, listed and (cache repair, cache gc) "
                "removed; credentials are taken from the environment, such as AWS_ACCESS_KEY_ID or AWS_PROFILE"
            )
        return PipelineError(
            f"{self}: cannot be used: {reason}; check the network, and the environment (for S3: credentials, "
            "AWS_ENDPOINT_URL); recorded parts stay: start the same command again to resume"
        )

    def read(self, name: str) -> bytes:
        with self._explain_errors():
            return self._fs.cat_file(self._at(name))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        paths = {self._at(name): name for name in names}
        if not paths:
            return {}
        with self._explain_errors():
            contents = self._fs.cat(list(paths), on_error="return")
        data = {}
        for at, name in paths.items():
            if isinstance(contents[at], bytes):
                data[name] = contents[at]
            elif not isinstance(contents[at], FileNotFoundError) or lacks_bucket(contents[at]):
                raise self._explain(contents[at]) from contents[at]
        return data

    def write(self, name: str, data: bytes) -> None:
        with self._explain_errors():
            self._put(name, data)

    def create(self, name: str, data: bytes) -> None:
        with self._explain_errors():
            try:
                self._put(name, data, mode="create")
            except FileExistsError:
                return
            except NotImplementedError:
                if not self._fs.exists(self._at(name)):
                    self._put(name, data)

    def _put(self, name: str, data: bytes, **how: str) -> None:
        try:
            self._fs.pipe_file(self._at(name), data, **how)
        except FileNotFoundError as error:
            # A file to be written cannot be missing: the bucket is.
            raise self._explain(error) from error

    def exists(self, name: str) -> bool:
        with self._explain_errors():
            return self._fs.exists(self._at(name))

    def sizes(self) -> dict[str, int]:
        with self._explain_errors():
            files = self._fs.find(self._root, detail=True)
        return {at[len(self._root) + 1 :]: int(info["size"]) for at, info in sorted(files.items())}

    def folders(self) -> list[str]:
        try:
            with self._explain_errors():
                entries = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return sorted(i["name"].rstrip("/").rsplit("/", 1)[-1] for i in entries if i["type"] == "directory")

    def remove(self, name: str) -> None:
        with self._explain_errors(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def remove_all(self) -> None:
        with self._explain_errors():
            self._fs.rm(self._root, recursive=True)

    def free_bytes(self) -> int | None:
        return None

    def changed(self) -> float:
        times = []
        with self._explain_errors():
            files = self._fs.find(self._root, detail=True)
        for info in files.values():
            when = info.get("LastModified") or info.get("mtime") or info.get("created")
            times.append(when.timestamp() if hasattr(when, "timestamp") else float(when or 0.0))
        return max(times, default=0.0)


def open_folder(place: str | Path | Folder) -> Folder:
    """Open the folder at a path or an fsspec URL; return a given folder as it is.

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
    """Explain an `OSError` of a write, for a user who can fix it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PipelineError(
            f"{folder}: the disk is full ({(folder.free_bytes() or 0) / 2**30:.1f} GiB free); recorded parts "
            "stay: free some space and start the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) or isinstance(error, PermissionError):
        reason = os.strerror(error.errno) if error.errno else str(error)
        return PipelineError(f"{folder}: cannot be written: {reason}; check the rights there")
    return PipelineError(f"{folder}: {error.strerror or error}; start the same command again to resume")
