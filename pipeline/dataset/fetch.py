"""Getting a dataset (drawn or downloaded), and checking what is there against its manifest."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock

from pipeline.dataset.archive import download, merge_folder, unpack
from pipeline.dataset.labelled import list_split
from pipeline.dataset.manifest import Drawn, Manifest, dataset_folder
from pipeline.dataset.picture import decode_annotated
from pipeline.dataset.split import find_pictures, id_list_path, read_ids
from pipeline.dataset.voc import labels_from_lists, parse_objects
from pipeline.dataset.voc_action import read_action_list, read_class_lists
from pipeline.io.atomic import read_json
from pipeline.io.errors import BadPictureError, DatasetError, MissingDataError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import track


@dataclass(frozen=True)
class SplitCheck:
    """What is there of one split.

    Attributes
    ----------
    listed : count of ids, None where the list is missing or unreadable
    official : the manifest's count, None where it states none
    missing_pictures, missing_annotations : ids without a file (annotations: labelled splits only)
    class_lists : count of ``<class>_<split>.txt`` that are there
    faults : everything else that is wrong, a line each: lists, XML files, pictures
    boxes : whether there should be annotations at all
    """

    split: str
    labelled: bool
    listed: int | None
    official: int | None
    missing_pictures: tuple[str, ...] = ()
    missing_annotations: tuple[str, ...] = ()
    class_lists: int = 0
    faults: tuple[str, ...] = ()
    boxes: bool = True

    @property
    def complete(self) -> bool:
        """All that the id list names is there and sound; a subset of the official list is complete too."""
        return self.listed is not None and not (self.missing_pictures or self.missing_annotations or self.faults)

    @property
    def problems(self) -> list[str]:
        lines = [f"no picture JPEGImages/{i}.jpg" for i in self.missing_pictures]
        lines += [f"no annotation Annotations/{i}.xml" for i in self.missing_annotations]
        lines += self.faults
        if self.listed is not None and self.official not in (None, self.listed):
            lines.append(f"{self.listed} pictures listed, the manifest states {self.official}")
        return [f"{self.split}: {line}" for line in lines]

    def __str__(self) -> str:
        if self.listed is None:
            return f"{self.split}: no usable id list"
        pictures = self.listed - len(self.missing_pictures)
        of = "" if self.official is None else f" (manifest: {self.official})"
        text = f"{self.split}: {self.listed} listed{of}, {pictures} pictures"
        if self.labelled and self.boxes:
            text += f", {self.listed - len(self.missing_annotations)} annotations, {self.class_lists} class lists"
        return text


@dataclass(frozen=True)
class CheckReport:
    """State of a dataset; `folder` is None where it was not found, and `missing` says where was looked."""

    name: str
    folder: Path | None
    splits: tuple[SplitCheck, ...] = ()
    missing: str = ""

    @property
    def problems(self) -> list[str]:
        """All problems, one line each, counts that differ from the manifest's included."""
        return [self.missing] if self.folder is None else [p for split in self.splits for p in split.problems]

    @property
    def ok(self) -> bool:
        return not self.problems


def check(manifest: Manifest, data_root: str | Path | None = None, deep: bool = False) -> CheckReport:
    """Compare a dataset's folder with its manifest; problems are reported, never raised.

    Parameters
    ----------
    deep : bool
        Decode every picture as well, and compare its size with its annotation's (minutes, not seconds).
    """
    return _survey(manifest, data_root, read_xml=True, deep=deep)


def _survey(manifest: Manifest, data_root: str | Path | None, read_xml: bool, deep: bool = False) -> CheckReport:
    try:
        folder = dataset_folder(manifest, data_root)
    except MissingDataError as error:
        return CheckReport(manifest.name, None, missing=str(error))
    # Splits overlap (trainval is train and val): each file is read once.
    faults: dict[str, list[str]] = {}
    return CheckReport(
        manifest.name,
        folder,
        tuple(_check_split(manifest, split, folder, faults, read_xml, deep) for split in manifest.splits),
    )


