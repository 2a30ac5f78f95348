"""Layout ``pictures`` at a URL, in tar archives or in a list of URLs: the pictures as they are listed there.

Listings tell size and version (ETag, or what the file system has) of each file, so that a changed one is noticed
without reading it. Pictures are read where they are used, by any worker; nothing is copied to this machine.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pipeline.dataset.listing import id_of, name_clashes
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.places import ARCHIVE, LISTS, expand_range
from pipeline.dataset.report import Depth, SplitCheck, picture_faults
from pipeline.dataset.split import EMPTY_ANNOTATION, Split, is_picture_name, read_ids, refuse_split
from pipeline.dataset.tar_index import index_tar
from pipeline.io.digests import FileState, digest_of
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.messages import brief
from pipeline.io.picture_file import NOT_THERE, RemoteFile
from pipeline.io.progress import track
from pipeline.io.remote import REQUESTS, connect, redact_url, with_retries

VERSIONS = ("ETag", "etag", "Content-MD5", "md5Hash", "generation", "LastModified", "Last-Modified", "mtime", "created")
"""What file systems call that which changes with a file's content, the surest first."""

T = TypeVar("T")
Named = tuple[str, RemoteFile]
"""Path below the place, from which the id is made, and the file."""


def read(manifest: Manifest, split: str, folder: Path, on_error: str = "fail") -> Split:
    """List the pictures of a split; see `pipeline.dataset.read.LayoutReader`.

    Raises
    ------
    DatasetError
        Everything wrong with it, in one message.
    """
    files, problems = files_of(manifest, split)
    refuse_split(manifest, split, manifest.folder, problems)
    n = len(files)
    digest = digest_of([manifest.layout, list(files), None])
    annotations = (EMPTY_ANNOTATION,) * n
    return Split(manifest, split, folder, tuple(files), tuple(files.values()), annotations, None, digest)


def state(manifest: Manifest, split: str, folder: Path) -> str:
    """Digest names, sizes and versions of all pictures; none is read."""
    return state_of_files(manifest, split)


def state_of_files(manifest: Manifest, split: str) -> str:
    """Digest names, sizes and versions of all pictures of a split."""
    files, problems = files_of(manifest, split)
    states = [FileState.of(file) or [str(file)] for file in files.values()]
    return digest_of([manifest.layout, manifest.exif, list(files), states, len(problems)])


def check(manifest: Manifest, split: str, folder: Path, depth: Depth) -> SplitCheck:
    """Compare what is listed with the split's list, if it has one."""
    entry = manifest.splits[split]
    try:
        files, problems = files_of(manifest, split)
    except DatasetError as error:
        return SplitCheck(split, entry.labelled, None, entry.pictures, faults=(str(error),), boxes=False)
    faults = list(problems)
    if depth.decode:
        for file in track(files.values(), f"check {split}", len(files), "pictures"):
            faults += picture_faults(file)
    return SplitCheck(split, entry.labelled, len(files), entry.pictures, faults=tuple(faults), boxes=False)


def index_folder(manifest: Manifest) -> Path | None:
    """Return the folder of the indexes of archives; None where the manifest lies in no file."""
    return None if manifest.path is None else manifest.path.parent / manifest.name / "index"


def files_of(manifest: Manifest, split: str) -> tuple[dict[str, RemoteFile], list[str]]:
    """Return the files of a split by their ids, and problems, one line each."""
    if split not in manifest.splits:
        raise DatasetError(f"{manifest.name}: no split {split!r}; there are {', '.join(manifest.splits)}")
    entry, here = manifest.splits[split], None if manifest.path is None else manifest.path.parent
    named = list_files(manifest.folder, index_folder(manifest))
    ids = [id_of(name) for name, _ in named]
    problems = name_clashes([name for name, _ in named], ids)
    files = dict(zip(ids, (file for _, file in named), strict=True))
    if entry.ids is not None and here is not None:
        wanted = read_ids(here / entry.ids, files, prefer_whole=True)
        problems += [f"{i}: listed, and no picture has this id" for i in wanted if i not in files]
        files = {i: files[i] for i in wanted if i in files}
    if not files:
        problems.append("no picture")
    return files, problems


def list_files(place: str, cache: Path | None) -> list[Named]:
    """List the pictures at a place, in the order of their names; of archives and lists, in theirs.

    Parameters
    ----------
    place : URL of a folder; URL or path of a list, of an archive, or of several with ``{000..012}`` or ``*``
    cache : folder of the indexes of archives

    Raises
    ------
    DatasetError
        It cannot be listed, or is not there.
    PipelineError
        The file system does not answer.
    """
    if place.lower().endswith(LISTS):
        return _listed(place, cache)
    if place.lower().endswith(ARCHIVE):
        return _members(_archives(place), cache)
    system, root = connect(place, "folder")
    if _is_web(place):
        raise DatasetError(
            f"{redact_url(place)}: a web server does not list its files; give a list of them: --root LIST{LISTS[0]}, "
            "one URL or path per line, here or there"
        )
    found = _ask(lambda: system.find(root, detail=True), place)
    plain = {at[len(root) :].lstrip("/"): info for at, info in found.items() if info["type"] == "file"}
    names = sorted(name for name in plain if _is_shown(name))
    pictures = [name for name in names if is_picture_name(posixpath.basename(name))]
    archives = [name for name in names if name.lower().endswith(ARCHIVE)]
    if pictures and archives:
        raise DatasetError(
            f"{redact_url(place)}: {len(pictures)} pictures and {len(archives)} archives, such as {archives[0]}: give "
            f"the archives alone as {redact_url(place)}/*{ARCHIVE}, or the pictures a folder of their own"
        )
    files = {name: _file(f"{place}/{name}", plain[name]) for name in pictures or archives}
    return _members(list(files.values()), cache) if archives else list(files.items())


