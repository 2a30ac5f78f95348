"""Where a store lies: a folder on a disk, or a prefix of anything that fsspec reaches.

Both promise the same: a file is there whole or not at all, and what `write` returned from stays. On
a disk that takes a temporary name, fsync and rename; an object store's put does it by itself.
Temporary names stand outside of the store, so that a killed writer leaves nothing in it.
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
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.io.model import refuse_credentials


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
        write_atomic(self.path / name, data, self.path.parent / ".partial")

    def create(self, name: str, data: bytes) -> None:
        create_atomic(self.path / name, data, self.path.parent / ".partial")

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
    files); none is taken from settings, and none is written anywhere. What goes wrong with the place
    itself (no rights, no bucket, nobody there) is a `PipelineError`: it says nothing about any file.
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

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Lets only those errors out that are about a single file."""
        try:
            yield
        except (FileExistsError, NotImplementedError, PipelineError):
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not _lacks_bucket(error):
                raise
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> PipelineError:
        """What is wrong with the place, in the words of a user who can mend it."""
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
            "AWS_ENDPOINT_URL); what is recorded is kept: start the same command again to go on"
        )

    def read(self, name: str) -> bytes:
        with self._asked():
            return self._fs.cat_file(self._at(name))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        places = {self._at(name): name for name in names}
        if not places:
            return {}
        with self._asked():
            found = self._fs.cat(list(places), on_error="return")
        data = {}
        for at, name in places.items():
            if isinstance(found[at], bytes):
                data[name] = found[at]
            elif not isinstance(found[at], FileNotFoundError) or _lacks_bucket(found[at]):
                raise self._trouble(found[at]) from found[at]
        return data

    def write(self, name: str, data: bytes) -> None:
        with self._asked():
            self._put(name, data)

    def create(self, name: str, data: bytes) -> None:
        with self._asked():
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
            # Nothing that is to be written can be missing, except for what it is written into.
            raise self._trouble(error) from error

    def exists(self, name: str) -> bool:
        with self._asked():
            return self._fs.exists(self._at(name))

    def sizes(self) -> dict[str, int]:
        with self._asked():
            found = self._fs.find(self._root, detail=True)
        return {at[len(self._root) + 1 :]: int(info["size"]) for at, info in sorted(found.items())}

    def folders(self) -> list[str]:
        try:
            with self._asked():
                found = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return sorted(i["name"].rstrip("/").rsplit("/", 1)[-1] for i in found if i["type"] == "directory")

    def remove(self, name: str) -> None:
        with self._asked(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def remove_all(self) -> None:
        with self._asked():
            self._fs.rm(self._root, recursive=True)

    def free_bytes(self) -> int | None:
        return None

    def changed(self) -> float:
        times = []
        with self._asked():
            found = self._fs.find(self._root, detail=True)
        for info in found.values():
            when = info.get("LastModified") or info.get("mtime") or info.get("created")
            times.append(when.timestamp() if hasattr(when, "timestamp") else float(when or 0.0))
        return max(times, default=0.0)


def _lacks_bucket(error: BaseException | None) -> bool:
    """Whether not only the file is missing, but also the bucket that it would be in."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict) and answer.get("Error", {}).get("Code") == "NoSuchBucket":
            return True
        error = error.__cause__ or error.__context__
    return False


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