def _check_split(
    manifest: Manifest, split: str, folder: Path, faults: dict[str, list[str]], read_xml: bool, deep: bool
) -> SplitCheck:
    if not manifest.has_boxes:
        return _check_labelled(manifest, split, folder, deep)
    entry = manifest.splits[split]
    of_actions = manifest.layout == "voc-action"
    try:
        list_path = id_list_path(manifest, split, folder)
        ids = tuple(read_action_list(list_path)) if of_actions else read_ids(list_path)
    except (DatasetError, OSError) as error:
        return SplitCheck(split, entry.labelled, None, entry.pictures, faults=(str(error),))
    paths, absent = find_pictures(folder, ids)
    missing = {line.split(":")[0] for line in absent}
    path_of = dict(zip([i for i in ids if i not in missing], paths, strict=True))
    annotations = folder / "Annotations"
    there = {p.stem for p in annotations.glob("*.xml")} if annotations.is_dir() else set()
    if read_xml:
        for i in track(ids, f"check {split}", len(ids), "pictures"):
            if i not in faults:
                xml = annotations / f"{i}.xml" if i in there else None
                faults[i] = _read_files(manifest, xml, path_of.get(i) if deep else None)
    lines: list[str] = []
    lists: list[bytes] = []
    if entry.labelled and of_actions:
        found = read_class_lists(manifest, split, folder)
        lists, lines = found.contents, found.problems
    elif entry.labelled:
        _, lists, lines = labels_from_lists(manifest, split, folder, ids)
    return SplitCheck(
        split,
        entry.labelled,
        len(ids),
        None if manifest.by_person else entry.pictures,  # which then counts persons, not pictures
        tuple(i for i in ids if i in missing),
        tuple(i for i in ids if i not in there) if entry.labelled else (),
        len(lists),
        tuple([f"{i}: {fault}" for i in ids for fault in faults.get(i, ())] + lines),
    )


def _check_labelled(manifest: Manifest, split: str, folder: Path, deep: bool) -> SplitCheck:
    """A split of pictures with labels and no boxes."""
    entry = manifest.splits[split]
    try:
        listing, base = list_split(manifest, split, folder)
    except DatasetError as error:
        return SplitCheck(split, entry.labelled, None, entry.pictures, faults=(str(error),), boxes=False)
    faults = list(listing.problems)
    if deep:
        for path in track(listing.paths, f"check {split}", len(listing.paths), "pictures"):
            faults += _read_files(manifest, None, base / path)
    return SplitCheck(split, entry.labelled, len(listing.ids), entry.pictures, faults=tuple(faults), boxes=False)


def _read_files(manifest: Manifest, xml: Path | None, picture: Path | None) -> list[str]:
    """Problems inside of one annotation and one picture; None is passed over."""
    faults, size_wh = [], None
    if xml is not None:
        try:
            classes = None if manifest.layout == "voc-action" else manifest.classes
            size_wh, _ = parse_objects(xml.read_bytes(), classes)
        except (ValueError, OSError) as error:
            faults.append(f"Annotations/{xml.name}: {error}")
    if picture is not None:
        try:
            decode_annotated(picture.read_bytes(), size_wh, f"JPEGImages/{picture.name}")
        except (BadPictureError, OSError) as error:
            faults.append(str(error))
    return faults


