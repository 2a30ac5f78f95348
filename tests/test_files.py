"""Files whole or not at all, JSON that depends on the value alone, and remembered digests."""

import hashlib
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.files
from pipeline.files import (
    DigestMemory,
    canonical_json,
    digest_of,
    read_json,
    sha256_bytes,
    sha256_file,
    write_json,
    write_whole,
)

# ---- whole or not at all ---------------------------------------------------------------------------


def test_write_whole_makes_folders_and_leaves_only_the_file(tmp_path):
    path = tmp_path / "a/b/c.bin"

    write_whole(path, b"one")
    write_whole(path, b"two")

    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["c.bin"]


@pytest.mark.parametrize("fault", ["fsync", "replace"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_content_and_no_partial(tmp_path, monkeypatch, fault, kind):
    path = tmp_path / "file.json"
    write_whole(path, b"old")

    def fail(*_):
        raise kind("no space left")

    monkeypatch.setattr(pipeline.files.os, fault, fail)
    with pytest.raises(kind):
        write_whole(path, b"new")

    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (calls.append("fsync"), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))

    write_whole(tmp_path / "f", b"x")

    assert calls == ["fsync", "replace", "fsync"]  # the content, the name, the folder


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, {"a": -math.inf}]])
def test_numbers_that_json_has_not_are_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", value)
    assert not list(tmp_path.iterdir())


# ---- JSON ------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    try:
        path.write_bytes(canonical_json(value))
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    assert read_json(path) == value


@given(st.dictionaries(st.text("abcäöü日", max_size=4), st.integers(), max_size=6))
def test_the_order_of_keys_does_not_matter(value):
    other = dict(reversed(value.items()))

    assert canonical_json(other) == canonical_json(value)
    assert digest_of(other) == digest_of(value)


@pytest.mark.parametrize(
    ("value", "expect"),
    [
        pytest.param({"b": [1, 2.5], "a": None}, b'{"a":null,"b":[1,2.5]}', id="sorted, no spaces"),
        pytest.param("é", b'"\xc3\xa9"', id="UTF-8"),
        pytest.param((1, 2), b"[1,2]", id="a tuple is a list"),
    ],
)
def test_canonical_json(value, expect):
    assert canonical_json(value) == expect
    assert digest_of(value) == hashlib.sha256(expect).hexdigest()


@pytest.mark.parametrize("value", [math.nan, {"a": math.inf}])
def test_canonical_json_refuses_what_json_has_not(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_digest_of_a_file(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)

    assert sha256_file(tmp_path / "f") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()


# ---- remembered digests ----------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were really hashed."""
    names = []
    real = pipeline.files.sha256_file
    monkeypatch.setattr(pipeline.files, "sha256_file", lambda path: (names.append(path.name), real(path))[1])
    return names


def write(path, data: bytes, mtime_ns: int = 1_000_000_000) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_digests_are_remembered_across_openings(tmp_path, hashed):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        write(path, path.name.encode())

    first = DigestMemory(tmp_path / "deep/memory.sqlite").digests(paths)
    again = DigestMemory(tmp_path / "deep/memory.sqlite").digests(paths[::-1])

    assert first == again[::-1] == [sha256_bytes(b"a"), sha256_bytes(b"b")]
    assert hashed == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "mtime_ns", "noticed"),
    [
        pytest.param(b"longer", 1_000_000_000, True, id="size"),
        pytest.param(b"new", 1_000_000_001, True, id="one nanosecond of mtime"),
        pytest.param(b"old", 2_000_000_000, True, id="touched, same bytes"),
        pytest.param(b"new", 1_000_000_000, False, id="nothing that stat shows: see forget"),
    ],
)
def test_what_is_noticed(tmp_path, hashed, data, mtime_ns, noticed):
    path, memory = tmp_path / "p", DigestMemory(tmp_path / "m.sqlite")
    write(path, b"old")
    memory.digests([path])

    write(path, data, mtime_ns)

    assert memory.digests([path]) == [sha256_bytes(data if noticed else b"old")]
    assert len(hashed) == 1 + noticed
    memory.digests([path])
    assert len(hashed) == 1 + noticed  # and remembered again


def test_another_file_under_the_same_name_is_noticed(tmp_path):
    path, memory = tmp_path / "p", DigestMemory(tmp_path / "m.sqlite")
    write(path, b"old")
    memory.digests([path])

    write(tmp_path / "q", b"new")
    os.replace(tmp_path / "q", path)  # same size, same time, another inode

    assert memory.digests([path]) == [sha256_bytes(b"new")]


def test_forget_hashes_everything_again(tmp_path):
    path, memory = tmp_path / "p", DigestMemory(tmp_path / "m.sqlite")
    write(path, b"old")
    memory.digests([path])
    write(path, b"new")

    memory.forget()

    assert memory.digests([path]) == [sha256_bytes(b"new")]


def test_a_file_that_cannot_be_read_has_no_digest(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    memory = DigestMemory(tmp_path / "m.sqlite")
    assert memory.digests([tmp_path / "none", tmp_path / "dangling", tmp_path]) == ["", "", ""]