def _is_web(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _is_shown(name: str) -> bool:
    return not any(part.startswith((".", "__")) for part in name.split("/"))


def _ask(do: Callable[[], T], place: str) -> T:
    """Ask a file system; what is missing or forbidden is wrong with the dataset.

    Raises
    ------
    DatasetError, PipelineError
    """
    try:
        return with_retries(do, place)
    except FileNotFoundError as error:
        raise MissingDataError(f"{redact_url(place)}: no such file or folder") from error
    except PermissionError as error:
        raise DatasetError(f"{redact_url(place)}: {error.strerror}") from error


def _file(url: str, info: dict[str, Any]) -> RemoteFile:
    version = next((f"{key} {info[key]}" for key in VERSIONS if info.get(key)), None)
    size = info.get("size")
    return RemoteFile(url, -1 if size is None else int(size), version)


def _look_up(urls: Sequence[str], what: str) -> list[RemoteFile]:
    """Ask for size and version of each file; one that is missing or forbidden is found out when it is read."""

    def look_up(url: str) -> RemoteFile:
        system, path = connect(url, "pictures")
        try:
            return _file(url, with_retries(lambda: system.info(path), url))
        except (FileNotFoundError, PermissionError):
            return RemoteFile(url, -1, NOT_THERE)

    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(track(pool.map(look_up, urls), what, len(urls), "files"))


def _listed(place: str, cache: Path | None) -> list[Named]:
    """Read a list of URLs or paths, relative to the list; archives in it are opened."""
    system, path = connect(place, "folder")
    data = _ask(lambda: system.cat_file(path), place)
    base = posixpath.dirname(place)
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{redact_url(place)}: not a list, which is text with a URL or path per line: {error}"
        ) from error
    lines = [line for line in lines if line and not line.startswith("#")]
    endings = [_name_in(line).lower() for line in lines]
    bad = [line for line, name in zip(lines, endings, strict=True) if not _is_wanted(name)]
    if bad or not lines:
        got = f"{len(bad)} lines that name none, such as {brief(redact_url(bad[0]))}" if bad else "no line"
        expected = f"expected a URL or path of a picture or a {ARCHIVE} per line"
        raise DatasetError(f"{redact_url(place)}: {expected}, got {got}")
    urls = [line if "://" in line or line.startswith("/") else f"{base}/{line}" for line in lines]
    files = _look_up(urls, f"look up {posixpath.basename(place)}")
    named: list[Named] = []
    for line, file in zip(lines, files, strict=True):
        if file.name.lower().endswith(ARCHIVE):
            named += _members([file], cache)
        else:
            path = line.partition("?")[0]
            # Of a URL, what comes after the host: other lines of the list change no id.
            named.append((path.partition("://")[2].partition("/")[2] if "://" in path else path.lstrip("/"), file))
    return named


def _is_wanted(name: str) -> bool:
    return name.endswith(ARCHIVE) or is_picture_name(name)


def _name_in(line: str) -> str:
    return posixpath.basename(line.partition("?")[0])


def _archives(place: str) -> list[RemoteFile]:
    """Look up the archives of ``{000..012}`` or ``*``; each must be there.

    Raises
    ------
    DatasetError
        Archives that are missing; all are named.
    """
    if "*" in place:
        system, path = connect(place, "folder")
        found = _ask(lambda: system.glob(path, detail=True), place)
        scheme = f"{place.partition('://')[0]}://" if "://" in place else ""
        archives = [_file(f"{scheme}{at}", info) for at, info in sorted(found.items())]
        if not archives:
            raise DatasetError(f"{redact_url(place)}: no archive has such a name")
        return archives
    try:
        urls = expand_range(place)
    except ValueError as error:
        raise DatasetError(f"{redact_url(place)}: {error}") from error
    archives = _look_up(urls, f"look up {posixpath.basename(place)}")
    missing = [str(file) for file in archives if file.size < 0]
    if missing:
        shown = "\n".join(f"  - {url}" for url in missing[:10])
        raise DatasetError(f"{redact_url(place)}: {len(missing)} of {len(archives)} archives are not there:\n{shown}")
    return archives


def _members(archives: Sequence[RemoteFile], cache: Path | None) -> list[Named]:
    """List the pictures in archives, as ``<archive>/<member>``."""

    def index(archive: RemoteFile) -> Iterable[Named]:
        stem = archive.name[: -len(ARCHIVE)]
        members = index_tar(archive, cache)
        return [
            (f"{stem}/{member.name.removeprefix('./')}", RemoteFile(archive.url, archive.size, archive.version, member))
            for member in members
            if _is_shown(member.name.removeprefix("./")) and is_picture_name(posixpath.basename(member.name))
        ]

    def found() -> Iterator[Iterable[Named]]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from track(pool.map(index, archives), "index archives", len(archives), "archives")

    return [named for of_archive in found() for named in of_archive]
