"""Rows of ranges of pictures: the same as of all pictures at once, and memory does not follow their number."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tables import all_overlaps, all_rows, table_of_eights, table_of_strips

from pipeline.head.settings import HeadSettings
from pipeline.head.strong import rows_to_learn
from pipeline.io.digests import digest_of
from pipeline.patches import rows as rows_module
from pipeline.patches import table as table_module
from pipeline.patches.labels import BACKGROUND, UNUSED
from pipeline.patches.rows import Objects
from pipeline.patches.sampling import choose_rows
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings, LabelSettings, SourceSettings
from pipeline.patches.sources import plan_windows
from pipeline.patches.table import LABEL_RULES, PatchTable

SOURCES = [
    SourceSettings(grid=GridSettings(scales=(1.0, 2.0), overlap=0.5)),
    SourceSettings(source="whole"),
    SourceSettings(source="crops", crops=CropSettings(shares=(0.5,))),
    SourceSettings(source="boxes", boxes=BoxSettings(margin=1.5, flips=True)),
]


@st.composite
def tables(draw) -> PatchTable:
    """A table of up to six pictures with up to four objects each, of any source."""
    sources = draw(st.sampled_from(SOURCES))
    n = draw(st.integers(1, 6))
    size_wh = np.array(draw(st.lists(st.tuples(*[st.integers(20, 60)] * 2), min_size=n, max_size=n)), np.int32)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    boxes = []
    for size, count in zip(size_wh, counts, strict=True):
        corner = rng.integers(0, size - 4, (count, 2))
        boxes.append(np.concatenate([corner, corner + rng.integers(1, size - corner + 1)], axis=1).astype(float))
    samples = size_wh[:, [0, 1, 0, 1]] * np.array([0.1, 0.2, 0.8, 0.7])
    n_rows = [len(plan_windows(*map(int, wh), sources, box).scale) for wh, box in zip(size_wh, samples, strict=True)]
    return PatchTable(
        dataset="drawn",
        split="train",
        classes=("cat", "dog", "fish"),
        source=sources.source,
        grid=sources.grid,
        crops=sources.crops,
        boxes=sources.boxes,
        ids=tuple(f"p{i}" for i in range(n)),
        size_wh=size_wh,
        first_row=np.cumsum([0, *n_rows]),
        objects=Objects.join(
            boxes, [rng.integers(0, 3, count) for count in counts], [rng.random(count) < 0.3 for count in counts]
        ),
        sample_xyxy=samples if sources.source == "boxes" else None,
        apply_exif=np.zeros(n, bool),
        picture_sha256=("0" * 64,) * n,
        picture_labels=np.ones((n, 3), np.int8),
        skipped=(),
        annotation_digest="",
        rows_digest="rows",
    )


def shared_area(one, other) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def area(box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def slow_label(patch, objects, rule: LabelSettings) -> tuple[int, list[tuple[int, bool]]]:
    """The label of one patch, and class and difficult of each object that fills it; section 3.2 of the paper."""
    touching = [item for item in objects if shared_area(patch, item[0]) > 0]
    filling = [
        item
        for item in touching
        if shared_area(patch, item[0]) >= 0.2 * area(patch) and shared_area(patch, item[0]) >= 0.6 * area(item[0])
    ]
    fills = [(of_class, difficult) for _, of_class, difficult in filling]
    alone = len(filling) == 1 and (rule.single_object == "fills" or len(touching) == 1)
    if alone and not filling[0][2]:
        return filling[0][1], fills
    empty = not touching if rule.background == "untouched" else not filling
    return (BACKGROUND if empty else UNUSED), fills


def slow_rows(table: PatchTable, rule: LabelSettings):
    """All rows one by one: picture, box, scale, flip, label; and the entries of the objects that fill them."""
    rows, fills = [], []
    for index, size in enumerate(table.size_wh):
        sample = None if table.sample_xyxy is None else table.sample_xyxy[index]
        windows = plan_windows(int(size[0]), int(size[1]), table.sources, sample)
        own = range(table.objects.first[index], table.objects.first[index + 1])
        objects = [
            (table.objects.box_xyxy[k], int(table.objects.class_index[k]), bool(table.objects.difficult[k]))
            for k in own
        ]
        for row, box in enumerate(windows.box_xyxy.astype(np.float32)):
            label, of_row = slow_label(box.astype(float) if sample is None else sample, objects, rule)
            fills += [(len(rows), *entry) for entry in of_row]
            flip = None if windows.flip is None else bool(windows.flip[row])
            rows.append((index, box, windows.scale[row], flip, label))
    return rows, fills


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(LABEL_RULES), st.integers(1, 4))
def test_rows_and_digests_are_those_of_a_slow_second_implementation(table, rule, at_work):
    rows, fills = slow_rows(table, rule)
    picture, box_xyxy, scale = (np.array([row[k] for row in rows]) for k in range(3))
    flips = [row[3] for row in rows]
    labels = np.array([row[4] for row in rows])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "PICTURES_AT_WORK", at_work)
        got = all_rows(table)
        np.testing.assert_array_equal(got.picture, picture)
        np.testing.assert_array_equal(got.box_xyxy, box_xyxy)
        np.testing.assert_array_equal(got.scale, scale)
        assert (got.flip is None and set(flips) == {None}) or got.flip.tolist() == flips
        np.testing.assert_array_equal(table.labels(rule), labels)
        rows_digest, labels_digest = table.compute_rows_digest(), table.labels_digest(rule)

    def sha(values, dtype) -> str:
        return hashlib.sha256(np.array(values, dtype).tobytes()).hexdigest()

    flipped = {} if got.flip is None else {"flip": sha(flips, "u1")}
    assert rows_digest == digest_of(
        {
            "format": "patch-table-2",
            "ids": table.ids,
            "source": table.source,
            "sizes": table.size_wh.tolist(),
            "apply_exif": [0] * len(table.ids),
            "picture": sha(picture, "<i4"),
            "box_xyxy": sha(box_xyxy, "<f4"),
            "scale": sha(scale, "u1"),
            "scales": list(table.grid.scales),
            **flipped,
        }
    )
    assert labels_digest == digest_of(
        {
            "format": "patch-table-3",
            "rows": "rows",
            "labels": sha(labels, "<i2"),
            "fills": [sha([entry[k] for entry in fills], "<i8") for k in range(3)],
            "picture_labels": sha(table.picture_labels, "i1"),
            "classes": table.classes,
            "reading": rule.model_dump(),
        }
    )


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_chosen_rows_are_those_of_all_rows(table, data):
    whole = all_rows(table)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, table.n_rows)] * 2)))
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, table.n_rows - 1)))), np.int64)
    for rows in (slice(start, stop), chosen):
        got = table.rows_at(rows)
        for name in ("picture", "box_xyxy", "scale", "flip"):
            expected, values = getattr(whole, name), getattr(got, name)
            if expected is None or not len(got):
                continue
            np.testing.assert_array_equal(values, expected[rows], err_msg=name)
            assert values.dtype == expected.dtype


def test_the_tables_of_the_tests_agree():
    given, planned = table_of_eights(5), table_of_strips(5)

    one, other = all_overlaps(given), all_overlaps(planned)
    for name in ("n_filling", "n_touching", "filling_class", "filling_difficult", "fill_row", "fill_class"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_windows_that_are_remembered_cannot_be_changed():
    windows = table_of_strips(1).windows_of_picture(0)

    with pytest.raises(ValueError, match="read-only"):
        windows.box_xyxy[0] = 0


@pytest.mark.parametrize("rows_at_work", [1, 7, 1000])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_draw_is_that_of_a_permutation_of_all_background_rows(monkeypatch, share, rows_at_work):
    monkeypatch.setattr("pipeline.patches.sampling.ROWS_AT_WORK", rows_at_work)
    labels = np.random.default_rng(0).integers(-2, 3, 200).astype(np.int16)
    background = np.flatnonzero(labels == BACKGROUND)
    drawn = np.random.default_rng([5, 1]).permutation(background)[: round(share * len(background))]

    got = choose_rows(labels, share, 5)

    assert got.dtype == np.int64
    assert got.tolist() == sorted([*drawn.tolist(), *np.flatnonzero(labels >= 0).tolist()])


def test_rows_to_learn_do_not_hang_on_the_ranges(monkeypatch):
    table, found = table_of_strips(9), []
    for at_work, targets in itertools.product((1, 4, 64), ("single", "several")):
        monkeypatch.setattr(table_module, "PICTURES_AT_WORK", at_work)
        found.append((targets, rows_to_learn(table, HeadSettings(targets=targets), LabelSettings(), [0, 1]).tolist()))

    assert len({str(item) for item in found}) == 2


# ---- memory ----------------------------------------------------------------------------------------

GROWTH = """
from dataclasses import replace
from pathlib import Path

