"""Folders: the same promises on a disk, in memory and on an object store."""

from __future__ import annotations

import errno
import os
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.io.atomic
from pipeline.activations.folder import Folder, LocalFolder, RemoteFolder, disk_trouble, open_folder
from pipeline.io.errors import PipelineError, SettingsError

KINDS = ("local", "memory", "s3")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URL of an empty bucket of an S3 server on this machine."""
    boto3, server, s3fs = (pytest.importorskip(name) for name in ("boto3", "moto.server", "s3fs"))
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.fixture
def place(request, tmp_path) -> str:
    """A place, path or URL, at which nothing is yet."""
    kind = getattr(request, "param", "local")
    if kind == "local":
        return str(tmp_path / "stores/x.zarr")
    root = f"memory://{tmp_path.name}" if kind == "memory" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return f"{root}/stores/x.zarr"


@pytest.fixture
def folder(place) -> Folder:
    return open_folder(place)


everywhere = pytest.mark.parametrize("place", KINDS, indirect=True)


# --- the same everywhere


@everywhere
def test_what_was_written_is_read(folder, place):
    assert str(folder) == place and folder.name == "x.zarr"
    for name, data in (("zarr.json", b"{}"), ("activations/c/0/0", bytes(range(256))), ("empty", b"")):
        assert not folder.exists(name)
        folder.write(name, data)
        assert folder.exists(name)
        assert folder.read(name) == data
    folder.write("zarr.json", b"another")
    assert folder.read("zarr.json") == b"another"


@everywhere
def test_what_is_not_there(folder):
    for _ in range(2):  # nothing there, then one file there
        with pytest.raises(FileNotFoundError):
            folder.read("none")
        with pytest.raises(FileNotFoundError):
            folder.read("deep/none")
        assert not folder.exists("none") and not folder.exists("deep/none")
        assert folder.read_many(["none", "deep/none"]) == {}
        folder.remove("none")
        folder.remove("deep/none")
        assert folder.folders() == []
        folder.write("one", b"1")
    assert folder.sizes() == {"one": 1}


@everywhere
def test_read_many_gives_those_that_are_there(folder):
    for name in ("a", "b/c", "d"):
        folder.write(name, name.encode())
    assert folder.read_many(name for name in ("d", "b/c", "b/none", "none")) == {"d": b"d", "b/c": b"b/c"}
    assert folder.read_many([]) == {}


@everywhere
def test_of_several_that_create_the_first_stays(folder, place):
    folder.create("deep/zarr.json", b"first")
    folder.create("deep/zarr.json", b"second")
    open_folder(place).create("deep/zarr.json", b"third")
    assert folder.read("deep/zarr.json") == b"first"
    folder.write("deep/zarr.json", b"fourth")
    assert folder.read("deep/zarr.json") == b"fourth"


def test_of_many_that_create_at_once_one_stays(folder, place):
    contents = [bytes([i]) * 5000 for i in range(8)]
    start, seen = threading.Barrier(len(contents)), []

    def create(data):
        mine = open_folder(place)
        start.wait()
        mine.create("x", data)
        seen.append(mine.read("x"))

    threads = [threading.Thread(target=create, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(contents) and len(set(seen)) == 1
    assert seen[0] in contents


@everywhere
def test_sizes_are_of_all_files_in_order_of_their_names(folder):
    assert folder.sizes() == {}
    names = ["zarr.json", "a/c/10/0", "a/c/2/0", "a.txt", "a-b/x", "a/zarr.json"]
    for i, name in enumerate(names):
        folder.write(name, b"x" * i)
    sizes = folder.sizes()
    assert sizes == {name: i for i, name in enumerate(names)}
    assert list(sizes) == sorted(names)


@everywhere
def test_folders_are_those_right_in_this_one(folder):
    for name in ("zarr.json", "b/c/0/0", "a/zarr.json", "b/zarr.json"):
        folder.write(name, b"x")
    assert folder.folders() == ["a", "b"]
    assert folder.child("b").folders() == ["c"]


@everywhere
def test_a_child_is_a_folder_in_this_one(folder, place):
    child = folder.child("b")
    assert (str(child), child.name) == (f"{place}/b", "b")
    assert folder.sizes() == {}  # nothing is made
    child.write("c/d", b"1")
    assert folder.read("b/c/d") == b"1" and child.sizes() == {"c/d": 1} and folder.sizes() == {"b/c/d": 1}
    assert open_folder(child) is child


@everywhere
def test_what_another_one_wrote_meanwhile_is_seen(folder, place):
    folder.write("a", b"1")
    folder.write("b/c", b"1")
    assert (list(folder.sizes()), folder.folders(), folder.exists("d")) == (["a", "b/c"], ["b"], False)
    other = in_another_process(place)
    other.write("d", b"22")
    other.write("e/f", b"1")
    other.remove("a")
    assert folder.exists("d") and not folder.exists("a")
    assert folder.sizes() == {"b/c": 1, "d": 2, "e/f": 1} and folder.folders() == ["b", "e"]


def in_another_process(place) -> Folder:
    """A folder that shares nothing in this process with those that `open_folder` gave before."""
    if not place.startswith("s3:"):
        return open_folder(place)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    return open_folder(place)


@everywhere
def test_remove_and_remove_all_take_nothing_else(folder, place):
    beside = open_folder(f"{place}2")  # its name starts like the folder's
    beside.write("a", b"1")
    for name in ("a", "ab", "b/c"):
        folder.write(name, b"1")
    folder.remove("a")
    assert list(folder.sizes()) == ["ab", "b/c"]
    folder.remove_all()
    assert folder.sizes() == {} and not folder.exists("ab") and folder.folders() == []
    assert beside.sizes() == {"a": 1}
    folder.write("a", b"again")
    assert folder.sizes() == {"a": 5}


# --- on a disk


def test_files_grow_beside_the_folder_and_a_killed_writer_leaves_nothing_in_it(tmp_path, monkeypatch):
    folder = LocalFolder(tmp_path / "stores/x.zarr")
    folder.write("a", b"old")
    grown = []

    def killed(source, target):
        grown.append(Path(source))
        raise KeyboardInterrupt

    for name, act in (("replace", folder.write), ("link", folder.create)):
        monkeypatch.setattr(pipeline.io.atomic.os, name, killed)
        with pytest.raises(KeyboardInterrupt):
            act("a", b"new")
    assert {path.parent for path in grown} == {tmp_path / "stores/.partial"}
    assert folder.sizes() == {"a": 3} and folder.read("a") == b"old"
    assert not list((tmp_path / "stores/.partial").iterdir())


def test_room_on_a_disk(tmp_path):
    free = LocalFolder(tmp_path / "not/yet/there").free_bytes()
    assert free > 0
    assert open_folder("memory://x").free_bytes() is None


@pytest.mark.parametrize("place", ["a/b", "/a/b", "file:///a/b"])
def test_a_path_is_a_folder_on_a_disk(place):
    for given in (place, Path(place)) if "://" not in place else (place,):
        folder = open_folder(given)
        assert isinstance(folder, LocalFolder) and str(folder) == place.removeprefix("file://")


# --- refused


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA7:hunter2@bucket/x",
        "s3://AKIA7@bucket",
        "https://host/x?token=hunter2",
        "abfs://container@account/x?sas=hunter2",
        "simplecache::s3://AKIA7:hunter2@bucket/x",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_printed(url):
    with pytest.raises(
        SettingsError, match="credentials and options do not belong into a URL; .* environment"
    ) as error:
        open_folder(url)
    shown = "".join(traceback.format_exception(error.value))
    assert "hunter2" not in shown and "AKIA7" not in shown


def test_an_unknown_scheme_is_a_setting_to_mend():
    with pytest.raises(SettingsError, match="stores 'nowhere://bucket/x': .*nowhere"):
        open_folder("nowhere://bucket/x")


def test_nothing_secret_is_in_what_a_folder_says_of_itself(bucket):
    folder = RemoteFolder(f"{bucket}/x/")
    assert str(folder) == "s3://bucket/x"
    assert "hunter2" not in f"{folder} {folder!r} {vars(folder)!r}"


# --- trouble


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "x"), r"S: the disk is full \(\d+\.\d GiB free\); recorded parts stay: .*again$"),
        (OSError(errno.EDQUOT, "x"), r"S: the disk is full .* start the same command again$"),
        (OSError(errno.EACCES, "x"), r"S: cannot be written: Permission denied; check the rights there$"),
        (OSError(errno.EROFS, "x"), r"S: cannot be written: Read-only file system; check the rights there$"),
        (PermissionError("Access Denied"), r"S: cannot be written: Access Denied; check the rights there$"),
        (OSError(errno.EIO, "Input/output error"), r"S: Input/output error; start the same command again to resume$"),
        (FileNotFoundError("The bucket does not exist"), r"S: The bucket does not exist; start the same"),
    ],
)
def test_trouble_is_said_in_words_of_a_user(error, message):
    explained = disk_trouble(error, LocalFolder(Path("S")))
    assert isinstance(explained, PipelineError)
    with pytest.raises(PipelineError, match=f"^{message}"):
        raise explained
    assert "GiB" not in str(disk_trouble(OSError(errno.EIO, os.strerror(errno.EIO)), open_folder("memory://x")))


def test_a_file_is_no_empty_folder_and_a_missing_folder_is(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(NotADirectoryError):
        open_folder(str(tmp_path / "cache")).folders()
    assert open_folder(str(tmp_path / "absent")).folders() == []
