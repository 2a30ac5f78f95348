"""The table of folder shapes that ``pipeline data new`` recognises, and what writes their manifests.

A new shape is a module with a writer, and one entry in `SHAPES`. Formats that are recognised and not read stand in
`pipeline.dataset.describe.foreign`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.dataset.describe.annotated import Asked, find_format, new_annotated_manifest
from pipeline.dataset.describe.folders import Folders, new_folders_manifest
from pipeline.dataset.describe.foreign import advice, find_foreign
from pipeline.dataset.describe.peek import PEEKED, csv_header, head_of
from pipeline.dataset.describe.pictures import labels_may_lie_in, new_pictures_manifest
from pipeline.dataset.describe.tree import Folder, LeftOut, read_tree
from pipeline.dataset.describe.voc import find_parts, new_manifest
from pipeline.io.errors import DatasetError, MissingDataError


@dataclass(frozen=True)
class FolderShape:
    """A way in which pictures lie in a folder.

    Attributes
    ----------
    fits : whether a folder has this shape
    write : writes the manifest of a folder, as `pipeline.dataset.describe.voc.new_manifest`
    has_boxes : whether the pictures have boxes
    has_labels : whether they have labels
    """

    fits: Callable[[Folder], bool]
    write: Callable[..., Path]
    has_boxes: bool
    has_labels: bool = True


def has_class_folders(tree: Folder) -> bool:
    """Whether folders below the root hold pictures, directly or deeper."""
    return any(folder.n_pictures or folder.strangers for folder in tree.folders)


SHAPES = (
    FolderShape(lambda tree: bool(find_parts(tree)), new_manifest, has_boxes=True),
    FolderShape(lambda tree: find_format(tree) is not None, new_annotated_manifest, has_boxes=True),
    FolderShape(has_class_folders, new_folders_manifest, has_boxes=False),
    FolderShape(lambda tree: bool(tree.pictures), new_pictures_manifest, has_boxes=False, has_labels=False),
    # Fits every folder: its writer names the missing files of a folder without any shape.
    FolderShape(lambda tree: True, new_manifest, has_boxes=True),
)
VOC, ANNOTATED, CLASS_FOLDERS, UNLABELLED, _ = SHAPES


def recognise_folder(
    root: Path,
    name: str,
    folders: Folders | None = None,
    on_error: str = "fail",
    layout: str | None = None,
    annotations: Sequence[str] = (),
    *,
    no_labels: bool = False,
) -> FolderShape:
    """Find the shape of a folder; of several that fit, the first in the table.

    Parameters
    ----------
    name : of the new dataset, for commands in messages
    folders : what the folders directly below are, if the user said so; the formats of other tools do not matter then
    no_labels : take pictures without labels, whatever lies with them
    on_error : ``skip`` leaves out pictures whose annotations cannot be used, where the shape has annotations
    layout, annotations : format and files of the annotations, if the user named them

    Raises
    ------
    MissingDataError
        The folder cannot be listed.
    DatasetError
        A format that is recognised and not read, or pictures without labels.
    """
    if not root.is_dir():
        what = "a file, not a folder (archives are to be unpacked)" if root.is_file() else "no such folder"
        raise MissingDataError(f"{root}: {what}; --root names the folder of the pictures (a table is given by --table)")
    try:
        tree = read_tree(root)
    except OSError as error:
        raise MissingDataError(f"{root}: no folder of pictures: {error.strerror}") from error
    if no_labels:
        return UNLABELLED
    if folders is not None:
        return replace(CLASS_FOLDERS, write=partial(new_folders_manifest, folders=folders))
    annotated = replace(ANNOTATED, write=partial(new_annotated_manifest, asked=Asked(on_error, layout, annotations)))
    if layout is not None:
        return annotated
    shape = next(shape for shape in SHAPES if shape.fits(tree))
    if shape is ANNOTATED:
        return annotated
    if shape is not VOC:
        _refuse_foreign(tree, name)
    if shape.has_boxes and on_error != "fail":
        return replace(shape, write=partial(shape.write, on_error=on_error))
    return shape


def _refuse_foreign(tree: Folder, name: str) -> None:
    """Raise an error for formats that are not read, for layouts one folder deeper, and for pictures without labels."""
    if inner := next((f for f in tree.walk(2) if f is not tree and f.child("JPEGImages") is not None), None):
        raise DatasetError(f"{tree.path}: the layout of VOC lies in {inner.inside}/: give --root {inner.path}")
    if found := find_foreign(tree):
        archives = f"{(tree.path / found.file).parent}/*.tar" if found.file.lower().endswith(".tar") else ""
        without = f"\n  - for features without labels: pipeline extract --root '{archives}'" if archives else ""
        raise DatasetError(
            f"{tree.path}: this looks like {found.format}, which is not read ({found.file})\n"
            f"{advice(tree, name, found.boxes)}{without}"
        )
    if not has_class_folders(tree) and (labels_may_lie_in(tree) if tree.pictures else tree.strangers):
        raise DatasetError(_no_labels(tree, name))


def _no_labels(tree: Folder, name: str) -> str:
    """Return the message for pictures that cannot be read, or whose labels may lie in a table next to them."""
    if not tree.pictures:
        left_out = LeftOut()
        left_out.add_others(tree)
        return "\n".join([f"{tree.path}: no picture that is read", *left_out.lines()])
    left_out = LeftOut()
    left_out.add_others(tree)
    others = "".join(f"\n{line}" for line in left_out.lines())
    lines = [
        f"if there are no labels, or none are needed: pipeline data new --no-labels --root {tree.path} --name {name}"
    ]
    for file in labels_may_lie_in(tree)[:PEEKED]:
        header = ",".join(csv_header(head_of(tree.path / file))[:8])
        lines.insert(
            0,
            f"give the table that lies there, its columns named picture,label (it has {header}): pipeline data new "
            f"--table {tree.path / file} --root {tree.path} --name {name}",
        )
    ways = "\n".join(f"  - {line}" for line in lines)
    return (
        f"{tree.path}: {len(tree.pictures)} pictures, and a table next to them that may hold their labels{others}\n"
        f"you can:\n{ways}"
    )
