"""Labelled pictures in memory: what a trunk is trained on, and class folders as one source of them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.dataset.picture import FORMATS
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import track

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


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
        """SHA-256 of classes, labels and pixels."""
        return digest_of(
            {
                "classes": self.classes,
                "labels": sha256_bytes(self.labels.numpy().astype("<i8").tobytes()),
                "pixels": hashlib.sha256(self.pixels.numpy().data.cast("B")).hexdigest(),
            }
        )

    def largest_share(self) -> float:
        """Share of the most frequent class: the accuracy of naming it always."""
        return float(torch.bincount(self.labels).max()) / len(self.labels)


def list_classes(folder: Path) -> tuple[str, ...]:
    """Names of the class folders in a folder, sorted."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; expected class folders <class>/*.jpg below it")
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))


def decode_class_folders(folder: Path, px: int, chosen: tuple[str, ...] | None = None) -> LabelledPictures:
    """Decode ``folder/<class>/*`` (torchvision's ImageFolder layout) once, into memory.

    Each picture is scaled so that its short side is `px` and cut to the central square.

    Parameters
    ----------
    chosen : classes that are read, of more that may be there; None for all

    Raises
    ------
    DatasetError
        No class folder, a chosen one that is not there, an empty class, or pictures that cannot be
        decoded: all of them are named.
    """
    there = list_classes(folder)
    classes = there if chosen is None else tuple(sorted(chosen))
    missing = sorted(set(classes) - set(there))
    if missing:
        raise DatasetError(
            f"{folder}: {len(missing)} of {len(classes)} chosen classes have no folder\n{enumerate_problems(missing)}"
        )
    paths, labels = [], []
    empty = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not found:
            empty.append(f"{folder / name}: no picture")
        paths += found
        labels += [label] * len(found)
    if empty or len(classes) < 2:
        problems = empty or [f"{len(classes)} class folders, expected at least 2"]
        raise DatasetError(f"{folder}: not a folder of class folders\n{enumerate_problems(problems)}")

    pixels = np.empty((len(paths), px, px, 3), dtype=np.uint8)
    problems = []

    def decode(index: int) -> None:
        try:
            with Image.open(paths[index], formats=(*FORMATS, "PPM")) as opened:
                image = opened.convert("RGB")
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything on hostile bytes
            problems.append(f"{paths[index]}: {error}")
            return
        scale = px / min(image.size)
        if scale != 1:
            size = (max(px, round(image.width * scale)), max(px, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (image.width - px) // 2, (image.height - px) // 2
        pixels[index] = np.asarray(image)[top : top + px, left : left + px]

    with ThreadPoolExecutor() as pool:
        for _ in track(pool.map(decode, range(len(paths))), "decode", len(paths), "pictures"):
            pass
    if problems:
        raise DatasetError(
            f"{folder}: {len(problems)} of {len(paths)} pictures cannot be decoded\n"
            f"{enumerate_problems(sorted(problems))}\nmend or remove them and start again"
        )
    return LabelledPictures(torch.from_numpy(pixels), torch.tensor(labels), classes)


def decode_both(
    train_dir: Path, val_dir: Path, px: int, chosen: tuple[str, ...] | None = None
) -> tuple[LabelledPictures, LabelledPictures]:
    """Class folders to train on and the same classes to measure on, as `decode_class_folders`.

    Raises
    ------
    DatasetError
        Also if the two have different classes: those that only one of them has are named.
    """
    train, val = (decode_class_folders(folder, px, chosen) for folder in (train_dir, val_dir))
    if val.classes != train.classes:
        differing = sorted(set(val.classes) ^ set(train.classes))
        raise DatasetError(
            f"{val_dir}: classes differ from {train_dir}\n"
            f"{enumerate_problems([f'{c}: only in one of them' for c in differing])}"
        )
    return train, val
