"""Labelled pictures in memory, for the training of a trunk; class folders are one source of them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.dataset.picture import decode_picture
from pipeline.dataset.picture_formats import FORMATS
from pipeline.dataset.split import PICTURE_SUFFIXES
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import BadPictureError, DatasetError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import track

CLASS_SUFFIXES = (*PICTURE_SUFFIXES, ".ppm")
CLASS_FORMATS = (*FORMATS, "PPM")


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures of one size with a class each, decoded, in memory.

    Attributes
    ----------
    pixels : uint8 Tensor of shape (n, px, px, 3), RGB
    labels : int64 Tensor of shape (n,), index into `classes`
    classes : names of the classes
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def digest(self) -> str:
        """Digest classes, labels and pixels."""
        return digest_of(
            {
                "classes": self.classes,
                "labels": sha256_bytes(self.labels.numpy().astype("<i8").tobytes()),
                "pixels": hashlib.sha256(self.pixels.numpy().data.cast("B")).hexdigest(),
            }
        )

    def largest_share(self) -> float:
        """Return the share of the most frequent class: the accuracy of always predicting it."""
        return float(torch.bincount(self.labels).max()) / len(self.labels)


def list_classes(folder: Path) -> tuple[str, ...]:
    """List the names of the class folders in a folder, sorted."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; expected class folders <class>/*.jpg below it")
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def decode_class_folders(folder: Path, px: int, chosen: tuple[str, ...] | None = None) -> LabelledPictures:
    """Decode ``folder/<class>/*`` (torchvision's ImageFolder layout) once, into memory.

    Each picture is scaled so that its short side is `px` and cut to the central square.

    Parameters
    ----------
    chosen : classes that are read; None for all

    Raises
    ------
    DatasetError
        No class folder, a chosen class without one, an empty class, or pictures that cannot be
        decoded: all of them are named.
    """
    available = list_classes(folder)
    classes = available if chosen is None else tuple(sorted(chosen))
    missing = sorted(set(classes) - set(available))
    if missing:
        raise DatasetError(
            f"{folder}: {len(missing)} of {len(classes)} chosen classes have no folder\n{enumerate_problems(missing)}"
        )
    paths, labels = [], []
    empty = []
    for label, name in enumerate(classes):
        pictures = sorted(
            p for p in (folder / name).iterdir() if p.suffix.lower() in CLASS_SUFFIXES and not p.name.startswith(".")
        )
        if not pictures:
            empty.append(f"{folder / name}: no picture")
        paths += pictures
        labels += [label] * len(pictures)
    if empty or len(classes) < 2:
        problems = empty or [f"{len(classes)} class folders, expected at least 2"]
        raise DatasetError(f"{folder}: not a folder of class folders\n{enumerate_problems(problems)}")

    pixels = np.empty((len(paths), px, px, 3), dtype=np.uint8)
    problems = []

    def decode(index: int) -> None:
        try:
            pixels[index] = decode_square(paths[index], px)
        except OSError as error:
            problems.append(f"{paths[index]}: {error.strerror or error}")
        except BadPictureError as error:
            problems.append(str(error))

    with ThreadPoolExecutor() as pool:
        for _ in track(pool.map(decode, range(len(paths))), "decode", len(paths), "pictures"):
            pass
    if problems:
        raise DatasetError(
            f"{folder}: {len(problems)} of {len(paths)} pictures cannot be decoded\n"
            f"{enumerate_problems(sorted(problems))}\nfix or remove them and start again"
        )
    return LabelledPictures(torch.from_numpy(pixels), torch.tensor(labels), classes)


def decode_square(path: Path, px: int) -> np.ndarray:
    """Decode a picture, scale its short side to `px`, and cut the central square.

    It is read as it is shown, turned by its EXIF orientation, as in datasets.

    Returns
    -------
    uint8 ndarray of shape (px, px, 3), RGB

    Raises
    ------
    BadPictureError, OSError
    """
    image = Image.fromarray(decode_picture(path.read_bytes(), apply_exif=True, name=str(path), formats=CLASS_FORMATS))
    scale = px / min(image.size)
    if scale != 1:
        size = (max(px, round(image.width * scale)), max(px, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - px) // 2, (image.height - px) // 2
    return np.asarray(image)[top : top + px, left : left + px]


def decode_both(
    train_dir: Path, val_dir: Path, px: int, chosen: tuple[str, ...] | None = None
) -> tuple[LabelledPictures, LabelledPictures]:
    """Decode class folders to train on and the same classes to evaluate on, as `decode_class_folders`.

    Raises
    ------
    DatasetError
        Also if the two have different classes: the classes of only one of them are named.
    """
    train, val = (decode_class_folders(folder, px, chosen) for folder in (train_dir, val_dir))
    if val.classes != train.classes:
        differing = sorted(set(val.classes) ^ set(train.classes))
        raise DatasetError(
            f"{val_dir}: classes differ from {train_dir}\n"
            f"{enumerate_problems([f'{c}: only in one of them' for c in differing])}"
        )
    return train, val
