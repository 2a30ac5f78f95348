"""The life of a store, and every way in which it can be incomplete, damaged or another one."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import zarr
from support.store_tests import StoreTests

from pipeline.activations.folder import LocalFolder, disk_trouble
from pipeline.activations.partition import parts_of
from pipeline.activations.records import describe_bytes
from pipeline.activations.settings import Codec
from pipeline.activations.store import PARTS_AHEAD, Store
from pipeline.activations.verify import verify_store
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.io.checksummed import checksummed_json, read_checksummed_json
from pipeline.io.errors import StoreError

# --- from identity to seal


class TestOnADisk(StoreTests):
    @pytest.fixture
    def place(self, tmp_path) -> str:
        return str(tmp_path / "cache/small.zarr")


class TestInMemory(StoreTests):
    @pytest.fixture
    def place(self, tmp_path) -> str:
        return f"memory://{tmp_path.name}/small.zarr"


def test_files_grow_next_to_the_store_and_leave_nothing(sealed):
    assert sorted(p.name for p in sealed.parent.iterdir()) == [".partial", "small.zarr"]
    assert not list((sealed.parent / ".partial").iterdir())
    assert not list(sealed.rglob(".*"))


# --- reading ahead


def test_parts_are_read_while_the_caller_works(tmp_path, small_identity, columns, write_parts, monkeypatch):
    identity = small_identity(**{"seen.n_rows": 24})
    write_parts(tmp_path / "s.zarr", identity).seal()
    store = Store(tmp_path / "s.zarr")
    read, begun = store.read_part, [threading.Event() for _ in range(6)]

    def watched(part):
        begun[part.index].set()
        return read(part)

    monkeypatch.setattr(store, "read_part", watched)
    seen = []
    for part, rows in store.iter_parts():
        # The caller is at work on this part, and the next ones are read already, but no more than these.
        ahead = part.index + PARTS_AHEAD + 1
        assert all(event.wait(10) for event in begun[:ahead])
        assert not any(event.is_set() for event in begun[ahead:])
        assert np.array_equal(rows, columns(part.start, part.stop)["activations"])
        seen.append(part.index)
    assert seen == [0, 1, 2, 3, 4, 5]


def test_a_damaged_part_is_an_error_when_its_turn_comes(tmp_path, small_identity, write_parts):
    write_parts(tmp_path / "s.zarr", small_identity()).seal()
    store = Store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/activations/c/1/0").unlink()

    parts = store.iter_parts()
    assert next(parts)[0].index == 0
    with pytest.raises(StoreError, match="activations/c/1/0 is missing"):
        next(parts)
    # Who stops early is not kept waiting by what was read ahead.
    part, _ = next(store.iter_parts(store.parts[::2]))
    assert part.index == 0


# --- codecs and codes


def contents(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}


@pytest.mark.parametrize("codec", get_args(Codec))
def test_a_store_is_read_whatever_it_was_compressed_with(tmp_path, small_identity, columns, write_parts, codec):
    write_parts(tmp_path / "s.zarr", small_identity(), codec=codec).seal()

    store = Store(tmp_path / "s.zarr", small_identity())

    assert np.array_equal(np.concatenate([rows for _, rows in store.iter_parts()]), columns(0, 10)["activations"])
    assert verify_store(LocalFolder(tmp_path / "s.zarr")).state == "sealed"


def test_a_store_goes_on_with_its_own_codec(tmp_path, small_identity, columns, write_parts):
    write_parts(tmp_path / "a.zarr", small_identity(), parts=(0,), codec="fast")

    writer = write_parts(tmp_path / "a.zarr", small_identity(), parts=(1, 2), codec="small")

    assert writer.codec == "fast"
    writer.seal()
    write_parts(tmp_path / "b.zarr", small_identity(), codec="fast").seal()
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


def test_metadata_that_were_lost_are_made_for_the_codec_of_the_parts(tmp_path, small_identity, columns, write_parts):
    path = tmp_path / "s.zarr"
    write_parts(path, small_identity(), codec="fast").seal()
    before = contents(path)
    (path / "activations/zarr.json").unlink()

    create_store(path, small_identity(), ("a", "b"), {}, "small")

    assert contents(path) == before
    Store(path)


def test_parts_of_another_codec_do_not_count(tmp_path, small_identity, write_parts):
    path, other = tmp_path / "s.zarr", tmp_path / "other.zarr"
    write_parts(path, small_identity(), codec="fast")
    write_parts(other, small_identity(), parts=(0,), codec="small")
    shutil.copy(other / "activations/zarr.json", path / "activations/zarr.json")

    assert [part.index for part in StoreWriter(path).missing()] == [0, 1, 2]
    kinds = {(finding.name, finding.kind) for finding in verify_store(LocalFolder(path)).findings}
    assert kinds == {(f"integrity/part-0000{i}.json", "stale") for i in range(3)}


@pytest.mark.parametrize("content", [None, b"torn", b"[]", b'{"attributes": null}'])
def test_metadata_that_cannot_say_the_codec_are_damage_and_no_bug(tmp_path, small_identity, write_parts, content):
    path = tmp_path / "s.zarr"
    write_parts(path, small_identity(), parts=(0,))
    metadata = path / "activations/zarr.json"
    metadata.unlink() if content is None else metadata.write_bytes(content)

    with pytest.raises(StoreError, match=r"damaged: .*pipeline cache verify"):
        StoreWriter(path)
    assert [finding.name for finding in verify_store(LocalFolder(path)).findings] == ["activations/zarr.json"]


def test_a_new_store_asks_for_no_part(tmp_path, small_identity, monkeypatch):
    asked, read = [], LocalFolder.read
    monkeypatch.setattr(LocalFolder, "read", lambda self, name: asked.append(name) or read(self, name))

    create_store(tmp_path / "s.zarr", small_identity(), ("a", "b"), {})

    assert not [name for name in asked if "part-" in name]


def test_codes_come_back_within_their_rounding(tmp_path, small_identity, columns, write_parts):
    identity = small_identity(**{"how.dtype": "8bit"})
    write_parts(tmp_path / "s.zarr", identity).seal()
    store = Store(tmp_path / "s.zarr", identity)

    for part, rows in store.iter_parts():
        exact, rounding = columns(part.start, part.stop)["activations"].astype(np.float64), store.rounding(part)
        # Three columns that count up: three or nine of a range, over 255 steps.
        assert rounding.tolist() == pytest.approx([3 * (part.n_rows - 1) / 255 / 2] * 3)
        assert rows.dtype == np.float16
        assert (np.abs(rows.astype(np.float64) - exact) <= rounding + np.abs(exact) * 2.0**-11).all()
    assert np.array_equal(store.read_geometry("scale"), columns(0, 10)["scale"])
    assert verify_store(LocalFolder(tmp_path / "s.zarr")).state == "sealed"
    (tmp_path / "s.zarr/column_range/c/1/0/0").write_bytes(b"other")
    with pytest.raises(StoreError, match="column_range/c/1/0/0 changed since it was written"):
        list(store.iter_parts())


@pytest.mark.parametrize(
    ("n_rows", "part_rows", "expected"),
    [
        (10, 4, [(0, 4), (4, 8), (8, 10)]),
        (8, 4, [(0, 4), (4, 8)]),
        (3, 4, [(0, 3)]),
    ],
)
def test_parts_cover_all_rows_once(small_identity, n_rows, part_rows, expected):
    parts = parts_of(small_identity(**{"seen.n_rows": n_rows, "how.part_rows": part_rows}))
    assert [(p.start, p.stop) for p in parts] == expected
    assert [p.index for p in parts] == list(range(len(expected)))


def test_wrong_number_of_rows_is_refused(tmp_path, small_identity, columns):
    create_store(tmp_path / "s.zarr", small_identity(), ("a", "b"), {})
    writer = StoreWriter(tmp_path / "s.zarr")
    with pytest.raises(ValueError, match="3 rows, expected 4 in part 0"):
        writer.write_part(writer.parts[0], columns(0, 3))
    assert len(writer.missing()) == 3


@pytest.mark.parametrize("rows", [[0], [9], [3, 4], [0, 3, 4, 7, 8, 9], list(range(10)), []])
def test_chosen_rows_come_from_all_parts(sealed, columns, rows):
    got = Store(sealed).read_rows(np.array(rows, int))
    assert np.array_equal(got, columns(0, 10)["activations"][rows])


# --- other readers


def test_opens_in_plain_zarr(sealed, columns):
    group = zarr.open_group(str(sealed), mode="r")
    assert np.array_equal(group["activations"][:], columns(0, 10)["activations"])
    assert np.isnan(group["activations"].fill_value)
    assert np.isnan(group["box_xyxy"].fill_value)
    assert group["activations"].metadata.dimension_names == ("row", "fc7_column")
    assert group.attrs["identity"]["how.layer"] == "fc7"


def test_missing_shard_is_nan_in_plain_zarr(sealed):
    # The reader of the project refuses it; any other reader sees no zeros that could be activations.
    (sealed / "activations/c/1/0").unlink()
    rows = zarr.open_group(str(sealed), mode="r")["activations"][:]
    assert np.isnan(rows[4:8]).all()
    assert np.isfinite(rows[:4]).all() and np.isfinite(rows[8:]).all()


def test_rows_of_zeros_are_written(tmp_path, small_identity, columns):
    # zarr leaves out chunks of fill value; a part of zeros must still have its object.
    create_store(tmp_path / "s.zarr", small_identity(), ("a", "b"), {})
    writer = StoreWriter(tmp_path / "s.zarr")
    for part in writer.parts:
        zeros = {name: np.zeros_like(values) for name, values in columns(part.start, part.stop).items()}
        writer.write_part(part, {**zeros, "picture": zeros["picture"] - 1, "scale": zeros["scale"] + 255})
    writer.seal()
    assert not Store(tmp_path / "s.zarr").read_part(writer.parts[1]).any()


# --- another store than was asked for


def test_other_identity_at_the_same_path_names_the_fields(sealed, small_identity):
    asked = small_identity(**{"how.precision": "cuda-fp16", "how.weights": "abc"})
    with pytest.raises(StoreError) as error:
        create_store(sealed, asked, ("a", "b"), {})
    message = str(error.value)
    assert "how.precision: got 'cpu-fp32', expected 'cuda-fp16'" in message
    assert "how.weights: got None, expected 'abc'" in message
    assert "how.width" not in message


def test_same_identity_is_taken_as_it_is(sealed, small_identity):
    before = {p: p.stat().st_mtime_ns for p in sealed.rglob("*")}
    create_store(sealed, small_identity(), ("a", "b"), {})
    assert {p: p.stat().st_mtime_ns for p in sealed.rglob("*")} == before


def test_reader_names_the_fields_that_it_needs_otherwise(sealed):
    assert Store(sealed, {"how.layer": "fc7"}).n_rows == 10
    with pytest.raises(StoreError, match="how.layer: got 'fc7', expected 'fc6'"):
        Store(sealed, {"how.layer": "fc6", "how.width": 3})


def test_no_store(tmp_path):
    (tmp_path / "empty.zarr/integrity").mkdir(parents=True)
    for name in ("none.zarr", "empty.zarr"):
        with pytest.raises(StoreError, match=f"{name}: no such store; make it with: pipeline extract"):
            Store(tmp_path / name)
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr/notes.txt").touch()
    with pytest.raises(StoreError, match="other.zarr: not a store"):
        Store(tmp_path / "other.zarr")


# --- damage


def flip(name, position=-10):
    def damage(path):
        data = bytearray((path / name).read_bytes())
        data[position] ^= 1
        (path / name).write_bytes(data)

    return damage


def truncate(name):
    return lambda path: os.truncate(path / name, (path / name).stat().st_size - 1)


def remove(name):
    return lambda path: (path / name).unlink()


def edit(name, *keys, value):
    """Change one value in a JSON file."""

    def damage(path):
        content = inner = json.loads((path / name).read_text())
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (path / name).write_text(json.dumps(content))

    return damage


def exchange(first, second):
    def damage(path):
        (path / first).rename(path / "aside")
        (path / second).rename(path / first)
        (path / "aside").rename(path / second)

    return damage


def copy(source, target):
    return lambda path: shutil.copy(path / source, path / target)


SEAL = "integrity/seal.json"


def sign_again(path, name, change):
    """Change a record or the seal so that its own digest is right."""
    content = read_checksummed_json((path / name).read_bytes())
    change(content)
    (path / name).write_bytes(checksummed_json(content))


def forge(name, *keys, value):
    """As `edit`, and sign the file again."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return lambda path: sign_again(path, name, change)


