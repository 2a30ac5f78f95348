"""Layout ``webdataset``: pictures in tar archives, and beside each ``KEY.jpg`` a file of the same key with its label.

``KEY.cls`` holds the number or the name of a class; of ``KEY.json`` a stated key does, or several of them in a list. A
key is a member's path up to the first dot of its name, as in webdataset.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.elsewhere import check as check_pictures
from pipeline.dataset.elsewhere import files_of, index_folder, state_of_files
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.report import Depth, SplitCheck
from pipeline.dataset.split import EMPTY_ANNOTATION, Split, is_picture_name, refuse_split
from pipeline.dataset.tar_index import Ranges, index_tar
from pipeline.io.atomic import read_json, write_atomic
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError, PipelineError
from pipeline.io.messages import brief
from pipeline.io.names import normalise, show_name
from pipeline.io.picture_file import TAR_BLOCK, Member, RemoteFile
from pipeline.io.progress import track
from pipeline.io.remote import REQUESTS

CLS, JSON = "cls", "json:"
"""Labels in ``KEY.cls``, and those in a key of ``KEY.json``, whose name follows."""
FORMAT = "tar-labels-1"
MOST_BYTES = 2**20
"""Of a file with a label: more is none."""


@dataclass(frozen=True)
class ArchiveLabels:
    """The labels in one archive.

    Attributes
    ----------
    classes : names of the classes of each key
    problems : of the files that hold no label, by key
    """

    classes: Mapping[str, tuple[str, ...]]
    problems: Mapping[str, str]


def read(manifest: Manifest, split: str, folder: Path, on_error: str = "fail") -> Split:
    """List the pictures of a split with their labels; see `pipeline.dataset.read.LayoutReader`.

    Raises
    ------
    DatasetError
        Everything wrong with it, in one message.
    """
    files, problems = files_of(manifest, split)
    column = {name: index for index, name in enumerate(manifest.classes)}
    is_labelled = manifest.splits[split].labelled
    labels = np.full((len(files), len(column)), -1, np.int8) if is_labelled else None
    if labels is not None:
        of_files, more = labels_of(list(files.values()), _label_of(manifest), index_folder(manifest))
        problems += more
        for row, (file, classes) in enumerate(zip(files.values(), of_files, strict=True)):
            unknown = [name for name in classes if name not in column]
            problems += [f"{file}: a label that is no class of the manifest: {brief(name)}" for name in unknown]
            labels[row, [column[name] for name in classes if name in column]] = 1
    refuse_split(manifest, split, manifest.folder, problems)
    digest = digest_of([manifest.layout, list(files), None if labels is None else sha256_bytes(labels.tobytes())])
    annotations = (EMPTY_ANNOTATION,) * len(files)
    return Split(manifest, split, folder, tuple(files), tuple(files.values()), annotations, labels, digest)


def state(manifest: Manifest, split: str, folder: Path) -> str:
    """Digest names, sizes and versions of all pictures; labels change with the version of their archive."""
    about = [manifest.classes, manifest.label, manifest.splits[split].labelled]
    return digest_of([about, state_of_files(manifest, split)])


def check(manifest: Manifest, split: str, folder: Path, depth: Depth) -> SplitCheck:
    """Compare pictures and labels with the split's list and the manifest's classes."""
    found = check_pictures(manifest, split, folder, depth)
    if found.faults:
        return found
    try:
        read(manifest, split, folder)
    except DatasetError as error:
        return replace(found, faults=(str(error),))
    return found


def _label_of(manifest: Manifest) -> str:
    assert manifest.label is not None, "as a manifest of this layout has it"
    return manifest.label


def key_of(name: str) -> tuple[str, str]:
    """Return the key and the ending of a member.

    >>> key_of("./a/0001.left.JPG"), key_of("0001.cls")
    (('a/0001', 'left.jpg'), ('0001', 'cls'))
    """
    folder, base = posixpath.split(name.removeprefix("./"))
    stem, _, ending = base.partition(".")
    return posixpath.join(folder, stem), ending.lower()


def archives_of(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Return the archives of pictures, each once."""
    return list(dict.fromkeys(replace(file, member=None) for file in files if file.member is not None))


