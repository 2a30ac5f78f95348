"""Describe tar archives of webdataset's layout, whose labels lie beside the pictures, by a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.dataset.describe.divide import make_lists
from pipeline.dataset.describe.folders import BAD_CLASS
from pipeline.dataset.describe.names import role_of
from pipeline.dataset.describe.pictures import new_elsewhere_manifest
from pipeline.dataset.describe.tree import LeftOut
from pipeline.dataset.describe.write import IdList, NewDataset, check_new, find_pair, refuse, write_manifest
from pipeline.dataset.elsewhere import Named, list_files
from pipeline.dataset.listing import id_of, name_clashes
from pipeline.dataset.manifest import CLASS_NAME
from pipeline.dataset.places import ARCHIVE, absolute_place, name_of_place
from pipeline.dataset.webdataset import CLS, archives_of, endings_in, labels_of, others_in
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief
from pipeline.io.model import refuse_credentials
from pipeline.io.picture_file import RemoteFile
from pipeline.io.progress import Say
from pipeline.io.remote import redact_url

BESIDE = "next to pictures in archives, not read"


def describe_elsewhere(
    place: str, name: str, manifests: Path, seed: int, metric: str, overwrite: bool, label: str | None, say: Say
) -> Path:
    """Write the manifest of pictures at a URL, in a list or in archives; with labels, if archives hold some.

    Splits are told by the names of archives (``train-000.tar``, ``val-000.tar``); without a pair of them, pictures are
    divided 60 to 40 by `seed`.

    Parameters
    ----------
    label : where the labels are, as in a manifest; None: in ``KEY.cls``, if there are such files

    Raises
    ------
    SettingsError
        See `new_elsewhere_manifest`.
    DatasetError
        It cannot be listed, holds no picture, or pictures have no label. All of them are named.
    """
    refuse_credentials(place, "folder")
    path = check_new(name, manifests, metric, overwrite)
    place, cache = absolute_place(place), manifests / name / "index"
    named = list_files(place, cache)
    archives = archives_of([file for _, file in named])
    _say_others(archives, cache, label or CLS, say)
    if label is None:
        endings = set[str]().union(*(endings_in(archive, cache) for archive in archives))
        if CLS not in endings:
            if "json" in endings:
                say("without labels: if a key of the .json files next to the pictures is one, add --label json:KEY")
            return new_elsewhere_manifest(place, name, manifests, overwrite=overwrite, say=say)
        label = CLS
    classes, labels = _labels_in(named, label, cache, place)
    about: dict[str, object] = {
        "layout": "webdataset",
        "title": f"pictures and labels in {name_of_place(place)}",
        "label": label,
    }
    lists, pair = _lists(named, labels, classes, seed, say)
    return write_manifest(path, NewDataset(place, about, classes, metric, pair, lists), say)


def _say_others(archives: Sequence[RemoteFile], cache: Path, label: str, say: Say) -> None:
    """Count and name what lies beside pictures and is not read."""
    left_out = LeftOut()
    for archive in archives:
        left_out.add(BESIDE, *others_in(archive, cache, label))
    for line in left_out.lines():
        say(line)


def _labels_in(named: Sequence[Named], label: str, cache: Path, place: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the classes, and which of them each picture shows: bool ndarray (n_pictures, n_classes).

    Raises
    ------
    DatasetError
    """
    of_pictures, problems = labels_of([file for _, file in named], label, cache)
    problems += name_clashes([inside for inside, _ in named], [id_of(inside) for inside, _ in named])
    classes = tuple(sorted({name for names in of_pictures for name in names}))
    problems += [f"{brief(name)}: {BAD_CLASS}" for name in classes if not CLASS_NAME.fullmatch(name)]
    shown = redact_url(place)
    try:
        refuse(shown, problems)
    except DatasetError as error:
        raise DatasetError(f"{error}\nfor features without labels, add --no-labels") from error
    if len(classes) < 2:
        got = f"a single class, {brief(classes[0])}" if classes else "no class"
        raise DatasetError(
            f"{shown}: {got}: there is nothing to tell apart; for features without labels, add --no-labels"
        )
    return classes, np.array([[name in names for name in classes] for names in of_pictures], bool)


def _lists(
    named: Sequence[Named], labels: np.ndarray, classes: Sequence[str], seed: int, say: Say
) -> tuple[dict[str, IdList], tuple[str, str]]:
    """Return the id list of each split, and the splits to fit and to score on."""
    ids = [id_of(inside) for inside, _ in named]
    # Of archives, not of what they hold: train-000.tar.
    roles = [role_of(file.url.partition("?")[0].rpartition("/")[2][: -len(ARCHIVE)]) for _, file in named]
    splits = {role: [i for i, of in zip(ids, roles, strict=True) if of == role] for role in roles if role is not None}
    pair = find_pair(splits) if None not in roles else None
    if pair is None:
        return make_lists(ids, labels, classes, seed, say), ("train", "val")
    for split, of_split in splits.items():
        if split in pair:
            held = set(of_split)
            rows = [row for row, i in enumerate(ids) if i in held]
            absent = [name for column, name in enumerate(classes) if not labels[rows, column].any()]
            purpose = "learnt" if split == pair[0] else "scored"
            for name in absent:
                say(f"class {name}: no picture in {split}, so it will not be {purpose}")
    return {split: IdList(tuple(of_split), True, own=True) for split, of_split in splits.items()}, pair