def seal_again(damage):
    """Damage, and then a seal that agrees with all records and metadata as they are now."""

    def damage_and_seal(path):
        damage(path)

        def change(seal):
            for kind in ("records", "metadata"):
                seal[kind] = {name: describe_bytes((path / name).read_bytes()).to_dict() for name in seal[kind]}

        sign_again(path, SEAL, change)

    return damage_and_seal


DAMAGE = {
    "shard deleted": (remove("activations/c/1/0"), r"activations/c/1/0 is missing"),
    "boxes deleted": (remove("box_xyxy/c/0/0"), r"box_xyxy/c/0/0 is missing"),
    "last shard deleted": (remove("activations/c/2/0"), r"activations/c/2/0 is missing"),
    "bit of a shard flipped": (flip("activations/c/0/0"), r"activations/c/0/0 changed"),
    "first bit of a shard flipped": (flip("activations/c/2/0", 0), r"activations/c/2/0 changed"),
    "bit of the pictures flipped": (flip("picture/c/1"), r"picture/c/1 changed"),
    "bit of the boxes flipped": (flip("box_xyxy/c/2/0"), r"box_xyxy/c/2/0 changed"),
    "bit of the scales flipped": (flip("scale/c/0"), r"scale/c/0 changed"),
    "shard truncated": (truncate("activations/c/2/0"), r"activations/c/2/0 changed"),
    "shard emptied": (lambda path: os.truncate(path / "activations/c/0/0", 0), r"activations/c/0/0 changed"),
    "two shards exchanged": (exchange("activations/c/0/0", "activations/c/1/0"), r"activations/c/0/0 changed"),
    "fill value changed": (edit("activations/zarr.json", "fill_value", value=0), r"activations/zarr.json: changed"),
    "ids changed": (edit("zarr.json", "attributes", "picture_ids", value=["b", "a"]), r"zarr.json: changed since"),
    "identity changed": (
        edit("zarr.json", "attributes", "identity", "how.precision", value="cpu-bf16"),
        r"the identity disagrees with its fingerprint",
    ),
    "metadata deleted": (remove("scale/zarr.json"), r"damaged\n  - scale/zarr.json: missing\n"),
    "metadata of the group deleted": (remove("zarr.json"), r"not a store"),
    "metadata is no JSON": (lambda path: (path / "zarr.json").write_text("{"), r"not a store"),
    "record changed": (edit("integrity/part-00001.json", "rows", value=[0, 4]), r"part-00001.json: changed since"),
    "record changed and signed": (
        forge("integrity/part-00001.json", "rows", value=[0, 4]),
        r"part-00001.json: changed since",
    ),
    "record deleted": (remove("integrity/part-00002.json"), r"damaged\n  - integrity/part-00002.json: missing\n"),
    "record changed, signed and sealed": (
        seal_again(forge("integrity/part-00001.json", "rows", value=[0, 4])),
        r"a record is the record of another part or store",
    ),
    "record changed and sealed": (
        seal_again(edit("integrity/part-00001.json", "rows", value=[0, 4])),
        r"a record disagrees with its own digest",
    ),
    "two records exchanged": (
        exchange("integrity/part-00000.json", "integrity/part-00001.json"),
        r"part-00000.json: changed since",
    ),
    "two records exchanged and sealed": (
        seal_again(exchange("integrity/part-00000.json", "integrity/part-00001.json")),
        r"a record is the record of another part or store",
    ),
    "space in the seal": (
        lambda path: (path / SEAL).write_bytes((path / SEAL).read_bytes() + b"\n"),
        r"seal.json disagrees with its own digest",
    ),
    "rows in the seal changed": (edit(SEAL, "rows", value=9), r"seal.json disagrees with its own digest"),
    "rows in the seal changed and signed": (forge(SEAL, "rows", value=9), r"seal.json: is the seal of another store"),
    "fingerprint in the seal changed": (edit(SEAL, "fingerprint", value="0" * 64), r"seal.json disagrees with its own"),
    "fingerprint in the seal changed and signed": (
        forge(SEAL, "fingerprint", value="0" * 64),
        r"seal.json: is the seal of another store",
    ),
    "skipped in the seal changed and signed": (
        forge(SEAL, "skipped", value=[]),
        r"seal.json: is the seal of another store",
    ),
    "records left out of the seal": (edit(SEAL, "records", value={}), r"seal.json disagrees with its own digest"),
    "records left out of the seal and signed": (forge(SEAL, "records", value={}), r"part-00000.json: changed since"),
    "a record too many in the seal": (
        forge(SEAL, "records", "integrity/part-00003.json", value={"bytes": 0, "sha256": ""}),
        r"seal.json: is the seal of another store",
    ),
    "record in place of the seal": (
        copy("integrity/part-00000.json", SEAL),
        r"damaged: integrity/seal.json is no seal",
    ),
    "seal is no JSON": (lambda path: (path / SEAL).write_text("{}x"), r"damaged: integrity/seal.json Extra data"),
    "seal is a list": (lambda path: (path / SEAL).write_text("[]"), r"damaged: .* carries no digest of its own"),
    "seal without a digest": (lambda path: (path / SEAL).write_text("{}"), r"damaged: .* carries no digest of its own"),
    "seal deleted": (remove(SEAL), r"not complete: 0 of 3 parts are missing, and the seal"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_on_reading(sealed, read_all, kind):
    damage, message = DAMAGE[kind]
    read_all(sealed)
    damage(sealed)
    with pytest.raises(StoreError, match=message) as error:
        read_all(sealed)
    assert "small.zarr" in str(error.value)
    if kind == "seal deleted":
        assert "resume with the same: pipeline extract" in str(error.value)
    else:
        assert str(error.value).endswith(
            "list the damage with: pipeline cache verify, and repair it with: pipeline cache repair"
        )


def test_any_flipped_byte_of_any_object_is_noticed(sealed, read_all):
    for path in sorted(p for p in sealed.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for position in range(0, len(data), max(1, len(data) // 7)):
            path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
            with pytest.raises(StoreError):
                read_all(sealed)
        path.write_bytes(data)
    read_all(sealed)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, small_identity, columns, value):
    create_store(tmp_path / "s.zarr", small_identity(), ("a", "b"), {})
    writer = StoreWriter(tmp_path / "s.zarr")
    for part in writer.parts:
        rows = columns(part.start, part.stop)
        if part.index == 1:
            rows["activations"][2, 1] = value
        writer.write_part(part, rows)
    writer.seal()
    store = Store(tmp_path / "s.zarr")
    store.read_part(store.parts[0])
    with pytest.raises(StoreError, match="part 1 holds values that are not finite"):
        store.read_rows(np.array([0, 4]))


# --- several writers, full disks, closed folders

WRITER = """
import sys
from pathlib import Path
import numpy as np
from pipeline.activations.writer import StoreWriter, create_store
identity = {"seen.n_rows": 160, "seen.skipped": [], "how.part_rows": 20, "how.width": 3, "how.layer": "fc7",
            "how.dtype": "float16"}
path, mine = Path(sys.argv[1]), int(sys.argv[2])
while not path.with_name("go").exists():
    pass
create_store(path, identity, ("a",), {})
writer = StoreWriter(path)
for part in writer.parts[mine::2]:
    rows = np.arange(part.start, part.stop)
    writer.write_part(part, {
        "activations": np.repeat(rows[:, None], 3, 1).astype(np.float16), "picture": np.zeros(20, np.int32),
        "box_xyxy": np.zeros((20, 4), np.float32), "scale": np.zeros(20, np.uint8)})
"""


def test_two_processes_write_one_store(tmp_path):
    path = tmp_path / "s.zarr"
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, str(i)], stderr=subprocess.PIPE, text=True)
        for i in (0, 1)
    ]
    (tmp_path / "go").touch()
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    StoreWriter(path).seal()
    rows = Store(path).read_rows(np.arange(160))
    assert np.array_equal(rows[:, 0], np.arange(160))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".partial", "go", "s.zarr"]
    assert not list((tmp_path / ".partial").iterdir())


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_at(name, n_before):
    """A function of `os` that works `n_before` times, and then finds the disk full."""
    real, calls = getattr(os, name), itertools.count()
    return lambda *args: full_disk() if next(calls) >= n_before else real(*args)