def labels_of(files: Sequence[RemoteFile], label: str, cache: Path | None) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the classes of each picture, none where it has no label, and problems, one line each.

    Parameters
    ----------
    label : ``cls``, or ``json:`` and a key
    cache : folder of indexes; None for none
    """
    archives, problems = archives_of(files), []
    with ThreadPoolExecutor(REQUESTS) as pool:
        read_each = pool.map(lambda archive: read_labels(archive, label, cache), archives)
        found = dict(zip(archives, track(read_each, "read labels", len(archives), "archives"), strict=True))
    classes: list[tuple[str, ...]] = []
    for file in files:
        if file.member is None:
            problems.append(f"{file}: in no archive, so it has no label")
            classes.append(())
            continue
        of_archive, key = found[replace(file, member=None)], key_of(file.member.name)[0]
        classes.append(of_archive.classes.get(key, ()))
        if key not in of_archive.classes:
            ending = CLS if label == CLS else "json"
            problems.append(
                f"{file}: {of_archive.problems.get(key, f'no label: there is no {show_name(key)}.{ending}')}"
            )
    return classes, problems


def others_in(archive: RemoteFile, cache: Path | None, label: str | None = None) -> list[str]:
    """Return the names of the members that are neither pictures nor files of labels, as they are shown."""
    used = None if label is None else CLS if label == CLS else "json"
    return [
        f"{archive.name}#{show_name(member.name)}"
        for member in index_tar(archive, cache)
        if not is_picture_name(posixpath.basename(member.name)) and key_of(member.name)[1] != used
    ]


def endings_in(archive: RemoteFile, cache: Path | None) -> set[str]:
    """Return the endings of all members, such as ``cls``."""
    return {key_of(member.name)[1] for member in index_tar(archive, cache)}


def read_labels(archive: RemoteFile, label: str, cache: Path | None) -> ArchiveLabels:
    """Read the labels in an archive; cached by its version.

    Raises
    ------
    DatasetError, PipelineError
        As `index_tar`; the archive was replaced while it was read.
    """
    path = None
    if cache is not None and archive.version is not None:
        key = digest_of([FORMAT, label, str(archive), archive.size, archive.version])
        path = cache / f"{archive.name}-{key[:16]}-labels.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = read_json(path)
            classes = {str(key): tuple(map(str, names)) for key, names in content["classes"].items()}
            return ArchiveLabels(classes, {str(key): str(text) for key, text in content["problems"].items()})
    found = _read_labels(archive, label, index_tar(archive, cache))
    if path is not None:
        content = {"format": FORMAT, "classes": found.classes, "problems": found.problems}
        with contextlib.suppress(OSError):
            write_atomic(path, json.dumps(content).encode())
    return found


def _read_labels(archive: RemoteFile, label: str, members: Sequence[Member]) -> ArchiveLabels:
    wanted = CLS if label == CLS else "json"
    classes: dict[str, tuple[str, ...]] = {}
    problems: dict[str, str] = {}
    for name, data in _contents(archive, [m for m in members if key_of(m.name)[1] == wanted], problems):
        key = key_of(name)[0]
        try:
            found = _parse_cls(data) if label == CLS else _parse_json(data, label.removeprefix(JSON))
        except ValueError as error:
            problems[key] = f"{show_name(name)}: {error}"
            continue
        if classes.get(key, found) != found:
            problems[key] = f"{show_name(name)}: the archive has two of this name, and they differ"
        classes[key] = found
    return ArchiveLabels({key: names for key, names in classes.items() if key not in problems}, problems)


def _contents(archive: RemoteFile, members: Sequence[Member], problems: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each member, read in ranges; too large ones become problems."""
    stream = Ranges(archive)
    for member in members:
        if member.size > MOST_BYTES:
            problems[key_of(member.name)[0]] = f"{show_name(member.name)}: {member.size:,} bytes, so it is no label"
            continue
        stream.seek(member.offset - TAR_BLOCK)
        data = stream.read(TAR_BLOCK + member.size)
        if len(data) != TAR_BLOCK + member.size or zlib.crc32(data[:TAR_BLOCK]) != member.header_crc:
            raise PipelineError(f"{archive}: changed while it was read; start the same command again")
        yield member.name, data[TAR_BLOCK:]


def _parse_cls(data: bytes) -> tuple[str, ...]:
    """Read the number or name of one class.

    >>> _parse_cls(b"7\\n"), _parse_cls("büro".encode())
    (('7',), ('büro',))

    Raises
    ------
    ValueError
    """
    text = _decode(data).strip()
    if not text or len(text.splitlines()) > 1:
        raise ValueError(f"expected the number or name of one class, got {brief(text)}")
    return (normalise(text),)


def _parse_json(data: bytes, key: str) -> tuple[str, ...]:
    """Read the class, or the classes in a list, under a key of a JSON object.

    >>> _parse_json(b'{"label": 3}', "label"), _parse_json(b'{"tags": ["cat", "dog"]}', "tags")
    (('3',), ('cat', 'dog'))

    Raises
    ------
    ValueError
    """
    try:
        content = json.loads(_decode(data))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(content, dict) or key not in content:
        has = f"it has {', '.join(map(brief, list(content)[:10]))}" if isinstance(content, dict) else "it is no object"
        raise ValueError(f"no key {key!r}: {has}")
    values: list[Any] = content[key] if isinstance(content[key], list) else [content[key]]
    bad = [value for value in values if isinstance(value, bool) or not isinstance(value, str | int) or value == ""]
    if bad:
        raise ValueError(f"{key}: expected the number or name of a class, or a list of them, got {brief(bad[0])}")
    names = [normalise(str(value).strip()) for value in values]
    if len(set(names)) < len(names):
        raise ValueError(f"{key}: names a class twice, got {brief(values)}")
    return tuple(names)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from error
