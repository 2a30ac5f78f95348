"""Names of folders that are no names of classes: splits, shards, and folders such as ``images``.

``train2017`` and ``00001`` are the names of parts of a dataset. A classifier of such "classes" would measure nothing
that anybody meant, so a folder with such a name is taken for a class only on request.
"""

from __future__ import annotations

import re

ROLES = {
    "train": {"train", "training", "trn", "trainset", "trainingset"},
    "val": {"val", "valid", "validate", "validation", "dev", "eval", "evaluation", "valset", "devset", "validationset"},
    "trainval": {"trainval", "trainvalid"},
    "test": {"test", "testing", "tst", "testset", "holdout"},
}
"""Splits, and the words that stand for each."""
_WITH_ROLES = (
    "set sets data dataset image images img imgs jpg jpeg jpegs picture pictures photo photos split fold part shard of "
    "seg ilsvrc coco voc cifar mnist imagenet clip resized std small mini full final new labels annotations"
)
WITH_ROLES = frozenset(_WITH_ROLES.split())
"""Words that may stand next to a split's word without making another name of it, as in ``training_set``."""
_CONTAINERS = (
    "image images img imgs pictures pics photos jpegimages jpegs jpg jpgs png pngs label labels annotation annotations "
    "annots anns data dataset datasets masks segmentation segmentations segmentationclass segmentationobject imagesets "
    "bbox bboxes xml xmls json jsons csv txt gt groundtruth thumbnails thumbs dcim unlabeled unlabelled metadata"
)
CONTAINERS = frozenset(_CONTAINERS.split())
"""Names of folders that hold pictures or labels of all classes."""
SHARD = re.compile(
    r"0\d{2,}|(part|shard|chunk|batch|split|fold|block|set|folder|dir|subset|archive|bucket|zip|tar)s?[-_ .]*\d+"
    r"([-_]of[-_]\d+)?|(19|20)\d\d([-_.]\d\d){0,2}|\d{3}(apple|canon|media|_?pana|msdcf|nikon|olymp)|obj_train_data",
    re.IGNORECASE,
)
"""Numbers of shards, dates, and folders of cameras. Plain numbers, as in MNIST's folders 0 to 9, are classes."""


def words_of(name: str) -> list[str]:
    """Split a name into its words and numbers, in lower case.

    >>> words_of("TrainImages_2017"), words_of("val-00001-of-00010")
    (['train', 'images', '2017'], ['val', '00001', 'of', '00010'])
    """
    parts = re.findall(r"[^\W\d_]+|\d+", name)
    return [word.lower() for part in parts for word in re.findall(r"\d+|[A-Z]?[^A-Z\d]+|[A-Z]+(?![^A-Z\d])", part)]


def role_of(name: str) -> str | None:
    """Return the split that a name stands for: train, val, trainval or test; None if it is no name of a split.

    >>> [role_of(name) for name in ("train2017", "Valid", "test_set", "dev", "train-00001", "train_val")]
    ['train', 'val', 'test', 'val', 'train', 'trainval']
    >>> [role_of(name) for name in ("train station", "test tube", "bus", "valley", "developer")]
    [None, None, None, None, None]
    """
    words = words_of(name)
    if name.upper() == name:  # "TRAIN" is one word
        words = [word.lower() for word in re.findall(r"[^\W\d_]+|\d+", name)]
    roles: list[str] = []
    for word in words:
        role = next((role for role, known in ROLES.items() if word in known), None)
        if role is not None:
            roles.append(role)
        elif not (word.isdigit() or len(word) == 1 or word in WITH_ROLES):
            return None
    if roles == ["train", "val"]:
        return "trainval"
    return roles[0] if len(roles) == 1 else None


def is_container(name: str) -> bool:
    """Whether a name is that of a folder of pictures or labels, such as ``images`` or ``Annotations``."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    return bool(words) and ("".join(words) in CONTAINERS or all(word in CONTAINERS for word in words))


def why_no_class(name: str) -> str | None:
    """Return what a folder's name stands for in place of a class, or None if it may be a class.

    >>> why_no_class("train2017"), why_no_class("00001"), why_no_class("images"), why_no_class("7")
    ('a split', 'a shard, a number or a date', 'a folder of pictures or labels', None)
    """
    if role_of(name) is not None:
        return "a split"
    if SHARD.fullmatch(name):
        return "a shard, a number or a date"
    return "a folder of pictures or labels" if is_container(name) else None
