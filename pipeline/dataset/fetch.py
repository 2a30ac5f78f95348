"""Fetch a dataset: draw or download it, then check it against its manifest."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

import filelock

from pipeline.dataset.archive import download, merge_folder, unpack
from pipeline.dataset.manifest import Manifest, dataset_folder
from pipeline.dataset.manifest_entries import Drawn
from pipeline.dataset.read import check, survey
from pipeline.dataset.report import CheckReport, Depth
from pipeline.io.atomic import read_json
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Say

__all__ = ["check", "fetch"]


def _survey(manifest: Manifest, root: Path) -> CheckReport:
    """Check which files are present, without reading annotations or pictures."""
    return survey(manifest, root, Depth(read_xml=False, decode=False))


def fetch(manifest: Manifest, data_root: str | Path, say: Say = print) -> Path:
    """Draw or download a dataset below `data_root`; existing files stay as they are.

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
        There is no source, the server or the disk is at fault, or another fetch is running.
    DatasetError
        An archive is another than the manifest states, or the dataset is incomplete afterwards.
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
    report = _survey(manifest, root)
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


def _draw(manifest: Manifest, drawn: Drawn, root: Path, say: Say) -> None:
    if manifest.layout == "voc-action":  # their shapes are needed by no other dataset
        from pipeline.dataset.demo.actions import DRAWING, draw_demo
    else:
        from pipeline.dataset.demo.scenes import DRAWING, draw_demo

    folder = root / manifest.folder
    recipe = folder / "drawn.json"
    wanted = {"train": drawn.train, "val": drawn.val}
    report = _survey(manifest, root)
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


def _fetch_archives(manifest: Manifest, root: Path, say: Say) -> None:
    report = _survey(manifest, root)
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
    """Unpack next to `target` and move the files into it; `mark` arrives there last."""
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