@pytest.mark.parametrize(
    ("name", "n_before"),
    [("fsync", 0), ("replace", 0), ("replace", 2), ("replace", 4)],
    ids=["forcing to disk", "renaming the first object", "renaming another object", "renaming the record"],
)
def test_full_disk_keeps_what_is_recorded(
    tmp_path, small_identity, write_parts, columns, read_all, monkeypatch, name, n_before
):
    writer = write_parts(tmp_path / "s.zarr", small_identity(), parts=(0,))
    record = (tmp_path / "s.zarr/integrity/part-00000.json").read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full_at(name, n_before))
        with pytest.raises(OSError, match="No space left") as error:
            writer.write_part(writer.parts[1], columns(4, 8))
    explained = str(disk_trouble(error.value, writer.folder))
    assert explained.startswith(f"{tmp_path / 's.zarr'}: the disk is full (")
    assert explained.endswith("start the same command again")
    assert writer.is_recorded(writer.parts[0]) and not writer.is_recorded(writer.parts[1])
    assert [p.index for p in writer.missing()] == [1, 2]
    assert (tmp_path / "s.zarr/integrity/part-00000.json").read_bytes() == record

    write_parts(tmp_path / "s.zarr", small_identity(), parts=(1, 2)).seal()
    for column, values in read_all(tmp_path / "s.zarr").items():
        assert np.array_equal(values, columns(0, 10)[column])
    assert not list(tmp_path.rglob(".*.partial"))


@pytest.fixture
def closed_folder():
    """A folder in which nobody may write; root gives up its rights for the test."""
    folder = Path(tempfile.mkdtemp(prefix="closed-"))
    folder.chmod(0o755)
    root = os.geteuid() == 0
    yield folder, lambda: os.seteuid(65534) if root else folder.chmod(0o555)
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_closed_folder_is_a_plain_error(closed_folder, small_identity, write_parts, columns):
    folder, close = closed_folder
    writer = write_parts(folder / "s.zarr", small_identity(), parts=(0,))
    for path in [folder / "s.zarr", *(folder / "s.zarr").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    close()
    with pytest.raises(PermissionError) as error:
        writer.write_part(writer.parts[1], columns(4, 8))
    explained = str(disk_trouble(error.value, writer.folder))
    assert explained == f"{folder / 's.zarr'}: cannot be written: Permission denied; check the rights there"