def fetch(manifest: Manifest, data_root: str | Path, say: Callable[[str], None] = print) -> Path:
    """Draw or download a dataset below `data_root`; what is there already stays as it is.

    Parameters
    ----------
    say : called with one message at a time

    Returns
    -------
    Path
        The folder with ``JPEGImages`` and ``Annotations``, as `dataset_folder` finds it.

    Raises
    ------
    MissingDataError
        There is nothing to fetch it from, the server or the disk is at fault, or another fetch is running.
    DatasetError
        An archive is not what the manifest says, or the dataset is incomplete afterwards.
    """
    root = Path(data_root)
    try:
        if manifest.drawn is not None:
            _draw(manifest, manifest.drawn, root, say)
        elif manifest.archives:
            _fetch_archives(manifest, root, say)
        folder = dataset_folder(manifest, root)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MissingDataError(f"{root}: the disk is full; make room, or give another --data-root DIR") from error
    report = _survey(manifest, root, read_xml=False)
    unfinished = [split for split in report.splits if not split.complete]
    if broken := [line for split in unfinished if split.labelled for line in split.problems]:
        raise DatasetError(
            f"{folder}: {len(broken)} problem(s)\n{enumerate_problems(broken)}\n"
            f"move the folder away and run: pipeline data fetch {manifest.name}"
        )
    for split in report.splits:
        say(str(split))
    if manifest.where and unfinished:
        say(f"still to get, {', '.join(split.split for split in unfinished)}: {manifest.where.strip()}")
    return folder


def _draw(manifest: Manifest, drawn: Drawn, root: Path, say: Callable[[str], None]) -> None:
    if manifest.layout == "voc-action":  # their shapes are needed by no other dataset
        from pipeline.dataset.demo.actions import DRAWING, draw_demo
    else:
        from pipeline.dataset.demo.scenes import DRAWING, draw_demo

    folder = root / manifest.folder
    recipe = folder / "drawn.json"
    wanted = {"train": drawn.train, "val": drawn.val}
    report = _survey(manifest, root, read_xml=False)
    listed = {split.split: split.listed for split in report.splits if split.complete}
    try:
        same = read_json(recipe) == {"seed": drawn.seed, "drawing": DRAWING}
    except FileNotFoundError:
        same = False
    except (OSError, ValueError) as error:
        raise DatasetError(f"{recipe}: damaged: {error}; move the folder away and fetch again") from error
    if same and report.folder == folder and wanted.items() <= listed.items():
        say(f"{folder}: already there")
        return
    draw_demo(folder, drawn.train, drawn.val, drawn.seed)


def _fetch_archives(manifest: Manifest, root: Path, say: Callable[[str], None]) -> None:
    report = _survey(manifest, root, read_xml=False)
    target = report.folder or root / manifest.folder
    done = [a for a in manifest.archives if report.folder and (target / f".fetched-{a.md5}").is_file()]
    # Pictures that came another way carry no marks: they count as fetched if all labelled splits are sound.
    by_hand = report.folder and not done and all(s.complete for s in report.splits if s.labelled)
    if by_hand or len(done) == len(manifest.archives):
        say(f"{target}: already there")
        return
    downloads = root / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(downloads / ".lock", timeout=0):
            for archive in manifest.archives:
                if archive in done:
                    continue
                say(f"{archive.url} -> {target}")
                packed = download(archive, downloads)
                _unpack_into(packed, archive.strip, f".fetched-{archive.md5}", target)
                say(f"{packed} is no longer needed")
    except filelock.Timeout as error:
        raise MissingDataError(f"{downloads}: another fetch is running; wait for it") from error


def _unpack_into(packed: Path, strip: str, mark: str, target: Path) -> None:
    """Unpack beside `target` and move into it; `mark` arrives there last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.*.unpacking"):  # of a run that was killed
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}.", suffix=".unpacking", dir=target.parent, ignore_cleanup_errors=True
    ) as temporary:
        files = Path(temporary) / "files"  # the temporary folder itself is closed to other users
        files.mkdir()
        unpack(packed, files)
        source = files / strip
        if not (source / "JPEGImages").is_dir():
            source = source / target.name
        if not (source / "JPEGImages").is_dir():
            raise DatasetError(f"{packed}: expected {strip}/{target.name}/JPEGImages in it, there is no such folder")
        (source / mark).touch()
        merge_folder(source, target)
