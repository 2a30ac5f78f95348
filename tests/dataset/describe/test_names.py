"""Names of folders: ordinary words are classes; splits, shards and containers are none."""

import string
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.own_pictures import draw

from pipeline.dataset.describe.folders import new_folders_manifest
from pipeline.dataset.describe.names import CONTAINERS, ROLES, WITH_ROLES, role_of, why_no_class
from pipeline.dataset.manifest import load_manifest
from pipeline.io.errors import DatasetError

SPLITS = (
    "train2017 val2017 test1 val_0 train-00001 train-00000-of-00010 Train TRAIN trainset training_set test_set valid "
    "validation Validation dev eval test testing training trainval train_val TrainImages val_images seg_train trainA"
)
SHARDS = "00000 00001 007 part-0 part_12 shard0 chunk3 fold1 2017 2024-01-31 100APPLE"
HOLDERS = "images Images image img imgs pictures labels annotations JPEGImages data masks images_1 unlabeled"
CLASSES = (
    "cat dog bus plane train_station test_tube toy-train bullettrain evaluate_me valley developer traininig validator "
    "0 9 10 102 n01440764 001.ak47 tulip mask no_mask imagination labrador database person positive negative part"
)


@pytest.mark.parametrize("name", SPLITS.split())
def test_names_of_splits(name):
    assert role_of(name) is not None and why_no_class(name) == "a split"


@pytest.mark.parametrize("name", [*SHARDS.split(), *HOLDERS.split()])
def test_names_of_shards_and_of_folders_of_pictures(name):
    assert role_of(name) is None and why_no_class(name) is not None


@pytest.mark.parametrize("name", CLASSES.split())
def test_names_of_classes(name):
    assert why_no_class(name) is None


RESERVED = {word for words in ROLES.values() for word in words} | CONTAINERS | WITH_ROLES
WORDS = st.text(string.ascii_lowercase, min_size=3, max_size=9).filter(lambda word: word not in RESERVED)


@settings(max_examples=30, deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=5, unique=True))
def test_ordinary_words_are_classes(words):
    with TemporaryDirectory() as folder:
        root = Path(folder) / "own"
        draw(root, *(f"{word}/{k}.jpg" for word in words for k in range(2)))
        new_folders_manifest(root, "own", Path(folder) / "m", say=lambda line: None)
        assert load_manifest("own", Path(folder) / "m").classes == tuple(sorted(words))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(WORDS, min_size=2, max_size=3, unique=True),
    st.sampled_from(sorted(word for words in ROLES.values() for word in words)),
    st.sampled_from(["", "2017", "_0", "-00001", "_images", " 1"]),
    st.sampled_from([str.lower, str.title, str.upper]),
)
def test_splits_among_classes_are_reported(words, role, suffix, case):
    name = case(role) + suffix
    assume(why_no_class(name) is not None)
    assert role_of(name) is not None
    with TemporaryDirectory() as folder:
        root = Path(folder) / "own"
        draw(root, *(f"{word}/{k}.jpg" for word in (*words, name) for k in range(2)))
        with pytest.raises(DatasetError, match="the name of a split"):
            new_folders_manifest(root, "own", Path(folder) / "m", say=lambda line: None)
        assert not (Path(folder) / "m").exists()


@pytest.mark.parametrize("role", sorted(word for words in ROLES.values() for word in words))
def test_every_word_of_a_split_with_every_suffix(role):
    for suffix in ("", "2017", "_0", "-00001-of-00010", "_images", " 1", "Set"):
        for case in (str.lower, str.title, str.upper):
            assert role_of(case(role) + suffix) is not None, (case(role), suffix)
