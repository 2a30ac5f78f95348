"""Files whole or not at all, JSON that depends on the value alone, and remembered digests."""

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.io.atomic
from pipeline.dataset.csv_file import read_table_file
from pipeline.dataset.split import read_list
from pipeline.dataset.voc_xml import parse_root
from pipeline.io.atomic import create_atomic, read_json, remove_stale_partials, write_atomic, write_json
from pipeline.io.checksummed import USER_BLOCK, check_hdf5, checksum_hdf5, checksummed_json, read_checksummed_json
from pipeline.io.digests import DigestMemory, canonical_json, digest_of, sha256_bytes, sha256_file
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.io.yaml import read_mapping

# ---- whole or not at all ---------------------------------------------------------------------------


def test_write_whole_makes_folders_and_leaves_only_the_file(tmp_path):
    path = tmp_path / "a/b/c.bin"

    write_atomic(path, b"one")
    write_atomic(path, b"two")

    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["c.bin"]


@pytest.mark.parametrize("fault", ["fsync", "replace"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_content_and_no_partial(tmp_path, monkeypatch, fault, kind):
    path = tmp_path / "file.json"
    write_atomic(path, b"old")

    def fail(*_):
        raise kind("no space left")

    monkeypatch.setattr(pipeline.io.atomic.os, fault, fail)
    with pytest.raises(kind):
        write_atomic(path, b"new")

    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (calls.append("fsync"), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))

    write_atomic(tmp_path / "f", b"x")

    assert calls == ["fsync", "replace", "fsync"]  # the content, the name, the folder


def test_a_file_may_grow_in_another_folder(tmp_path, monkeypatch):
    seen = []
    for name in ("replace", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda a, b, real=real: (seen.append(a.parent), real(a, b)))

    write_atomic(tmp_path / "a/f", b"x", tmp_path / "grow/here")
    create_atomic(tmp_path / "a/g", b"y", tmp_path / "grow/here")

    assert seen == [tmp_path / "grow/here"] * 2
    assert [p.name for p in sorted(tmp_path.rglob("*"))] == ["a", "f", "g", "grow", "here"]


# ---- of several writers, the first -----------------------------------------------------------------


def refuse_links(*_):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_create_whole_leaves_what_is_there(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    path = tmp_path / "deep/file"

    create_atomic(path, b"first")
    create_atomic(path, b"second")

    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_of_many_creators_one_wins_for_all(tmp_path):
    start = threading.Barrier(16)

    def create(i: int) -> bytes:
        start.wait()
        create_atomic(tmp_path / "file", bytes([i]) * 10_000)
        return (tmp_path / "file").read_bytes()

    with ThreadPoolExecutor(16) as pool:
        seen = set(pool.map(create, range(16)))

    assert len(seen) == 1
    assert seen.pop() in {bytes([i]) * 10_000 for i in range(16)}
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("fault", ["fsync", "link"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_failed_creation_leaves_nothing(tmp_path, monkeypatch, fault, kind):
    def fail(*_):
        raise kind(errno.ENOSPC, "no space left")

    monkeypatch.setattr(pipeline.io.atomic.os, fault, fail)
    with pytest.raises(kind):
        create_atomic(tmp_path / "file", b"new")

    assert not list(tmp_path.iterdir())


# ---- what killed writers leave ---------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
import pipeline.io.atomic
pipeline.io.atomic.os.replace = lambda *_: os._exit(9)
pipeline.io.atomic.write_atomic(Path(sys.argv[1]), b"half")
"""


def leave(path, monkeypatch, host=None, pid=None) -> Path:
    """A file that was not yet renamed, of another host or process."""
    with monkeypatch.context() as patch:
        if host is not None:
            patch.setattr(pipeline.io.atomic.platform, "node", lambda: host)
        if pid is not None:
            patch.setattr(pipeline.io.atomic.os, "getpid", lambda: pid)
        partial = pipeline.io.atomic._partial_name(path, path.parent)
    partial.touch()
    return partial


@pytest.mark.parametrize("name", ["zarr.json", "0", "a.b.c"])
def test_only_what_dead_processes_of_this_host_left_is_swept(tmp_path, monkeypatch, name):
    dead = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / name])
    assert dead.wait(60) == 9
    (left,) = tmp_path.iterdir()
    assert str(dead.pid) in left.name
    kept = [
        leave(tmp_path / name, monkeypatch),  # of this process
        leave(tmp_path / name, monkeypatch, pid=1),  # of one that is somebody else's
        leave(tmp_path / name, monkeypatch, host="elsewhere", pid=dead.pid),
        leave(tmp_path / name, monkeypatch, host=f"not-{platform.node()}", pid=dead.pid),
        leave(tmp_path / name, monkeypatch, host=f"other.{platform.node()}", pid=dead.pid),
        *(tmp_path / other for other in (name, ".partial", "x.partial", ".x.partial", ".a.b.c.partial", ".hidden")),
    ]
    for path in kept:
        path.touch()

    assert remove_stale_partials(tmp_path) == [left]
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert remove_stale_partials(tmp_path) == []


def test_sweeping_where_nothing_is(tmp_path):
    assert remove_stale_partials(tmp_path / "none") == []


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, {"a": -math.inf}]])
def test_numbers_that_json_has_not_are_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_json_of_others_that_holds_no_numbers_is_refused(tmp_path, word):
    (tmp_path / "x.json").write_text(f'{{"mAP": {word}}}')
    with pytest.raises(ValueError, match=f"{word} is no number of JSON"):
        read_json(tmp_path / "x.json")


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


# ---- files that carry their own digest -------------------------------------------------------------


def changed_by_one_byte(data: bytes, draw) -> bytes:
    """One byte replaced, put in (a space, most of all) or left out."""
    position = draw(st.integers(0, len(data) - 1), "position")
    kind = draw(st.sampled_from(["replace", "insert", "delete"]), "kind")
    if kind == "replace":
        new = draw(st.integers(0, 255).filter(lambda b: b != data[position]), "byte")
        return data[:position] + bytes([new]) + data[position + 1 :]
    if kind == "insert":
        new = draw(st.sampled_from(b" \n\t0") | st.integers(0, 255), "byte")
        return data[:position] + bytes([new]) + data[position:]
    return data[:position] + data[position + 1 :]


def is_refused(data: bytes) -> bool:
    """By this room's own error, or that of a decoder: all are ValueError."""
    try:
        read_checksummed_json(data)
    except ValueError:
        return True
    return False


OBJECTS = st.dictionaries(st.text().filter(lambda key: key != "sha256"), VALUES, max_size=4)


@given(OBJECTS)
def test_signed_json_round_trip(value):
    data = checksummed_json(value)

    assert read_checksummed_json(data) == value
    assert checksummed_json(read_checksummed_json(data)) == data
    assert json.loads(data) == {**value, "sha256": digest_of(value)}


@settings(max_examples=400)
@given(OBJECTS, st.data())
def test_any_change_of_signed_json_is_refused(value, data):
    signed = checksummed_json(value)
    changed = changed_by_one_byte(signed, lambda strategy, label: data.draw(strategy, label))

    assert is_refused(changed)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data + b"\n", id="a line more"),
        pytest.param(lambda data: data.rstrip(), id="a line less"),
        pytest.param(lambda data: json.dumps(json.loads(data)).encode(), id="without indent"),
        pytest.param(lambda data: b"\xef\xbb\xbf" + data, id="byte order mark"),
        pytest.param(lambda data: data.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(lambda data: data.replace(b"1.5", b"1.50"), id="a number otherwise"),
        pytest.param(lambda data: data.replace(b'"a": 1,', b'"a": 2, "a": 1,'), id="a key twice"),
        pytest.param(lambda data: data.replace("ä".encode(), b"\\u00e4"), id="a letter otherwise"),
        pytest.param(lambda data: b"", id="nothing"),
    ],
)
def test_the_same_content_in_other_bytes_is_refused(change):
    data = checksummed_json({"a": 1, "b": 1.5, "c": "ä"})
    changed = change(data)
    assert changed != data

    assert is_refused(changed)


@pytest.mark.parametrize("data", [b"[]", b"{}", b"null", b'{"a": 1}', b'"sha256"'])
def test_json_without_a_digest_is_refused(data):
    with pytest.raises(ValueError, match="carries no digest of its own"):
        read_checksummed_json(data)


@given(st.binary(max_size=600))
def test_signed_hdf5_round_trip(rest):
    signed = checksum_hdf5(bytes(USER_BLOCK) + rest)

    assert check_hdf5(signed) is signed
    assert signed[USER_BLOCK:] == rest
    assert hashlib.sha256(rest).hexdigest().encode() in signed[:USER_BLOCK]
    assert checksum_hdf5(signed) == signed


@settings(max_examples=400)
@given(st.binary(max_size=600), st.data())
def test_any_change_of_signed_hdf5_is_refused(rest, data):
    signed = checksum_hdf5(bytes(USER_BLOCK) + rest)
    changed = changed_by_one_byte(signed, lambda strategy, label: data.draw(strategy, label))

    with pytest.raises(ValueError, match="changed since it was written"):
        check_hdf5(changed)


def test_a_signed_file_is_hdf5(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w", userblock_size=USER_BLOCK) as file:
        file["x"] = [1, 2, 3]
    (tmp_path / "f.h5").write_bytes(checksum_hdf5((tmp_path / "f.h5").read_bytes()))

    check_hdf5((tmp_path / "f.h5").read_bytes())
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["x"][:].tolist() == [1, 2, 3]


def test_digest_of_a_file(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)

    assert sha256_file(tmp_path / "f") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()


# ---- remembered digests ----------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were really hashed."""
    names = []
    real = pipeline.io.digests.sha256_file
    monkeypatch.setattr(pipeline.io.digests, "sha256_file", lambda path: (names.append(path.name), real(path))[1])
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
    ("data", "mtime_ns"),
    [
        pytest.param(b"longer", 1_000_000_000, id="size"),
        pytest.param(b"new", 1_000_000_001, id="one nanosecond of mtime"),
        pytest.param(b"old", 2_000_000_000, id="touched, same bytes"),
        pytest.param(b"new", 1_000_000_000, id="as long, and given back its time"),
    ],
)
def test_what_is_noticed(tmp_path, hashed, data, mtime_ns):
    path, memory = tmp_path / "p", DigestMemory(tmp_path / "m.sqlite")
    write(path, b"old")
    memory.digests([path])

    write(path, data, mtime_ns)

    assert memory.digests([path]) == [sha256_bytes(data)]
    assert len(hashed) == 2
    memory.digests([path])
    assert len(hashed) == 2  # and remembered again


def test_another_file_under_the_same_name_is_noticed(tmp_path):
    path, memory = tmp_path / "p", DigestMemory(tmp_path / "m.sqlite")
    write(path, b"old")
    memory.digests([path])

    write(tmp_path / "q", b"new")
    os.replace(tmp_path / "q", path)  # same size, same time, another inode

    assert memory.digests([path]) == [sha256_bytes(b"new")]


def test_inodes_of_64_bits_and_times_after_2262_are_remembered(tmp_path, hashed, monkeypatch):
    path, memory = tmp_path / "p", DigestMemory(tmp_path / "m.sqlite")
    write(path, b"old")
    plain = os.stat(path)
    far = SimpleNamespace(
        st_mode=plain.st_mode, st_size=3, st_mtime_ns=2**63 + 5, st_ctime_ns=2**63 + 9, st_ino=2**64 - 7
    )
    monkeypatch.setattr(type(path), "stat", lambda self, **how: far if self == path else os.stat(self, **how))

    assert [memory.digests([path]), DigestMemory(tmp_path / "m.sqlite").digests([path])] == [[sha256_bytes(b"old")]] * 2
    assert len(hashed) == 1


def test_forget_hashes_everything_again(tmp_path, hashed):
    path, memory = tmp_path / "p", DigestMemory(tmp_path / "m.sqlite")
    write(path, b"old")
    memory.digests([path])

    memory.forget()

    assert memory.digests([path]) == [sha256_bytes(b"old")]
    assert len(hashed) == 2


def test_a_memory_from_before_there_were_change_times_is_not_read(tmp_path, hashed):
    path = tmp_path / "p"
    write(path, b"new")
    state = os.stat(path)
    with contextlib.closing(sqlite3.connect(tmp_path / "m.sqlite")) as database, database:
        database.execute("CREATE TABLE digests (path TEXT PRIMARY KEY, size INT, mtime_ns INT, inode INT, sha256 TEXT)")
        row = (str(path), state.st_size, state.st_mtime_ns, state.st_ino, sha256_bytes(b"old"))
        database.execute("INSERT INTO digests VALUES (?,?,?,?,?)", row)

    assert DigestMemory(tmp_path / "m.sqlite").digests([path]) == [sha256_bytes(b"new")]
    assert hashed == ["p"]


def test_a_file_that_cannot_be_read_has_no_digest(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    memory = DigestMemory(tmp_path / "m.sqlite")
    assert memory.digests([tmp_path / "none", tmp_path / "dangling", tmp_path]) == ["", "", ""]


@pytest.mark.timeout(20)
def test_a_pipe_has_no_digest_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert DigestMemory(tmp_path / "memory.sqlite").digests([tmp_path / "pipe"]) == [""]


def test_names_that_are_not_utf8_are_remembered(tmp_path):
    names = [os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe8"), "café"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    paths = [tmp_path / name for name in names]

    first = DigestMemory(tmp_path / "digests.sqlite").digests(paths)

    assert first == [sha256_file(path) for path in paths]
    assert DigestMemory(tmp_path / "digests.sqlite").digests(paths) == first


# ---- YAML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threads: 1\nthreads: 2\n", "line 1: keys that stand there twice, .*: 'threads'"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "line 3: keys that stand there twice, .*: 'c'"),
    ],
)
def test_a_key_twice_is_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)

    with pytest.raises(SettingsError, match=message):
        read_mapping(tmp_path / "a.yaml")


def test_merged_keys_may_be_replaced(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\n1: one\n'1': text\n")

    assert read_mapping(tmp_path / "a.yaml") == {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}, 1: "one", "1": "text"}


# ---- Git LFS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        read_mapping,
        read_table_file,
        read_list,
        lambda path: parse_root(path.read_bytes()),
    ],
    ids=["settings, manifest or card", "table of labels", "id list", "annotation"],
)
def test_a_git_lfs_pointer_is_named_whatever_it_stands_for(tmp_path, read):
    path = tmp_path / "file"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")

    with pytest.raises(
        (PipelineError, ValueError), match="a Git LFS pointer without its file; get it with: git lfs pull"
    ):
        read(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: [no, Yes, on, off, y]", ["no", "Yes", "on", "off", "y"]),
        ("a: [true, False, 10, 0, -3, 0x10, 1_000, 08, '010']", [True, False, 10, 0, -3, 16, 1000, "08", "010"]),
    ],
)
def test_words_of_yaml_are_text_unless_they_can_mean_nothing_else(tmp_path, text, value):
    (tmp_path / "a.yaml").write_text(text)
    assert read_mapping(tmp_path / "a.yaml") == {"a": value}


@pytest.mark.parametrize(("number", "value"), [("010", 8), ("-01", -1), ("1:30", 90), ("00", 0)])
def test_numbers_in_other_bases_are_asked_about(tmp_path, number, value):
    (tmp_path / "a.yaml").write_text(f"a: 1\nb: {number}\n")
    with pytest.raises(SettingsError, match=f"line 2: {number} is {value} to YAML: write {value}, or '{number}'"):
        read_mapping(tmp_path / "a.yaml")


@pytest.mark.parametrize("write", [lambda path: write_atomic(path, b"x"), lambda path: _write_replacing(path)])
def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path, monkeypatch, write):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: '.*/a.bin'"):
        write(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def _write_replacing(path: Path) -> None:
    with pipeline.io.atomic.replacing(path) as partial:
        partial.write_bytes(b"x")
