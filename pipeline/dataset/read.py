"""The table of layouts: which module reads, digests and checks the files of a split.

A new layout of annotations is a module with the three functions of `LayoutReader`, one line in `LAYOUTS`, and its
name in the manifest's field ``layout``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pipeline.dataset import annotated, elsewhere, labelled, voc, voc_action, webdataset
from pipeline.dataset.formats.names import ANNOTATED
from pipeline.dataset.manifest import Manifest, dataset_folder
from pipeline.dataset.report import CheckReport, Depth, SplitCheck
from pipeline.dataset.split import Split
from pipeline.io.errors import MissingDataError


class LayoutReader(Protocol):
    """A module that reads one layout of a dataset's files."""

    def read(self, manifest: Manifest, split: str, folder: Path, on_error: str = "fail") -> Split:
        """Read a split: ids, paths, annotations, labels. Raises DatasetError with everything that is wrong.

        Under ``on_error="skip"`` annotations that cannot be used are returned as `Split.unusable` instead.
        """
        ...

    def state(self, manifest: Manifest, split: str, folder: Path) -> str:
        """Digest names, sizes and times of all files that `read` reads, and the facts of the manifest it uses."""
        ...

    def check(self, manifest: Manifest, split: str, folder: Path, depth: Depth) -> SplitCheck:
        """Compare the files of a split with its lists; problems are returned, never raised."""
        ...


LAYOUTS: dict[str, LayoutReader] = {
    "voc": voc,
    "voc-action": voc_action,
    "folders": labelled,
    "table": labelled,
    **dict.fromkeys(ANNOTATED, annotated),
    "pictures": labelled,
    "webdataset": webdataset,
}


def find_reader(manifest: Manifest) -> LayoutReader:
    """Return the module that reads a dataset, by its layout and by where it is."""
    is_list = manifest.is_elsewhere and manifest.layout == "pictures"
    return elsewhere if is_list else LAYOUTS[manifest.layout]


def read_split(manifest: Manifest, split: str, data_root: str | Path | None = None, on_error: str = "fail") -> Split:
    """Read the id list, all annotations and all class lists of one split; of layouts without boxes, the labels.

    Parameters
    ----------
    on_error : {"fail", "skip"}
        With annotations that cannot be used: list all of them and raise an error, or return their pictures in
        `Split.unusable`; `pipeline.patches.build.make_table` leaves these out, up to a limit.

    Raises
    ------
    MissingDataError
        The dataset's folder does not exist.
    DatasetError
        Everything wrong with the split, in one message.
    """
    return find_reader(manifest).read(manifest, split, dataset_folder(manifest, data_root), on_error)


def state_of_split(manifest: Manifest, split: str, data_root: str | Path | None = None) -> str:
    """Digest names, sizes and times of all files that a split is read from, and its classes.

    Every change that alters size or time changes the digest. No picture is read; the cost is one stat per file.
    """
    return find_reader(manifest).state(manifest, split, dataset_folder(manifest, data_root))


def check(manifest: Manifest, data_root: str | Path | None = None, deep: bool = False) -> CheckReport:
    """Compare a dataset's folder with its manifest; problems are returned, never raised.

    Parameters
    ----------
    deep : bool
        Decode every picture as well, and compare its size with its annotation's (minutes, not seconds).
    """
    return survey(manifest, data_root, Depth(read_xml=True, decode=deep))


def survey(manifest: Manifest, data_root: str | Path | None, depth: Depth) -> CheckReport:
    """Check all splits of a dataset as thoroughly as `depth` demands."""
    try:
        folder = dataset_folder(manifest, data_root)
    except MissingDataError as error:
        return CheckReport(manifest.name, None, missing=str(error))
    layout = find_reader(manifest)
    elsewhere_at = manifest.folder if manifest.is_elsewhere else ""
    return CheckReport(
        manifest.name,
        folder,
        tuple(layout.check(manifest, split, folder, depth) for split in manifest.splits),
        elsewhere=elsewhere_at,
    )


def is_official(manifest: Manifest, split: str, n_pictures: int) -> bool:
    """Whether a split has the published benchmark's count of pictures; the ids are not compared."""
    return manifest.official and manifest.splits[split].pictures == n_pictures
