"""Whole pictures of a store, also those that straddle parts: each once an epoch, with all of its rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.activations.store import Store
from pipeline.head.bags import PictureBags
from pipeline.head.fit_rows import MemoryBudget

WIDTH = 3
BYTES_A_ROW = 2 * WIDTH


def make_pictures(make, path: Path, sizes: list[int], part_rows: int) -> tuple[Store, np.ndarray]:
    """A store in which row r of all is ``[r, picture, 0]``, and the first row of each picture."""
    table = make.table(len(sizes))
    n = sum(sizes)
    picture = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    table = replace(table, picture=picture, box_xyxy=np.zeros((n, 4), np.float32), scale=np.zeros(n, np.uint8))
    rows = np.stack([np.arange(n), picture, np.zeros(n)], axis=1).astype(np.float16)
    return make.store(path, table, rows, part_rows), table.first_row


def check(pictures: list[tuple[int, np.ndarray]], first_row: np.ndarray, wanted: np.ndarray) -> None:
    """Each wanted picture once, its rows whole and in order."""
    assert sorted(i for i, _ in pictures) == [i for i in np.flatnonzero(wanted) if first_row[i] < first_row[i + 1]]
    for i, rows in pictures:
        assert rows[:, 0].tolist() == list(range(first_row[i], first_row[i + 1])), i
        assert (rows[:, 1] == i).all()


# Sizes up to several parts, so that a picture straddles two or five of them; pictures without a row; parts whose
# edges are those of pictures.
SHAPES = [
    pytest.param(([7, 3, 12, 1, 1, 9, 20, 2, 5, 6, 11], 10), id="pictures and parts about alike"),
    pytest.param(([24, 31, 2, 40, 1, 1, 17], 6), id="pictures of several parts"),
    pytest.param(([3, 0, 1, 2, 0, 4, 1, 1, 2, 3, 5, 1, 0], 12), id="parts of several pictures"),
    pytest.param(([5] * 6, 15), id="parts that end with a picture"),
    pytest.param(([9], 100), id="one picture"),
]


@pytest.fixture(scope="module", params=SHAPES)
def shape(request, make, tmp_path_factory):
    sizes, part_rows = request.param
    return make_pictures(make, tmp_path_factory.mktemp("pictures") / "s.zarr", sizes, part_rows)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(held_rows=st.sampled_from([0, 10, 30, 1000]), size=st.integers(1, 5), seed=st.integers(0, 99), data=st.data())
def test_each_picture_once_and_whole(shape, held_rows, size, seed, data):
    store, first_row = shape
    n = len(first_row) - 1
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    generator = torch.Generator().manual_seed(seed)
    pictures = PictureBags(store, first_row, wanted, held_rows * BYTES_A_ROW)

    for epoch in range(2):
        batches = list(pictures.in_batches(size, generator))
        check([item for batch in batches for item in batch], first_row, wanted)
        # Full batches, but for the last one.
        assert all(len(batch) == size for batch in batches[:-1]), epoch
    in_order = list(pictures.in_order())
    check(in_order, first_row, wanted)
    assert pictures.n_rows == sum(len(rows) for _, rows in in_order)
    assert len(pictures) == len(in_order)


@pytest.fixture
def counted(make, tmp_path, monkeypatch):
    """Twenty pictures of ten rows in parts of 25, and the numbers of the parts in the order in which they are read."""
    store, first_row = make_pictures(make, tmp_path / "s.zarr", [10] * 20, 25)
    read = []
    read_part = store.read_part
    monkeypatch.setattr(store, "read_part", lambda part: read.append(part.index) or read_part(part))
    return store, first_row, read


ALL = np.ones(20, bool)


def test_pictures_that_fit_are_read_once(counted):
    store, first_row, read = counted
    pictures = PictureBags(store, first_row, ALL, cache_bytes=200 * BYTES_A_ROW)
    generator = torch.Generator().manual_seed(0)

    list(pictures.in_order())
    for _ in range(3):
        list(pictures.in_batches(4, generator))

    assert sorted(read) == list(range(8))


def test_others_are_read_once_an_epoch_in_another_order(counted):
    store, first_row, read = counted
    pictures = PictureBags(store, first_row, ALL, cache_bytes=60 * BYTES_A_ROW)
    generator = torch.Generator().manual_seed(0)
    orders = [[i for batch in pictures.in_batches(4, generator) for i, _ in batch] for _ in range(3)]

    assert [sorted(read[at : at + 8]) for at in (0, 8, 16)] == [list(range(8))] * 3
    assert len({tuple(order) for order in orders}) == 3
    assert sorted(orders[0]) == list(range(20)) != orders[0]


def test_batches_begin_before_all_is_read(counted):
    store, first_row, read = counted
    pictures = PictureBags(store, first_row, ALL, cache_bytes=60 * BYTES_A_ROW)

    next(pictures.in_batches(4, torch.Generator().manual_seed(0)))

    # Seven pictures are more than is held: three or four parts, as pictures lie on the parts' edges.
    assert 3 <= len(read) <= 5


def test_parts_without_a_wanted_picture_are_not_read(counted):
    store, first_row, read = counted
    wanted = np.arange(20) >= 15

    list(PictureBags(store, first_row, wanted, cache_bytes=0).in_order())

    assert read == [6, 7]


def test_what_is_held_is_no_view_of_a_part(counted):
    store, first_row, _ = counted

    held = list(PictureBags(store, first_row, ALL).in_order())
    streamed = list(PictureBags(store, first_row, ALL, cache_bytes=0).in_order())

    memory = held[0][1]
    assert all(np.shares_memory(rows.base, memory.base) and rows.base.shape == (200, WIDTH) for _, rows in held)
    assert all(rows.base is None for _, rows in streamed)


def test_one_generator_gives_one_order(counted):
    store, first_row, _ = counted
    for held in (0, 60, 200):
        orders = []
        for seed in (1, 1, 2):
            pictures = PictureBags(store, first_row, ALL, held * BYTES_A_ROW)
            batches = pictures.in_batches(4, torch.Generator().manual_seed(seed))
            orders.append([i for batch in batches for i, _ in batch])
        assert orders[0] == orders[1] != orders[2]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(held_rows=st.sampled_from([0, 10, 30, 1000]), size=st.integers(1, 5), seed=st.integers(0, 99), data=st.data())
def test_a_scratch_file_gives_the_same_pictures_in_the_same_order(shape, tmp_path, held_rows, size, seed, data):
    """Whether they would have lain in memory, or been read part by part through a pool."""
    store, first_row = shape
    n = len(first_row) - 1
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    bags, on_disk = (PictureBags(store, first_row, wanted, held_rows * BYTES_A_ROW) for _ in range(2))
    on_disk.hold(InScratch(scratch=tmp_path), "fit", 0, size)
    assert on_disk.n_rows == bags.n_rows and list(tmp_path.iterdir()) == []

    epochs = []
    for pictures in (bags, on_disk):
        generator = torch.Generator().manual_seed(seed)
        epochs.append([list(pictures.in_batches(size, generator)) for _ in range(2)])
    for ours, theirs in zip(*epochs, strict=True):
        assert [[i for i, _ in batch] for batch in ours] == [[i for i, _ in batch] for batch in theirs]
    check([bag for batch in epochs[1][0] for bag in batch], first_row, wanted)
    in_order = list(on_disk.in_order())
    check(in_order, first_row, wanted)
    assert [i for i, _ in in_order] == [i for i, _ in bags.in_order()]


class InScratch(MemoryBudget):
    """A budget that no rows fit into, and any fit without them."""

    def choose(self, what, ways):
        return list(ways)[-1]


def test_rows_in_a_scratch_file_are_read_from_the_store_once(counted, tmp_path):
    store, first_row, read = counted
    pictures = PictureBags(store, first_row, ALL, cache_bytes=60 * BYTES_A_ROW)
    pictures.hold(InScratch(scratch=tmp_path), "fit", 0, 4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        list(pictures.in_batches(4, generator))
    pictures.hold(InScratch(scratch=tmp_path), "fit again", 0, 4)

    assert sorted(read) == list(range(8))
