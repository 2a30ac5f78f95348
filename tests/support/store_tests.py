"""A small store of ten rows, and a suite that every kind of folder must pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.activations.folder import Folder, open_folder
from pipeline.activations.identity import FORMAT, Identity
from pipeline.activations.partition import parts_of
from pipeline.activations.settings import Codec
from pipeline.activations.store import Store
from pipeline.activations.verify import verify_store
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.io.errors import StoreDamagedError, StoreError, StoreIncompleteError, StoreNotFoundError

PICTURE_IDS = ("a", "b")


def make_small_identity(**changes: Any) -> Identity:
    """Make the fields that a store's shape follows from: 10 rows of 3 columns, parts of 4, 4 and 2 rows."""
    fields = {
        "seen.n_rows": 10,
        "seen.skipped": ["c: truncated"],
        "how.format": FORMAT,
        "how.part_rows": 4,
        "how.width": 3,
        "how.layer": "fc7",
        "how.dtype": "float16",
        "how.precision": "cpu-fp32",
    }
    return Identity.from_dict({**fields, **changes})


def make_columns(start: int, stop: int) -> dict[str, np.ndarray]:
    """Make all columns of a range of rows; activations count up from 1, three per row."""
    rows = np.arange(start, stop)
    return {
        "activations": (1 + 3 * rows[:, None] + np.arange(3)).astype(np.float16),
        "picture": (rows // 5).astype(np.int32),
        "box_xyxy": np.stack([rows, rows, rows + 8, rows + 8], 1).astype(np.float32),
        "scale": (rows % 2).astype(np.uint8),
    }


def write_small_parts(
    place: Path | str | Folder, identity: Identity, parts: tuple[int, ...] | None = None, codec: Codec = "small"
) -> StoreWriter:
    """Write some parts of the small store, or all of them, at a path or URL."""
    create_store(place, identity, PICTURE_IDS, {}, codec)
    writer = StoreWriter(place)
    for part in parts_of(identity):
        if parts is None or part.index in parts:
            writer.write_part(part, make_columns(part.start, part.stop))
    return writer


def read_columns(place: Path | str | Folder) -> dict[str, np.ndarray]:
    """Open a store and read everything in it."""
    store = Store(place)
    geometry = {name: store.read_geometry(name) for name in ("picture", "box_xyxy", "scale")}
    return {"activations": np.concatenate([rows for _, rows in store.iter_parts()]), **geometry}


def read_files(folder: Folder) -> dict[str, bytes]:
    """Read every file of a folder."""
    return folder.read_many(folder.sizes())


class StoreTests:
    """What a store promises on every kind of folder. A subclass gives the fixture ``place``: a new path or URL."""

    @pytest.fixture
    def place(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def folder(self, place) -> Folder:
        """The folder at `place`, with a sealed store."""
        write_small_parts(place, make_small_identity()).seal()
        return open_folder(place)

    # Life

    def test_from_identity_to_seal(self, place):
        identity = make_small_identity()

        create_store(place, identity, PICTURE_IDS, {})
        writer = StoreWriter(place)
        assert [part.index for part in writer.missing()] == [0, 1, 2]
        with pytest.raises(StoreIncompleteError, match=r"not complete: 3 of 3 parts are missing \(first: 0\)") as error:
            Store(place)
        assert str(error.value).startswith(f"{place}: ")

        for part in writer.parts:
            assert not writer.is_recorded(part)
            writer.write_part(part, make_columns(part.start, part.stop))
            assert writer.is_recorded(part)
            assert not writer.sealed
        with pytest.raises(StoreIncompleteError, match="0 of 3 parts are missing, and the seal"):
            Store(place)

        writer.seal()
        assert writer.sealed
        store = Store(place, identity)
        assert (store.n_rows, store.width, store.picture_ids) == (10, 3, PICTURE_IDS)
        assert store.identity == identity and store.identity.skipped == ["c: truncated"]
        sizes = store.folder.sizes()
        assert store.n_bytes == sum(size for name, size in sizes.items() if "/c/" in name)
        for name, values in read_columns(place).items():
            expected = make_columns(0, 10)[name]
            assert np.array_equal(values, expected) and values.dtype == expected.dtype, name
        assert verify_store(store.folder).state == "sealed"

    def test_bytes_are_those_on_a_disk(self, folder, tmp_path):
        write_small_parts(tmp_path / "disk.zarr", make_small_identity()).seal()
        assert read_files(folder) == read_files(open_folder(tmp_path / "disk.zarr"))
        assert list(folder.sizes()) == sorted(folder.sizes())

    @pytest.mark.parametrize("first", [(), (0,), (2, 0), (0, 1, 2)])
    def test_resumed_in_any_order_it_has_the_same_bytes(self, place, tmp_path, first):
        write_small_parts(place, make_small_identity(), first)
        assert [part.index for part in StoreWriter(place).missing()] == sorted({0, 1, 2} - set(first))
        with pytest.raises(StoreIncompleteError, match=f"{3 - len(first)} of 3 parts are missing"):
            Store(place)
        if len(first) < 3:
            with pytest.raises(StoreIncompleteError, match="parts have no record, it cannot be sealed"):
                StoreWriter(place).seal()

        write_small_parts(place, make_small_identity(), tuple({0, 1, 2} - set(first))).seal()

        write_small_parts(tmp_path / "once.zarr", make_small_identity()).seal()
        assert read_files(open_folder(place)) == read_files(open_folder(tmp_path / "once.zarr"))

    def test_objects_without_a_record_do_not_count(self, place):
        # What a run leaves that was killed between the objects of a part and its record.
        writer = write_small_parts(place, make_small_identity())
        writer.folder.remove("integrity/part-00001.json")
        assert [part.index for part in writer.missing()] == [1]

    # Several writers

    def test_of_several_that_create_a_file_the_first_stays(self, place):
        for data in (b"first", b"second"):
            open_folder(place).create("deep/zarr.json", data)
        assert open_folder(place).read("deep/zarr.json") == b"first"

    def test_creating_a_store_again_changes_no_byte(self, folder):
        before = read_files(folder)
        create_store(folder, make_small_identity(), PICTURE_IDS, {})
        assert read_files(folder) == before

    def test_another_identity_is_refused_and_the_fields_are_named(self, folder):
        before = read_files(folder)
        with pytest.raises(StoreError, match="how.precision: got 'cpu-fp32', expected 'cuda-fp16'"):
            create_store(folder, make_small_identity(**{"how.precision": "cuda-fp16"}), PICTURE_IDS, {})
        with pytest.raises(StoreError, match="how.layer: got 'fc7', expected 'fc6'"):
            Store(folder, {"how.layer": "fc6", "how.width": 3})
        assert read_files(folder) == before

    # Damage

    @pytest.mark.parametrize("name", ["activations/c/1/0", "picture/c/0", "box_xyxy/c/2/0", "scale/c/1"])
    def test_a_changed_byte_of_an_object_is_refused(self, folder, name):
        data = folder.read(name)
        folder.write(name, data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(StoreDamagedError, match=f"{name} changed since it was written; list the damage with"):
            read_columns(folder)
        assert [(d.name, d.kind) for d in verify_store(folder).findings] == [(name, "flipped")]

    @pytest.mark.parametrize(
        "name", ["zarr.json", "scale/zarr.json", "integrity/part-00001.json", "integrity/seal.json"]
    )
    def test_a_changed_byte_of_metadata_record_or_seal_is_refused(self, folder, name):
        data = folder.read(name)
        folder.write(name, data[:-3] + b" " + data[-2:])
        with pytest.raises(StoreDamagedError):
            Store(folder)
        assert {d.name for d in verify_store(folder).findings} == {name}

    @pytest.mark.parametrize("name", ["activations/c/1/0", "picture/c/0"])
    def test_a_missing_object_is_refused(self, folder, name):
        folder.remove(name)
        with pytest.raises(StoreDamagedError, match=f"{name} is missing; list the damage with"):
            read_columns(folder)
        assert [(d.name, d.kind) for d in verify_store(folder).findings] == [(name, "missing")]

    @pytest.mark.parametrize("name", ["scale/zarr.json", "integrity/part-00002.json"])
    def test_missing_metadata_or_a_missing_record_is_refused(self, folder, name):
        folder.remove(name)
        with pytest.raises(StoreDamagedError, match=f"damaged\n  - {name}: missing\n"):
            Store(folder)

    def test_without_its_seal_it_is_incomplete(self, folder):
        folder.remove("integrity/seal.json")
        with pytest.raises(StoreIncompleteError, match="0 of 3 parts are missing, and the seal"):
            Store(folder)

    def test_a_torn_and_an_unexpected_file_are_found(self, folder):
        folder.write("scale/c/1", folder.read("scale/c/1")[:-1])
        folder.write("notes.txt", b"mine")
        kinds = {d.name: d.kind for d in verify_store(folder).findings}
        assert kinds == {"scale/c/1": "torn", "notes.txt": "unexpected"}

    # None

    def test_no_store(self, place):
        with pytest.raises(StoreNotFoundError, match="no such store; make it with: pipeline extract"):
            Store(place)
        with pytest.raises(StoreNotFoundError, match="no such store"):
            verify_store(open_folder(place))

    def test_a_removed_store_is_none(self, folder):
        folder.remove_all()
        with pytest.raises(StoreNotFoundError):
            Store(folder)

    def test_a_folder_of_other_files_is_no_store(self, place):
        open_folder(place).write("notes.txt", b"mine")
        with pytest.raises(StoreDamagedError, match="not a store: zarr.json cannot be read"):
            Store(place)
