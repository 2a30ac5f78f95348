"""Divide pictures into a part to fit on and a part to score on, where a dataset has no splits."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np

from pipeline.dataset.describe.write import VAL_SHARE, IdList
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief
from pipeline.io.progress import Say

MOVES_PER_CLASS = 100
VERSION_OF_PHOTO = re.compile(r"\.rf\.[0-9A-Za-z]{16,}")
"""What Roboflow puts behind the name of a photo in the names of its files, of which augmentation makes several."""


def photo_of(name: str) -> str:
    """Return the name of the photo of which a picture is a version.

    >>> photo_of("street_12_jpg.rf.0123456789abcdef0123456789abcdef"), photo_of("street_12")
    ('street_12_jpg', 'street_12')
    """
    return VERSION_OF_PHOTO.sub("", name)


def explain_versions(ids: Collection[str]) -> str:
    """Return a note that versions of one photo stay together, or an empty text where each picture is one photo.

    Raises
    ------
    DatasetError
        All pictures are versions of one photo.
    """
    n_photos = len({photo_of(i) for i in ids})
    if n_photos == len(ids):
        return ""
    if n_photos == 1:
        raise DatasetError(
            f"all {len(ids)} pictures are versions of one photo, {photo_of(next(iter(ids)))}: none can be both learnt "
            "and scored; give more photos"
        )
    return (
        f"{len(ids)} pictures are versions of {n_photos} photos (NAME.rf.DIGEST); those of one photo are put into one "
        "split"
    )


def make_lists(
    ids: list[str], positive: np.ndarray, classes: Sequence[str], seed: int, say: Say, folder: str | None = None
) -> dict[str, IdList]:
    """Make the lists of train and val, 60 to 40 within each class as far as possible."""
    say("no splits are given: made, 60 to 40 in each class as far as possible")
    if len(ids) > 1 and (positive.sum(0) < 2).all():
        raise DatasetError(
            f"no class has two pictures ({len(classes)} classes, {len(ids)} pictures), so none can be both learnt and "
            "scored; give more pictures, or labels that several pictures share"
        )
    if rare := [name for name, n in zip(classes, positive.sum(0).tolist(), strict=True) if n == 1]:
        say(
            f"NOTE: {len(rare)} of {len(classes)} classes have one picture each, so that each can be learnt or scored, "
            f"not both: {', '.join(map(brief, rare[:5]))}{' ...' if len(rare) > 5 else ''}"
        )
    photos = {name: k for k, name in enumerate(dict.fromkeys(map(photo_of, ids)))}
    photo = np.array([photos[photo_of(i)] for i in ids], np.int64)
    of_photo = np.zeros((len(photos), positive.shape[1]), bool)
    np.logical_or.at(of_photo, photo, positive)
    if note := explain_versions(ids):
        say(note)
    in_val = divide_by_class(of_photo, seed)[photo]
    parts = {"train": ~in_val, "val": in_val}
    return {
        split: IdList(tuple(sorted(ids[k] for k in np.flatnonzero(part))), True, own=True, folder=folder)
        for split, part in parts.items()
    }


def divide_by_class(positive: np.ndarray, seed: int, share: float = VAL_SHARE) -> np.ndarray:
    """Divide pictures by class; return which of them go to the second side.

    Classes are processed from the rarest to the most frequent. The pictures of a class without a side are divided so
    that the whole class comes nearest to `share`. With two pictures or more, both sides get one if possible. With one
    label per picture the shares are met exactly.
    Source: Sechidis, Tsoumakas and Vlahavas (ECML 2011), one class at a time instead of one picture.

    Parameters
    ----------
    positive : bool ndarray of shape (n_pictures, n_classes)

    Returns
    -------
    bool ndarray of shape (n_pictures,)

    Examples
    --------
    >>> in_val = divide_by_class(np.repeat(np.eye(2, dtype=bool), [5, 10], axis=0), seed=0)
    >>> int(in_val[:5].sum()), int(in_val[5:].sum())
    (2, 4)
    """
    rng = np.random.default_rng(seed)
    side = np.full(len(positive), -1)
    total = positive.sum(0)
    groups = [positive[:, c] for c in np.argsort(total, kind="stable") if total[c]]
    for members in [*groups, np.ones(len(positive), bool)]:
        free = rng.permutation(np.flatnonzero(members & (side < 0)))
        n, taken = int(members.sum()), int((members & (side == 1)).sum())
        wanted = round(share * n)
        if n > 1:
            wanted = min(max(wanted, 1), n - 1)
        side[free] = np.arange(len(free)) < min(max(wanted - taken, 0), len(free))
    if len(set(side)) == 1 and len(side) > 1:  # a few pictures with many labels may all go one way
        side[rng.integers(len(side))] ^= 1
    return side == 1


def split_pictures(names_of: dict[str, set[str]], seed: int) -> tuple[list[str], list[str]]:
    """Divide pictures 60 to 40 so that, if possible, each class with two photos is on both sides.

    Versions of one photo stay together.

    >>> split_pictures({"a": {"cat"}, "b": {"dog"}, "c": {"cat"}, "d": {"dog"}, "e": {"cat"}}, seed=0)
    (['a', 'b', 'c'], ['d', 'e'])

    Parameters
    ----------
    names_of : class names of each picture, at least two pictures

    Returns
    -------
    train, val : sorted ids
    """
    versions: dict[str, list[str]] = {}
    for name in sorted(names_of):
        versions.setdefault(photo_of(name), []).append(name)
    whole = {members[0]: members for members in versions.values()}
    names_of = {first: set().union(*(names_of[i] for i in members)) for first, members in whole.items()}
    rng = np.random.default_rng(seed)
    ids = [sorted(names_of)[k] for k in rng.permutation(len(names_of))]
    classes = sorted(set().union(*names_of.values()))
    holds = np.array([[c in names_of[i] for c in classes] for i in ids], bool).reshape(len(ids), len(classes))
    total = holds.sum(0)
    in_val = np.zeros(len(ids), bool)
    in_val[: min(max(round(VAL_SHARE * len(ids)), 1), len(ids) - 1)] = True

    def lacking(side: np.ndarray) -> np.ndarray:
        n_val = holds[side].sum(0)
        return np.flatnonzero((total >= 2) & ((n_val == 0) | (n_val == total)))

    # A picture of a class that lacks a side is exchanged for any picture of the other side, so sizes stay.
    # Exchanges without gain are accepted too, since they lead off plateaus. Bounded, as it may be impossible.
    for _ in range(MOVES_PER_CLASS * len(classes)):
        worst = lacking(in_val)
        if not len(worst):
            break
        mover = rng.choice(np.flatnonzero(holds[:, rng.choice(worst)]))
        partner = rng.choice(np.flatnonzero(in_val != in_val[mover]))
        swapped = in_val.copy()
        swapped[[mover, partner]] = in_val[[partner, mover]]
        if len(lacking(swapped)) <= len(worst):
            in_val = swapped
    return (
        sorted(i for first, val in zip(ids, in_val, strict=True) if not val for i in whole[first]),
        sorted(i for first, val in zip(ids, in_val, strict=True) if val for i in whole[first]),
    )
