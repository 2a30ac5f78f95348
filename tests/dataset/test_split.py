"""Splits as values: of plain files, by id; and the table of layouts."""

from pathlib import Path
from typing import get_args

import pytest

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.read import LAYOUTS
from pipeline.dataset.split import EMPTY_ANNOTATION, Split


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        name="own", title="own", folder="own", classes=("a",), metric="voc12", fit="x", eval="x", splits={"x": {}}
    )


def test_a_split_of_plain_files_has_no_annotations_and_no_labels(manifest):
    paths = [Path("b/two.png"), Path("a/one.jpg")]

    split = Split.of_files(manifest, paths)

    assert (split.ids, split.paths, split.labels) == (("two", "one"), tuple(paths), None)
    assert split.annotations == (EMPTY_ANNOTATION,) * 2
    assert split.paths_by_id == {"two": paths[0], "one": paths[1]}
    assert split.annotations_by_id == {"two": EMPTY_ANNOTATION, "one": EMPTY_ANNOTATION}


def test_ids_of_plain_files_may_be_given(manifest):
    split = Split.of_files(manifest, [Path("x.png"), Path("deep/x.png")], ("query 1", "query 2"), "query")

    assert (split.name, split.ids) == ("query", ("query 1", "query 2"))


def test_every_layout_of_a_manifest_has_a_reader():
    assert set(get_args(Manifest.model_fields["layout"].annotation)) == set(LAYOUTS)
