"""The bytes of a store: a function of what is in it, and back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as hypothesis_arrays

from pipeline.activations.arrays import ARRAYS, ARRAYS_OF_CODES, files_per_part, files_per_store, metadata_names
from pipeline.activations.codec import codec_of, quantise, restore
from pipeline.activations.identity import Identity
from pipeline.activations.layout import _open_array, decode_object, decode_with_zarr, encode_part, make_metadata
from pipeline.activations.partition import Part, parts_of, share_of
from pipeline.activations.settings import Codec
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import StoreError


def identity_of(n_rows: int, part_rows: int, width: int, **changes) -> Identity:
    fields = {
        "seen.n_rows": n_rows,
        "seen.skipped": ["c: truncated"],
        "how.part_rows": part_rows,
        "how.width": width,
        "how.layer": "fc7",
        "how.dtype": "float16",
        **changes,
    }
    return Identity(fields)


def random_columns(n_rows: int, width: int, seed: int) -> dict[str, np.ndarray]:
    """Any bits at all, infinities and NaN of all kinds included."""
    rng = np.random.default_rng(seed)
    return {
        "activations": rng.integers(0, 2**16, (n_rows, width), np.uint16).view(np.float16),
        "picture": rng.integers(-(2**31), 2**31, n_rows).astype(np.int32),
        "box_xyxy": rng.integers(0, 2**32, (n_rows, 4), np.uint32).view(np.float32),
        "scale": rng.integers(0, 256, n_rows).astype(np.uint8),
    }


def cut(columns: dict[str, np.ndarray], part: Part) -> dict[str, np.ndarray]:
    return {name: values[part.start : part.stop] for name, values in columns.items()}


# Rows of a part over 1024 are several inner chunks of one shard.
SHAPES = st.tuples(
    st.integers(1, 3000), st.integers(1, 40) | st.sampled_from([64, 1000, 1024, 2048]), st.integers(1, 9)
).filter(lambda shape: shape[0] <= 20 * shape[1])


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 99), st.sampled_from(get_args(Codec)))
def test_decoded_is_what_was_encoded(shape, seed, codec):
    n_rows, part_rows, width = shape
    identity, columns = identity_of(*shape), random_columns(n_rows, width, seed)
    metadata = make_metadata(identity, ("a",), {}, codec)
    assert codec_of(metadata) == codec

    parts = parts_of(identity)
    for part in random.Random(seed).sample(parts, min(3, len(parts))):
        objects = encode_part(metadata, part, cut(columns, part))
        assert tuple(objects) == part.object_names
        for name, data in zip(ARRAYS, objects.values(), strict=True):
            decoded, given_ = decode_object(name, metadata[f"{name}/zarr.json"], part, data), cut(columns, part)[name]
            assert (decoded.dtype, decoded.shape) == (given_.dtype, given_.shape)
            assert decoded.tobytes() == given_.tobytes()
            by_zarr = decode_with_zarr(name, metadata[f"{name}/zarr.json"], part, data)
            assert (by_zarr.dtype, by_zarr.tobytes()) == (given_.dtype, given_.tobytes())


@pytest.mark.parametrize("fill", ["zeros", "fill values", "noise"])
def test_rows_of_any_kind_have_objects(fill):
    # zarr leaves out chunks of fill value; here none may be left out.
    identity = identity_of(10, 4, 3)
    metadata, columns = make_metadata(identity, ("a",), {}), random_columns(10, 3, 0)
    if fill != "noise":
        columns = {name: np.zeros_like(values) for name, values in columns.items()}
    if fill == "fill values":
        columns["activations"][:], columns["box_xyxy"][:], columns["picture"][:], columns["scale"][:] = (
            np.nan,
            np.nan,
            -1,
            255,
        )
    for part in parts_of(identity):
        objects = encode_part(metadata, part, cut(columns, part))
        assert all(objects.values())
        for name, data in zip(ARRAYS, objects.values(), strict=True):
            decoded = decode_object(name, metadata[f"{name}/zarr.json"], part, data)
            np.testing.assert_array_equal(decoded, cut(columns, part)[name])


def digests(n_rows: int, part_rows: int, width: int, codec: Codec = "small") -> list[str]:
    identity, columns = identity_of(n_rows, part_rows, width), random_columns(n_rows, width, 7)
    metadata = make_metadata(identity, ("a", "b"), {"dataset": "d"}, codec)
    parts = [encode_part(metadata, part, cut(columns, part)) for part in parts_of(identity)]
    return [sha256_bytes(data) for content in (metadata, *parts) for data in content.values()]


# The last part is a fraction of a shard; a shard has one inner chunk, or four.
SHAPES = ((10, 4, 3), (5000, 4096, 5), (5000, 4096, 5, "zstd"), (5000, 4096, 5, "fast"))


@pytest.fixture(scope="module")
def digests_elsewhere() -> dict[tuple, list[str]]:
    """Digests of each shape from another process, with other hashes of strings and another concurrency."""
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\nimport test_layout\n"
    code += "for shape in test_layout.SHAPES:\n    print(*test_layout.digests(*shape))"
    env = {**os.environ, "PYTHONHASHSEED": "5", "ZARR_ASYNC__CONCURRENCY": "1"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=100)
    assert ended.returncode == 0, ended.stderr
    return dict(zip(SHAPES, map(str.split, ended.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_rows_give_the_same_bytes(shape, digests_elsewhere):
    expected = digests(*shape)
    for _ in range(5):
        assert digests(*shape) == expected
    assert digests_elsewhere[shape] == expected


def test_bytes_of_a_part_follow_only_from_its_own_rows():
    identity, columns = identity_of(10, 4, 3), random_columns(10, 3, 0)
    metadata, part = make_metadata(identity, ("a",), {}), parts_of(identity)[1]
    objects = encode_part(metadata, part, cut(columns, part))

    moved = make_metadata(identity_of(11, 4, 3), ("x", "y"), {"trunk": "t"})
    assert encode_part(moved, part, cut(columns, part)) == objects
    for name, object_name in zip(ARRAYS, part.object_names, strict=True):
        other = cut(columns, part)
        other[name] = other[name][::-1].copy()
        changed = encode_part(metadata, part, other)
        assert {key for key in objects if objects[key] != changed[key]} == {object_name}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("n", [3, 5])
def test_a_column_of_another_length_is_refused(name, n):
    identity, columns = identity_of(10, 4, 3), random_columns(10, 3, 0)
    part = parts_of(identity)[0]
    columns = {**cut(columns, part), name: columns[name][:n]}
    with pytest.raises(ValueError, match=f"{name}: {n} rows, expected 4 in part 0"):
        encode_part(make_metadata(identity, ("a",), {}), part, columns)


def test_metadata_says_what_the_store_is():
    metadata = make_metadata(identity_of(10, 4, 3), ("a",), {})
    assert sorted(metadata) == sorted(metadata_names())
    # What others look for is written last.
    assert list(metadata)[-1] == "zarr.json"


@pytest.mark.parametrize("codec", get_args(Codec))
def test_a_flipped_bit_of_any_codec_is_noticed(codec):
    identity, columns = identity_of(4096, 4096, 5), random_columns(4096, 5, 3)
    columns["activations"] = np.abs(np.random.default_rng(0).standard_normal((4096, 5))).astype(np.float16)
    metadata, (part,) = make_metadata(identity, ("a",), {}, codec), parts_of(identity)
    data = encode_part(metadata, part, columns)[part.object_name("activations")]
    noticed = {decode_object: 0, decode_with_zarr: 0}
    for place in np.random.default_rng(1).integers(0, len(data), 40):
        flipped = bytearray(data)
        flipped[place] ^= 16
        for decode in noticed:
            try:
                decode("activations", metadata["activations/zarr.json"], part, bytes(flipped))
            except Exception:
                noticed[decode] += 1
    assert noticed == {decode_object: 40, decode_with_zarr: 40}


def test_a_chunk_that_is_missing_is_noticed():
    identity, columns = identity_of(4096, 4096, 5), random_columns(4096, 5, 3)
    columns["activations"][1024:2048] = np.nan
    metadata, (part,) = make_metadata(identity, ("a",), {}), parts_of(identity)
    array, memory = _open_array("activations", metadata["activations/zarr.json"], {}, writable=True)
    array[:] = columns["activations"]  # zarr leaves out what is fill value, unless it is told
    data = memory._store_dict[part.object_name("activations")].to_bytes()
    with pytest.raises(ValueError, match="chunk of row 1024: missing"):
        decode_object("activations", metadata["activations/zarr.json"], part, data)


@pytest.mark.parametrize("names", [(), ("bytes", "gzip"), ("bytes", "zstd", "crc32c")])
def test_codecs_that_are_not_read_are_named_with_those_that_are(names):
    identity = identity_of(4096, 4096, 5)
    metadata, (part,) = make_metadata(identity, ("a",), {}), parts_of(identity)
    changed = json.loads(metadata["activations/zarr.json"])
    changed["codecs"][0]["configuration"]["codecs"] = [{"name": name, "configuration": {}} for name in names]
    with pytest.raises(StoreError) as caught:
        decode_object("activations", json.dumps(changed).encode(), part, b"")
    assert f"coded by {' + '.join(names) or 'nothing'}, expected one of: " in str(caught.value)
    assert "bytes + blosc + crc32c; bytes + zstd; numcodecs.pcodec + crc32c" in str(caught.value)


# --- codes of 8 bits

VALUES = st.floats(-60000, 60000, width=16) | st.floats(0, 8, width=16) | st.just(0.0)


@settings(max_examples=200, deadline=None)
@given(hypothesis_arrays(np.float16, st.tuples(st.integers(1, 40), st.integers(1, 6)), elements=VALUES))
def test_codes_are_within_half_a_step(rows):
    codes, (low, step) = quantise(rows)
    back = restore(codes, np.stack([low, step]))

    assert (codes.dtype, back.dtype, back.shape) == (np.uint16, np.float16, rows.shape)
    assert codes.max() <= 255
    exact, got = rows.astype(np.float64), back.astype(np.float64)
    # Half a step; half a place of float16 at the value; and float32's own rounding of the range.
    bound = step / 2 + np.abs(got) * 2.0**-11 + 2.0**-25 + np.abs(exact).max(axis=0) * 2.0**-20
    assert (np.abs(got - exact) <= bound).all()
    same = rows.min(axis=0) == rows.max(axis=0)
    assert (back[:, same] == rows[:, same]).all(), "a constant column comes back as it was"
    rectified = rows.min(axis=0) == 0
    assert (back[:, rectified][rows[:, rectified] == 0] == 0).all(), "zeros stay zeros"


@pytest.mark.parametrize("codec", get_args(Codec))
def test_a_store_of_codes_holds_their_ranges(codec):
    identity = identity_of(10, 4, 3, **{"how.dtype": "8bit"})
    columns = random_columns(10, 3, 0)
    columns["activations"] = np.random.default_rng(2).standard_normal((10, 3)).astype(np.float16)
    metadata = make_metadata(identity, ("a",), {}, codec)
    assert "column_range/zarr.json" in metadata
    for part in parts_of(identity):
        rows = cut(columns, part)
        objects = encode_part(metadata, part, rows)
        decoded = {
            name: decode_object(name, metadata[f"{name}/zarr.json"], part, objects[part.object_name(name)])
            for name in part.arrays
        }
        assert decoded["activations"].dtype == np.uint16
        codes, column_range = quantise(rows["activations"])
        assert (decoded["activations"] == codes).all() and (decoded["column_range"][0] == column_range).all()
        assert (decoded["box_xyxy"].view(np.uint32) == rows["box_xyxy"].view(np.uint32)).all()


# --- numbers that follow from the arrays


@pytest.mark.parametrize(("dtype", "arrays"), [("float16", ARRAYS), ("8bit", ARRAYS_OF_CODES)])
def test_files_are_counted_as_they_are_written(dtype, arrays):
    identity = identity_of(10, 4, 3, **{"how.dtype": dtype})
    metadata = make_metadata(identity, ("a",), {})
    (first, *_) = parts_of(identity)
    columns = {**random_columns(10, 3, 0), "activations": np.zeros((10, 3), np.float16)}
    assert files_per_store(arrays) == len(metadata) + 1  # and the seal
    assert files_per_part(arrays) == len(encode_part(metadata, first, cut(columns, first))) + 1  # and the record


# --- parts and shares


@given(st.integers(1, 10**6), st.integers(1, 10**5))
def test_parts_cover_all_rows_once(n_rows, part_rows):
    if n_rows > 1000 * part_rows:
        part_rows = n_rows // 1000
    parts = parts_of(identity_of(n_rows, part_rows, 1))
    assert parts[0].start == 0 and parts[-1].stop == n_rows
    assert all(a.stop == b.start for a, b in zip(parts, parts[1:], strict=False))
    assert all(part.n_rows == part_rows for part in parts[:-1]) and 0 < parts[-1].n_rows <= part_rows
    names = [name for part in parts for name in (*part.object_names, part.record_name)]
    assert len(set(names)) == len(names) == 5 * len(parts)


@given(st.integers(0, 300), st.integers(1, 400))
def test_shares_cover_all_parts_once_and_are_equal_up_to_one(n_parts, count):
    parts = [Part(i, i, i + 1) for i in range(n_parts)]
    shares = [share_of(parts, index, count) for index in range(1, count + 1)]
    assert [part for share in shares for part in share] == parts
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
