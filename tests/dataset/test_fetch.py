"""Fetching and checking: real archives over a real server on this machine, with every way it can fail."""

import hashlib
import io
import re
import shutil
import sys
import tarfile
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset import archive as archive_module
from pipeline.dataset.fetch import check, fetch
from pipeline.dataset.manifest import Manifest, dataset_folder
from pipeline.dataset.read import read_split
from pipeline.io.errors import DatasetError, MissingDataError, PipelineError

XML = """<annotation><size><width>16</width><height>12</height></size><object><name>cat</name>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def picture_bytes(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def split_files(split: str, *ids: str) -> dict[str, bytes]:
    """Files of one split, with paths below the dataset's folder."""
    files = {f"JPEGImages/{i}.png": picture_bytes(sum(i.encode())) for i in ids}
    files |= {f"Annotations/{i}.xml": XML.encode() for i in ids}
    return files | {f"ImageSets/Main/{split}.txt": ("\n".join(ids) + "\n").encode()}


def tar_bytes(files: dict[str, bytes], top: str = "VOCdevkit/VOC/", extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Files by path. `cuts`: bytes after which the next answers break off; `ranges`: is Range heard."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges = True
        self.validator: str | None = None  # None: an ETag made of the bytes
        self.status: int | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.sent_bytes = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        server.asked.append((name, wanted))
        if server.status is not None or name not in server.files:
            self.send_error(server.status or 404)
            return
        data = server.files[name]
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"' if server.validator is None else server.validator
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        body = data[start:]
        if server.cuts:
            body = body[: server.cuts.pop(0)]
        self.wfile.write(body)
        server.sent_bytes += len(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(archive_module, "PAUSE_S", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def served(server: Server, name: str, data: bytes, md5: str | None = None) -> dict[str, str]:
    """Put an archive on the server; returns its entry of a manifest."""
    server.files[name] = data
    digest = md5 or hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {"url": server.url(name), "md5": digest, "filename": name, "strip": "VOCdevkit"}


def voc(*archives: dict[str, str], **changes) -> Manifest:
    content = {
        "name": "own", "title": "Own", "folder": "VOC", "classes": ["cat"], "metric": "voc12",
        "fit": "train", "eval": "train", "splits": {"train": {"pictures": 2}}, "archives": list(archives),
    }  # fmt: skip
    return Manifest.model_validate({**content, **changes})


BOTH = {"eval": "test", "splits": {"train": {"pictures": 2}, "test": {"pictures": 1}}}
TRAIN, TEST = split_files("train", "a", "b"), split_files("test", "t")


def quiet(message: str) -> None:
    """Hears what fetching says, and keeps it to itself."""


def content_of(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def leftovers(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.name not in ("VOC", "downloads"))


# ---- downloading -----------------------------------------------------------------------------------


def test_a_dataset_is_fetched_once(server, tmp_path):
    manifest, said = voc(served(server, "a.tar", tar_bytes(TRAIN))), []

    folder = fetch(manifest, tmp_path, said.append)

    assert folder == dataset_folder(manifest, tmp_path) == tmp_path / "VOC"
    assert content_of(folder) == TRAIN
    assert read_split(manifest, "train", tmp_path).ids == ("a", "b")
    assert leftovers(tmp_path) == []
    assert "train: 2 listed (manifest: 2), 2 pictures, 2 annotations, 0 class lists" in said

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    said.clear()
    assert fetch(manifest, tmp_path, said.append) == folder
    assert said[0] == f"{folder}: already there"
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert len(server.asked) == 1


def test_two_archives_of_one_dataset_are_merged(server, tmp_path):
    archives = served(server, "train.tar", tar_bytes(TRAIN)), served(server, "test.tar", tar_bytes(TEST))
    manifest = voc(*archives, **BOTH)

    folder = fetch(manifest, tmp_path, quiet)

    assert content_of(folder) == TRAIN | TEST
    assert check(manifest, tmp_path).ok


def test_a_cut_connection_is_gone_on_with(server, tmp_path):
    data = tar_bytes(TRAIN)
    server.cuts = [len(data) // 2, 100]

    fetch(voc(served(server, "a.tar", data)), tmp_path, quiet)

    half = len(data) // 2
    assert server.asked == [("a.tar", None), ("a.tar", f"bytes={half}-"), ("a.tar", f"bytes={half + 100}-")]
    assert server.sent_bytes == len(data)  # no byte twice


def test_a_connection_that_is_always_cut_keeps_what_came_for_the_next_call(server, tmp_path):
    data = tar_bytes(TRAIN)
    manifest = voc(served(server, "a.tar", data))
    server.cuts = [1000] * archive_module.ATTEMPTS

    with pytest.raises(MissingDataError, match=r"cut after 5,000 of [\d,]+ bytes \(5 att(?s:.*)5,000 bytes are kept"):
        fetch(manifest, tmp_path, quiet)
    assert not (tmp_path / "VOC").exists()

    fetch(manifest, tmp_path, quiet)
    assert server.asked[-1] == ("a.tar", "bytes=5000-")
    assert server.sent_bytes == len(data)


def test_a_server_that_ignores_ranges_sends_all_of_it_again(server, tmp_path):
    data = tar_bytes(TRAIN)
    server.ranges, server.cuts = False, [1000]

    folder = fetch(voc(served(server, "a.tar", data)), tmp_path, quiet)

    assert content_of(folder) == TRAIN
    assert server.sent_bytes == len(data) + 1000


def test_a_file_that_changed_on_the_server_is_never_mixed_with_the_old_one(server, tmp_path):
    old, new = tar_bytes(split_files("train", "x", "y")), tar_bytes(TRAIN)
    server.cuts = [1000] * archive_module.ATTEMPTS
    manifest = voc({**served(server, "a.tar", old), "md5": hashlib.md5(new, usedforsecurity=False).hexdigest()})
    with pytest.raises(MissingDataError, match="cut after"):
        fetch(manifest, tmp_path, quiet)

    server.files["a.tar"] = new
    assert content_of(fetch(manifest, tmp_path, quiet)) == TRAIN


@pytest.mark.parametrize("validator", ["", 'W/"weak"'], ids=["no ETag", "a weak one"])
def test_without_a_proof_of_equality_nothing_is_gone_on_with(server, tmp_path, validator):
    server.validator, server.cuts = validator, [1000]

    folder = fetch(voc(served(server, "a.tar", tar_bytes(TRAIN))), tmp_path, quiet)

    assert content_of(folder) == TRAIN
    assert server.asked == [("a.tar", None), ("a.tar", None)]


def test_a_download_that_was_killed_before_its_last_step_needs_no_byte(server, tmp_path):
    data = tar_bytes(TRAIN)
    manifest = voc(served(server, "a.tar", data))
    server.cuts = [len(data) - 1] + [0] * archive_module.ATTEMPTS
    with pytest.raises(MissingDataError):
        fetch(manifest, tmp_path, quiet)
    server.cuts = []
    with open(tmp_path / "downloads" / "a.tar.partial", "ab") as stream:
        stream.write(data[-1:])

    assert content_of(fetch(manifest, tmp_path, quiet)) == TRAIN
    assert server.sent_bytes == len(data) - 1


def test_a_wrong_digest_is_told_and_the_next_call_starts_anew(server, tmp_path):
    damaged, good = tar_bytes(TRAIN | {"JPEGImages/a.png": b"spoilt"}), tar_bytes(TRAIN)
    expected, got = (hashlib.md5(d, usedforsecurity=False).hexdigest() for d in (good, damaged))
    manifest = voc(served(server, "a.tar", damaged, md5=expected))

    with pytest.raises(DatasetError, match=f"wrong MD5 digest, got {got}, expected {expected}") as caught:
        fetch(manifest, tmp_path, quiet)
    assert f"set aside as {tmp_path / 'downloads' / 'a.tar.wrong'}" in str(caught.value)
    assert not (tmp_path / "VOC").exists()

    server.files["a.tar"] = good
    assert content_of(fetch(manifest, tmp_path, quiet)) == TRAIN
    assert server.asked == [("a.tar", None), ("a.tar", None)]


def test_an_archive_that_was_put_there_by_hand_is_used_if_its_digest_fits(server, tmp_path):
    data = tar_bytes(TRAIN)
    manifest = voc(served(server, "a.tar", data))
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.tar").write_bytes(data)

    fetch(manifest, tmp_path, quiet)

    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "attempts", "message"),
    [
        (404, 1, "answers 404 Not Found\nif the file has moved"),
        (403, 1, "403"),
        (503, 5, r"503 .* \(5 attempts\)"),
    ],
)
def test_a_server_that_refuses(server, tmp_path, status, attempts, message):
    manifest = voc(served(server, "a.tar", tar_bytes(TRAIN)))
    server.status = status

    with pytest.raises(MissingDataError, match=message):
        fetch(manifest, tmp_path, quiet)
    assert len(server.asked) == attempts


def test_no_server_at_all(server, tmp_path):
    entry = served(server, "a.tar", tar_bytes(TRAIN))
    server.server_close()

    with pytest.raises(MissingDataError, match=r"connection failed: .*refused"):
        fetch(voc(entry), tmp_path, quiet)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a.tar", "/etc/passwd"])
def test_only_http_is_fetched(tmp_path, url):
    with pytest.raises(DatasetError, match="expected an address that starts with https:// or http://"):
        fetch(voc({"url": url, "md5": "0" * 32, "filename": "a.tar"}), tmp_path, quiet)


def test_too_little_space_is_told_before_a_byte_is_written(server, tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 1000))

    with pytest.raises(MissingDataError, match="a.tar, packed and unpacked, needs 0.2 GB, 0.0 GB are free"):
        fetch(voc(served(server, "a.tar", tar_bytes(TRAIN))), tmp_path, quiet)
    assert not (tmp_path / "downloads" / "a.tar.partial").exists()


def test_a_second_fetch_at_the_same_time_is_refused(server, tmp_path):
    manifest = voc(served(server, "a.tar", tar_bytes(TRAIN)))
    refused = []

    def fetch_again(message):
        try:
            fetch(manifest, tmp_path, quiet)
        except PipelineError as error:
            refused.append(str(error))

    fetch(manifest, tmp_path, lambda message: fetch_again(message) if "->" in message else None)

    assert len(refused) == 1 and "another fetch is running" in refused[0]


def test_rate_and_time_left_are_shown(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.io.progress.PLAIN_EVERY_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    files = TRAIN | {"notes.bin": bytes(5_000_000)}

    fetch(voc(served(server, "a.tar", tar_bytes(files))), tmp_path, quiet)

    assert re.search(r"download a.tar: 2/5 MB, [\d,.]+/s, \d+s left", capsys.readouterr().err)


# ---- unpacking -------------------------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


EVIL = {
    "upwards": (member("../evil", size=3), "../evil: path with '..'"),
    "upwards, inside a path": (member("VOCdevkit/../../evil", size=3), "path with '..'"),
    "absolute": (member("/tmp/evil", size=3), "/tmp/evil: absolute path"),
    "a drive": (member("C:/evil", size=3), "C:/evil: absolute path"),
    "symbolic link outside": (member("VOCdevkit/VOC/out", tarfile.SYMTYPE, "../../.."), "link to ../../.."),
    "symbolic link, absolute": (
        member("VOCdevkit/out", tarfile.SYMTYPE, "/etc"),
        "VOCdevkit/out: link to /etc",
    ),
    "hard link outside": (member("VOCdevkit/out", tarfile.LNKTYPE, "../../secret"), "link to ../../secret"),
    "device": (member("VOCdevkit/null", tarfile.CHRTYPE), "VOCdevkit/null: a device or pipe"),
    "pipe": (member("VOCdevkit/pipe", tarfile.FIFOTYPE), "VOCdevkit/pipe: a device or pipe"),
}


@pytest.mark.parametrize(("evil", "message"), EVIL.values(), ids=EVIL.keys())
def test_archives_that_reach_outside_are_refused_whole(server, tmp_path, evil, message):
    root = tmp_path / "deep" / "root"
    manifest = voc(served(server, "a.tar", tar_bytes(TRAIN, extra=(evil,))))

    with pytest.raises(DatasetError, match="refused, nothing unpacked") as caught:
        fetch(manifest, root, quiet)

    assert message in str(caught.value)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".lock", "a.tar"]
    assert not list(root.glob(".VOC*")) and not (root / "VOC").exists()


def test_all_refused_members_are_listed(server, tmp_path):
    data = tar_bytes(TRAIN, extra=(member("/evil", size=3), member("../evil", size=3)))

    with pytest.raises(DatasetError, match=r"/evil: absolute path\n  - \.\./evil: path with"):
        fetch(voc(served(server, "a.tar", data)), tmp_path, quiet)


def test_a_hard_link_inside_the_archive_is_a_file(server, tmp_path):
    link = member("VOCdevkit/VOC/JPEGImages/c.png", tarfile.LNKTYPE, "VOCdevkit/VOC/JPEGImages/a.png")

    folder = fetch(voc(served(server, "a.tar", tar_bytes(TRAIN, extra=(link,)))), tmp_path, quiet)

    assert (folder / "JPEGImages" / "c.png").read_bytes() == TRAIN["JPEGImages/a.png"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>not here any more</html>", "a.tar: cannot be unpacked"),
        (tar_bytes(TRAIN)[:3000], "a.tar: cannot be unpacked: unexpected end of data"),
        (tar_bytes(TRAIN, top="somewhere/else/"), "expected VOCdevkit/VOC/JPEGImages in it"),
    ],
    ids=["no archive", "cut short", "other folders"],
)
def test_an_archive_that_is_not_what_the_manifest_says(server, tmp_path, data, message):
    with pytest.raises(DatasetError, match=message):
        fetch(voc(served(server, "a.tar", data)), tmp_path, quiet)
    assert not (tmp_path / "VOC").exists() and leftovers(tmp_path) == []


def test_an_interrupted_extraction_is_not_taken_for_complete(server, tmp_path, monkeypatch):
    manifest = voc(served(server, "a.tar", tar_bytes(TRAIN)))
    stale = tmp_path / ".VOC.killed.unpacking" / "files" / "VOCdevkit" / "VOC" / "JPEGImages"
    stale.mkdir(parents=True)  # as SIGKILL leaves it

    def interrupt(*args, **kwargs):
        next(iter(kwargs["members"]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "extractall", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(manifest, tmp_path, quiet)
    with pytest.raises(MissingDataError):
        dataset_folder(manifest, tmp_path)

    assert content_of(fetch(manifest, tmp_path, quiet)) == TRAIN
    assert leftovers(tmp_path) == []
    assert len(server.asked) == 1  # the archive was there already


def test_an_interrupted_merge_is_gone_on_with_and_shows_no_half_split(server, tmp_path, monkeypatch):
    archives = served(server, "train.tar", tar_bytes(TRAIN)), served(server, "test.tar", tar_bytes(TEST))
    manifest = voc(*archives, **BOTH)
    replace, moved = archive_module.os.replace, []

    def interrupt(source, target):
        if str(target).endswith("t.xml"):
            moved.append(target)
        if str(target).endswith("t.png"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(archive_module.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(manifest, tmp_path, quiet)
    assert moved and not (tmp_path / "VOC" / "ImageSets" / "Main" / "test.txt").exists()

    assert content_of(fetch(manifest, tmp_path, quiet)) == TRAIN | TEST


def test_pictures_that_came_another_way_are_left_as_they_are(server, tmp_path):
    manifest = voc(served(server, "a.tar", tar_bytes(TRAIN)))
    subset = split_files("train", "b")  # one picture of the two
    for name, data in subset.items():
        (tmp_path / "VOCdevkit" / "VOC" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "VOCdevkit" / "VOC" / name).write_bytes(data)
    said = []

    folder = fetch(manifest, tmp_path, said.append)

    assert content_of(folder) == subset
    assert server.asked == []
    assert "train: 1 listed (manifest: 2), 1 pictures, 1 annotations, 0 class lists" in said


def test_what_is_missing_is_merged_into_a_folder_that_came_another_way(server, tmp_path):
    archives = served(server, "train.tar", tar_bytes(TRAIN)), served(server, "test.tar", tar_bytes(TEST))
    for name, data in TRAIN.items():
        (tmp_path / "VOCdevkit" / "VOC" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "VOCdevkit" / "VOC" / name).write_bytes(data)

    folder = fetch(voc(*archives, **BOTH), tmp_path, quiet)

    assert folder == tmp_path / "VOCdevkit" / "VOC"
    assert content_of(folder) == TRAIN | TEST


def test_files_that_differ_from_the_archives_are_never_overwritten(server, tmp_path):
    manifest = voc(served(server, "a.tar", tar_bytes(TRAIN)))
    (tmp_path / "VOC" / "JPEGImages").mkdir(parents=True)
    (tmp_path / "VOC" / "JPEGImages" / "a.png").write_bytes(b"mine")

    with pytest.raises(DatasetError, match=r"1 file\(s\) differ from (?s:.*)JPEGImages/a.png\nmove the folder away"):
        fetch(manifest, tmp_path, quiet)

    assert content_of(tmp_path / "VOC") == {"JPEGImages/a.png": b"mine"}


def test_a_picture_that_was_lost_after_fetching_is_told(server, tmp_path):
    manifest = voc(served(server, "a.tar", tar_bytes(TRAIN)))
    (fetch(manifest, tmp_path, quiet) / "JPEGImages" / "a.png").unlink()

    with pytest.raises(DatasetError, match="train: no picture JPEGImages/a.jpg\nmove the folder away and run:"):
        fetch(manifest, tmp_path, quiet)


# ---- nothing to download ---------------------------------------------------------------------------


def test_a_dataset_without_an_archive_says_where_it_is_got(tmp_path):
    with pytest.raises(MissingDataError, match="ask Ada for the disk"):
        fetch(voc(where="ask Ada for the disk"), tmp_path, quiet)


def test_hidden_test_pictures_are_said_until_they_are_there(server, tmp_path):
    splits = {"train": {"pictures": 2}, "test": {"pictures": 1, "labelled": False}}
    entry = served(server, "a.tar", tar_bytes(TRAIN))
    manifest = voc(entry, eval="test", splits=splits, where="register at the server")
    first, second = [], []

    folder = fetch(manifest, tmp_path, first.append)
    assert "still to get, test: register at the server" in first

    (folder / "JPEGImages" / "t.png").write_bytes(TEST["JPEGImages/t.png"])
    (folder / "ImageSets" / "Main" / "test.txt").write_text("t\n")
    fetch(manifest, tmp_path, second.append)
    assert not [message for message in second if "still to get" in message]
    assert "test: 1 listed (manifest: 1), 1 pictures" in second


def test_demo_scenes_are_drawn_once(tmp_path, monkeypatch):
    demo = pytest.importorskip("pipeline.dataset.demo.scenes")
    drawn = {"train": 2, "val": 2, "seed": 3}
    splits = {"train": {"pictures": 2}, "val": {"pictures": 2}}
    manifest = voc(folder="demo", classes=list(demo.CLASSES), splits=splits, eval="val", drawn=drawn)

    folder = fetch(manifest, tmp_path, quiet)
    assert folder == tmp_path / "demo"
    assert len(read_split(manifest, "val", tmp_path).ids) == 2
    assert check(manifest, tmp_path, deep=True).problems == []

    monkeypatch.setattr(demo, "draw_demo", lambda *args: pytest.fail("drawn twice"))
    fetch(manifest, tmp_path, quiet)


# ---- checking --------------------------------------------------------------------------------------


@pytest.fixture
def there(tmp_path) -> Path:
    for name, data in (TRAIN | TEST).items():
        (tmp_path / "VOC" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "VOC" / name).write_bytes(data)
    return tmp_path / "VOC"


def test_a_sound_dataset_has_no_problems(there, tmp_path):
    report = check(voc(**BOTH), tmp_path, deep=True)

    assert report.ok and report.problems == [] and report.folder == there
    assert [str(split) for split in report.splits] == [
        "train: 2 listed (manifest: 2), 2 pictures, 2 annotations, 0 class lists",
        "test: 1 listed (manifest: 1), 1 pictures, 1 annotations, 0 class lists",
    ]


def test_nothing_there_is_reported_not_raised(tmp_path):
    report = check(voc(), tmp_path)

    assert not report.ok and report.folder is None
    assert "Own: pictures not found" in report.problems[0]


def spoil(folder: Path, name: str, data: bytes | None) -> None:
    path = folder / name
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


PROBLEMS = {
    "list missing": ("ImageSets/Main/train.txt", None, False, "train: .*train.txt: id list not found"),
    "list broken": ("ImageSets/Main/train.txt", b"a\na\n", False, "train: (?s:.*)'a': listed twice"),
    "other count": (
        "ImageSets/Main/train.txt",
        b"a\n",
        False,
        "train: 1 pictures listed, the manifest states 2",
    ),
    "no picture": ("JPEGImages/a.png", None, False, "train: no picture JPEGImages/a.jpg"),
    "no annotation": ("Annotations/b.xml", None, False, "train: no annotation Annotations/b.xml"),
    "annotation broken": (
        "Annotations/b.xml",
        b"<annotation>",
        False,
        "train: b: Annotations/b.xml: not valid XML",
    ),
    "class list broken": (
        "ImageSets/Main/cat_train.txt",
        b"a 1\n",
        False,
        "train: cat_train.txt: no line for b",
    ),
    "picture empty": ("JPEGImages/a.png", b"", True, "train: a: JPEGImages/a.png: the file is empty"),
    "picture cut": (
        "JPEGImages/a.png",
        TRAIN["JPEGImages/a.png"][:99],
        True,
        "train: a: JPEGImages/a.png: cannot be",
    ),
    "other size": (
        "Annotations/a.xml",
        XML.replace("16", "15").encode(),
        True,
        "train: a: JPEGImages/a.png: the picture is 16 x 12, its annotation says 15 x 12",
    ),
}


@pytest.mark.parametrize(("name", "data", "only_deep", "message"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_each_problem_is_reported(there, tmp_path, name, data, only_deep, message):
    spoil(there, name, data)

    cheap, deep = check(voc(**BOTH), tmp_path), check(voc(**BOTH), tmp_path, deep=True)

    assert cheap.ok is only_deep
    assert len(deep.problems) == 1
    assert re.match(message, deep.problems[0])
    assert deep.splits[1].complete  # test is sound in each of these


def test_all_problems_are_listed(there, tmp_path):
    for name in ("JPEGImages/a.png", "Annotations/b.xml", "ImageSets/Main/test.txt"):
        (there / name).unlink()

    report = check(voc(**BOTH), tmp_path)

    assert len(report.problems) == 3
    assert report.splits[0].missing_pictures == ("a",)
    assert report.splits[0].missing_annotations == ("b",)
    assert report.splits[1].listed is None and str(report.splits[1]) == "test: no usable id list"


def test_a_folder_without_annotations_is_reported(there, tmp_path):
    shutil.rmtree(there / "Annotations")

    assert check(voc(**BOTH), tmp_path).splits[0].missing_annotations == ("a", "b")