import numpy as np
from support.tables import table_of_strips

from pipeline.activations.row_plan import plan_rows
from pipeline.head.settings import HeadSettings
from pipeline.head.strong import rows_to_learn
from pipeline.io.memory import peak_memory
from pipeline.patches.settings import GridSettings, LabelSettings


def use(n_pictures):
    # One picture after the other: 500 x 375, 488 windows, three objects.
    table = replace(
        table_of_strips(n_pictures),
        grid=GridSettings(),
        size_wh=np.tile(np.array([[500, 375]], np.int32), (n_pictures, 1)),
        first_row=488 * np.arange(n_pictures + 1),
        label_hashes={},
    )
    paths = dict.fromkeys(table.ids, Path("x.jpg"))
    table.compute_rows_digest()
    table.labels_digest(LabelSettings())
    for start in range(0, table.n_rows, 8192):
        plan_rows(table, paths, slice(start, start + 8192))
    planned = peak_memory()
    rows_to_learn(table, HeadSettings(), LabelSettings(), [0])
    return table.n_rows, planned


few, _ = use(200)
before = peak_memory()
many, planned = use(2200)
print((planned - before) / (many - few), (peak_memory() - before) / (many - few))
"""


def test_memory_of_a_row_is_a_few_bytes():
    """A table that held its rows took 27 bytes for each, 60 while they were digested, and more for a draw."""
    folders = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    ended = subprocess.run(
        [sys.executable, "-c", GROWTH],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        timeout=100,
    )

    assert ended.returncode == 0, ended.stderr
    of_plans, of_the_draw = map(float, ended.stdout.split())
    assert of_plans < 10  # what pictures take, by 488 rows of each
    # Two bytes of label, four of each background row, and the chosen rows.
    assert of_the_draw < 25


def test_few_sizes_are_remembered():
    assert rows_module._plan_size.cache_info().maxsize == rows_module.SIZES_REMEMBERED
