"""The identity: whatever decides the values in a store changes it, and changes its name."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from support.tables import TableOfRows

from pipeline.activations import trunk_identity as module
from pipeline.activations.identity import FieldDifference, Identity, differences, fingerprint, how_part
from pipeline.activations.trunk_identity import make_identity
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings

CONSTANT = {"how.resize", "how.rounding", "how.colour_order", "how.method"}
"""Fields with one possible value so far; a change of the code changes them, or the version."""


@pytest.fixture
def table(table):
    """The table of the six pictures, of which every row can be changed."""
    return TableOfRows.of(table)


def with_rows(table, **changes):
    changed = replace(table, **changes)
    return replace(changed, rows_digest=changed.compute_rows_digest())


def with_card(trunk, **changes):
    return replace(trunk, card=trunk.card.model_copy(update=changes))


def with_preprocessing(trunk, **changes):
    return with_card(trunk, preprocessing=trunk.card.preprocessing.model_copy(update=changes))


def moved(table):
    boxes = table.box_xyxy.copy()
    boxes[-1] += 1
    return with_rows(table, box_xyxy=boxes)


def other_bytes(table):
    return replace(table, picture_sha256=("0" * 64, *table.picture_sha256[1:]))


def without_last_row(table):
    return with_rows(table, **{name: getattr(table, name)[:-1] for name in ("picture", "box_xyxy", "scale")})


# What changes, and the fields in which that must show: of the table ...
TABLE = {
    "bytes of a picture": (other_bytes, {"seen.pictures"}),
    "an id": (lambda t: with_rows(t, ids=("z", *t.ids[1:])), {"seen.pictures", "seen.rows"}),
    "a box": (moved, {"seen.rows"}),
    "scale of a row": (lambda t: with_rows(t, scale=t.scale + np.uint8(1)), {"seen.rows"}),
    "one row less": (without_last_row, {"seen.rows", "seen.n_rows"}),
    "orientation": (lambda t: with_rows(t, apply_exif=~t.apply_exif), {"seen.rows"}),
    "size of a picture": (lambda t: with_rows(t, size_wh=t.size_wh + 1), {"seen.rows"}),
    "a picture was skipped": (lambda t: replace(t, skipped=(("g", "empty"),)), {"seen.skipped"}),
    "source": (lambda t: with_rows(t, source="whole"), {"seen.rows", "how.source"}),
    "scales": (
        lambda t: with_rows(t, grid=GridSettings(scales=(1.0, 3.0), overlap=0.5)),
        {"seen.rows", "how.scales"},
    ),
    "overlap": (lambda t: replace(t, grid=GridSettings(scales=(1.0, 2.0), overlap=0.6)), {"how.overlap"}),
}
# ... of the trunk ...
TRUNK = {
    "architecture": (lambda t: with_card(t, architecture="alexnet"), {"how.architecture"}),
    "weights": (lambda t: replace(t, weights_sha256="0" * 64), {"how.weights"}),
    "layer": (lambda t: replace(t, layer="fc6"), {"how.layer"}),
    "width": (lambda t: replace(t, width=7), {"how.width"}),
    "input size": (lambda t: with_card(t, input_px=96), {"how.input_px"}),
    "mean": (lambda t: with_preprocessing(t, mean=(0.0, 0.0, 0.0)), {"how.mean"}),
    "std": (lambda t: with_preprocessing(t, std=(1.0, 1.0, 1.0)), {"how.std"}),
}
# ... of the run ...
RUN = {
    "precision": ({"precision": "cpu-bf16"}, {"how.precision"}),
    "backend": ({"precision": "cuda-fp32"}, {"how.precision"}),
    "batch": ({"batch": 65}, {"how.batch"}),
    "what is kept": ({"dtype": "8bit"}, {"how.dtype"}),
    "chosen rows": ({"rows": np.array([0, 2])}, {"seen.which", "seen.n_rows"}),
    "rows per part": ({"part_rows": 2048}, {"how.part_rows"}),
}
# ... and of the code.
CODE = {
    "version of the activations room": ("VERSION", {"how.extractor"}),
    "version of the trunk room": ("TRUNK_VERSION", {"how.extractor"}),
    "format": ("FORMAT", {"how.format"}),
    "decoder": ("DECODER", {"how.decoder"}),
}


def changed_fields(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (a == b)
    return {key for key in {*a, *b} if a.get(key) != b.get(key)}


def test_an_identity_comes_back_as_it_was(identify):
    identity = identify()
    again = Identity.from_dict(json.loads(json.dumps(identity.to_dict())))
    assert again == identity == identity.to_dict() and fingerprint(again) == fingerprint(identity)
    assert pickle.loads(pickle.dumps(identity)) == identity
    assert {**identity} == identity.to_dict() and len(identity) == len(identity.to_dict())


def test_typed_fields_are_those_on_disk(identify, trunk):
    identity = identify(batch=64, part_rows=1024)
    assert (identity.layer, identity.width, identity.batch, identity.part_rows) == ("fc7", trunk.width, 64, 1024)
    assert (identity.dtype, identity.precision, identity.format) == ("float16", "cpu-fp32", module.FORMAT)
    assert (identity.n_rows, identity.skipped, identity.which_rows) == (99, [], "all")
    with pytest.raises(KeyError):
        _ = Identity({}).layer
    assert Identity({}).format is None


@pytest.fixture
def identify(table, trunk):
    def make(table=table, trunk=trunk, precision="cpu-fp32", batch=64, part_rows=1024, dtype="float16", rows=None):
        return make_identity(table, trunk, precision, batch, part_rows, dtype=dtype, rows=rows)

    return make


@pytest.mark.parametrize("what", TABLE)
def test_change_of_the_table_shows(identify, table, what):
    change, fields = TABLE[what]
    assert changed_fields(identify(), identify(table=change(table))) == fields


@pytest.mark.parametrize("what", TRUNK)
def test_change_of_the_trunk_shows(identify, trunk, what):
    change, fields = TRUNK[what]
    assert changed_fields(identify(), identify(trunk=change(trunk))) == fields


@pytest.mark.parametrize("what", RUN)
def test_change_of_the_run_shows(identify, what):
    arguments, fields = RUN[what]
    assert changed_fields(identify(), identify(**arguments)) == fields


@pytest.mark.parametrize("what", CODE)
def test_change_of_the_code_shows(identify, monkeypatch, what):
    name, fields = CODE[what]
    before = identify()
    monkeypatch.setattr(module, name, "other")
    assert changed_fields(before, identify()) == fields


def test_every_field_is_tried_above(identify):
    tried = set().union(*(fields for cases in (TABLE, TRUNK, RUN, CODE) for _, fields in cases.values()))
    assert tried | CONSTANT == set(identify())
    assert not tried & CONSTANT


def test_names_labels_and_places_do_not_show(identify, table, trunk):
    other = replace(
        table,
        dataset="other",
        split="val",
        classes=("cat", "dog"),
        overlap=replace(table.overlap, filling_class=table.overlap.filling_class + 1),
        annotation_digest="changed",
    )
    renamed = with_card(trunk, name="other", trained={"source": "else"})
    assert identify(table=other, trunk=renamed) == identify()


def test_identity_is_flat_readable_json(identify):
    for key, value in identify().items():
        assert key.partition(".")[0] in ("seen", "how")
        assert isinstance(value, str | int | float | list)
        assert not isinstance(value, list) or all(isinstance(item, float) for item in value)


def test_how_part_is_what_a_head_compares(identify, table):
    there = how_part(identify())
    assert there == how_part(identify(table=other_bytes(moved(table))))
    assert not any(key.startswith("seen.") for key in there)


def test_differences_name_missing_fields_too():
    assert differences({"a": 1}, {"a": 1}) == []
    assert list(map(str, differences({"a": 1, "b": 2}, {"b": 3, "c": 4}))) == [
        "a: got 1, expected None",
        "b: got 2, expected 3",
        "c: got None, expected 4",
    ]


# ---- sources that came later -----------------------------------------------------------------------


def test_first_sources_have_the_fields_that_they_always_had(table, trunk):
    for source in ("grid", "whole"):
        identity = make_identity(with_rows(table, source=source), trunk, "cpu-fp32", 16, 64)
        named = {key for key in identity if key.startswith("how.") and key.split(".")[1].split("_")[0] in NEW}
        assert not named and {"how.scales", "how.overlap"} <= set(identity)
        assert len(identity) == 26


NEW = {"crops", "boxes", "cut", "flip"}


def test_settings_of_crops_are_in_the_identity_of_crops_alone(table, trunk):
    def of(source, **changes):
        return make_identity(replace(table, source=source, **changes), trunk, "cpu-fp32", 16, 64)

    small = CropSettings(shares=(0.5,))
    assert differences(of("crops"), of("crops", crops=small)) == [FieldDifference("how.crops_shares", [0.875], [0.5])]
    assert of("crops", boxes=BoxSettings(margin=2)) == of("crops")
    assert of("grid", crops=small) == of("grid")
    assert {"how.scales", "how.overlap"}.isdisjoint(of("boxes")) and of("boxes")["how.boxes_margin"] == 1.0
