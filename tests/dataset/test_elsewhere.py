"""Pictures at a URL, in lists and in tar archives: listed by version, read by range, and clear where it fails."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import pickle
import subprocess
import tarfile
import threading
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.dataset.describe.pictures import manifest_of_folder, new_elsewhere_manifest
from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.dataset.places import expand_range
from pipeline.dataset.read import check, read_split, state_of_split
from pipeline.dataset.tar_index import index_tar
from pipeline.io.digests import DigestMemory, FileState
from pipeline.io.errors import DatasetError, MissingDataError, PipelineError, SettingsError
from pipeline.io.picture_file import RemoteFile
from pipeline.io.remote import redact, redact_url, with_retries


def jpeg(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), (shade,) * 3).save(stream, "JPEG")
    return stream.getvalue()


def write_tar(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))
    return path


@pytest.fixture(autouse=True)
def quickly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.io.remote.FIRST_WAIT_S", 0.001)


@pytest.fixture
def memory():
    """A file system that lives in this process."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def shards(tmp_path):
    """Two archives as webdataset writes them, with what lies next to a picture in them."""
    for number in range(2):
        keys = [f"{number}{k}" for k in range(3)]
        files = {f"./{key}.jpg": jpeg(int(key)) for key in keys}
        write_tar(tmp_path / f"set/shard-{number:03d}.tar", {**files, **{f"./{key}.cls": b"1" for key in keys}})
    return "set/shard-{000..001}.tar"


def describe(place: str, said=None) -> Manifest:
    path = manifest_of_folder(place, Path("data_manifests"), (said if said is not None else []).append)
    return load_manifest(path.stem)


def contents(manifest: Manifest) -> dict[str, bytes]:
    split = read_split(manifest, "all")
    return {i: path.read_bytes() for i, path in split.paths_by_id.items()}


# ---- what is listed


def test_pictures_below_a_url(memory):
    for name in ("b.jpg", "a/c.PNG", "a/notes.txt", ".hidden/x.jpg"):
        memory.pipe(f"/photos/{name}", jpeg(7))
    manifest = describe("memory://photos")
    assert manifest.name == "photos" and manifest.folder == "memory://photos"
    assert contents(manifest) == {"a__c": jpeg(7), "b": jpeg(7)}
    assert check(manifest, deep=True).ok and "memory://photos" in check(manifest).elsewhere
    assert describe("memory://photos/") == manifest


def test_members_of_archives(shards):
    manifest = describe(shards)
    assert manifest.name == "set"
    assert contents(manifest) == {f"shard-00{n}__{n}{k}": jpeg(10 * n + k) for n in range(2) for k in range(3)}
    assert contents(describe("set/*.tar")) == contents(manifest)


def test_archives_below_a_url_are_opened(memory, shards, tmp_path):
    for path in (tmp_path / "set").iterdir():
        memory.pipe(f"/far/{path.name}", path.read_bytes())
    expected = contents(describe(shards))
    assert contents(describe("memory://far")) == expected
    memory.pipe("/far/x.jpg", jpeg(0))
    with pytest.raises(DatasetError, match="1 pictures and 2 archives, such as shard-000.tar: give the archives alone"):
        new_elsewhere_manifest("memory://far", "both", Path("data_manifests"))


def test_a_list_of_urls_and_paths(memory, tmp_path):
    memory.pipe("/host/p/a.jpg", jpeg(1))
    (tmp_path / "near").mkdir()
    (tmp_path / "near/b.jpg").write_bytes(jpeg(2))
    (tmp_path / "near/list.txt").write_text("# some\nmemory://host/p/a.jpg\nb.jpg\n\n")
    assert contents(describe("near/list.txt")) == {"p__a": jpeg(1), "b": jpeg(2)}
    (tmp_path / "near/list.txt").write_text("b.jpg\nreadme\n")
    with pytest.raises(DatasetError, match="1 lines that name none, such as 'readme'"):
        new_elsewhere_manifest("near/list.txt", "more", Path("data_manifests"))


def test_a_list_of_ids_chooses(shards, tmp_path):
    manifest = describe(shards)
    (tmp_path / "data_manifests/set/some.txt").write_text("shard-001__10\n")
    chosen = manifest.model_copy(
        update={"splits": {"all": manifest.splits["all"].model_copy(update={"ids": "set/some.txt"})}}
    )
    assert read_split(chosen, "all").ids == ("shard-001__10",)


@given(st.integers(0, 120), st.integers(0, 30), st.integers(1, 4))
def test_ranges_are_those_of_the_shell(first, n, width):
    text = f"{first:0{width}d}"
    names = expand_range(f"s-{{{text}..{first + n}}}.tar")
    assert len(names) == len(set(names)) == n + 1
    assert [int(name[2:-4]) for name in names] == list(range(first, first + n + 1))
    assert names[0] == f"s-{text}.tar" or not text.startswith("0")


# ---- states


def test_a_changed_object_is_noticed_without_reading_it(memory):
    memory.pipe("/photos/a.jpg", jpeg(1))
    manifest = describe("memory://photos")
    before, file = state_of_split(manifest, "all"), read_split(manifest, "all").paths[0]
    assert state_of_split(manifest, "all") == before and FileState.of(file) == FileState.of(
        pickle.loads(pickle.dumps(file))
    )
    memory.pipe("/photos/a.jpg", jpeg(2))
    assert state_of_split(manifest, "all") != before
    assert FileState.of(read_split(manifest, "all").paths[0]) != FileState.of(file)


def test_digests_are_those_of_the_bytes_and_remembered_by_version(shards, tmp_path, monkeypatch):
    paths = read_split(describe(shards), "all").paths
    expected = [hashlib.sha256(jpeg(int(path.member.name[2:4]))).hexdigest() for path in paths]
    assert DigestMemory(tmp_path / "memory.sqlite").digests(paths) == expected
    monkeypatch.setattr(RemoteFile, "read_bytes", lambda self: pytest.fail("read again"))
    assert DigestMemory(tmp_path / "memory.sqlite").digests(read_split(describe(shards), "all").paths) == expected


def test_headers_alone_are_read_and_once(tmp_path, monkeypatch):
    big = {f"{k}.jpg": bytes([k]) * 700_000 for k in range(5)}
    archive = RemoteFile(str(write_tar(tmp_path / "big.tar", big)), (tmp_path / "big.tar").stat().st_size, "v1")
    asked = []
    real = RemoteFile.read_range
    monkeypatch.setattr(RemoteFile, "read_range", lambda f, a, b: asked.append(b - a) or real(f, a, b))
    members = index_tar(archive, tmp_path / "index")
    assert [m.name for m in members] == list(big) and sum(asked) < 0.7 * archive.size
    asked.clear()
    assert index_tar(archive, tmp_path / "index") == members and not asked
    assert index_tar(RemoteFile(archive.url, archive.size, "v2"), tmp_path / "index") == members and asked


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.jpg", "d/" * 40 + "deep.jpg", "ä ö.jpg"])
def test_all_forms_of_tar_and_long_names(tmp_path, form, name):
    path = write_tar(tmp_path / "a.tar", {"first.txt": b"x" * 600, name: jpeg(3)}, form)
    (member,) = [m for m in index_tar(RemoteFile(str(path), path.stat().st_size, None), None) if m.name == name]
    assert RemoteFile(str(path), path.stat().st_size, None, member).read_bytes() == jpeg(3)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_are_not_utf8_are_read_and_shown_by_their_bytes(tmp_path, form):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    write_tar(tmp_path / "a.tar", {name: jpeg(3), "caf\u00e9.jpg": jpeg(4)}, form)
    manifest = describe("a.tar")
    for _ in range(2):  # from the archive, and from its index
        split = read_split(manifest, "all")
        assert [path.read_bytes() for path in split.paths] == [jpeg(3), jpeg(4)]
        assert [str(path).partition("#")[2] for path in split.paths] == [r"caf\xe9.jpg", "caf\u00e9.jpg"]
        assert split.paths[0].member.name == name and split.paths[0].name == r"caf\xe9.jpg"
        assert len(list(tmp_path.glob("data_manifests/*/index/*"))) == 1
    assert state_of_split(manifest, "all") == state_of_split(manifest, "all")
    hashes = [hashlib.sha256(jpeg(shade)).hexdigest() for shade in (3, 4)]
    assert DigestMemory(tmp_path / "memory.sqlite").digests(split.paths) == hashes
    assert check(manifest, deep=True).ok


def add_link(tar: tarfile.TarFile, kind: bytes, name: str, target: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = kind, target
    tar.addfile(link)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_in_an_archive_are_the_files_they_lead_to(tmp_path, form):
    write_tar(tmp_path / "a.tar", {"./d/a.jpg": jpeg(1), "blob": jpeg(2)}, form)
    with tarfile.open(tmp_path / "a.tar", "a", format=form) as tar:
        add_link(tar, tarfile.LNKTYPE, "./e/hard.jpg", "./d/a.jpg")
        add_link(tar, tarfile.SYMTYPE, "./e/soft.jpg", "../d/a.jpg")
        add_link(tar, tarfile.SYMTYPE, "./e/twice.jpg", "./chain.jpg")  # what it leads to comes later
        add_link(tar, tarfile.SYMTYPE, "./e/chain.jpg", "../blob")
        add_link(tar, tarfile.SYMTYPE, "latest", "nowhere")  # no picture
    expected = {"a__d__a": 1, "a__e__hard": 1, "a__e__soft": 1, "a__e__twice": 2, "a__e__chain": 2}
    manifest = describe("a.tar")
    for _ in range(2):  # from the archive, and from its index
        assert contents(manifest) == {i: jpeg(shade) for i, shade in expected.items()}


def test_hard_links_as_tar_writes_them(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.jpg").write_bytes(jpeg(5))
    os.link(tmp_path / "p/a.jpg", tmp_path / "p/b.jpg")
    subprocess.run(["tar", "-cf", "p.tar", "-C", "p", "a.jpg", "b.jpg"], check=True)
    assert contents(describe("p.tar")) == {"p__a": jpeg(5), "p__b": jpeg(5)}


@pytest.mark.parametrize("target", ["gone.jpg", "/etc/x.jpg", "../../x.jpg", "self.jpg", "d"])
def test_links_to_no_file_of_the_archive_are_refused_by_name(tmp_path, target):
    write_tar(tmp_path / "a.tar", {"d/a.jpg": jpeg(1)})
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        add_link(tar, tarfile.SYMTYPE, "self.jpg", target)
    with pytest.raises(
        DatasetError, match=r"1 pictures cannot be read(?s:.*)self\.jpg: a link to (?s:.*)--hard-dereference"
    ):
        describe("a.tar")


def test_sparse_pictures_in_an_archive_are_refused_by_name(tmp_path):
    with open(tmp_path / "hole.jpg", "wb") as stream:
        stream.write(jpeg(1))
        stream.truncate(1 << 20)
    (tmp_path / "link.jpg").symlink_to("hole.jpg")
    subprocess.run(["tar", "-S", "-cf", "a.tar", "hole.jpg", "link.jpg"], check=True)
    with pytest.raises(DatasetError, match=r"2 pictures (?s:.*)hole\.jpg: a sparse file\n.*link\.jpg: a sparse file"):
        describe("a.tar")


# ---- what goes wrong


@pytest.mark.parametrize("left", [1, 300, 512, 700, 1536, 2048, 4608, 5000, 9000])
def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path, left):
    path = write_tar(tmp_path / "a.tar", {f"{k}.jpg": bytes(700) + bytes([k + 1]) for k in range(3)})
    whole = path.read_bytes()
    end = 3 * (512 + 1024)
    path.write_bytes(whole[:left])
    archive = RemoteFile(str(path), left, "v")
    if left >= end + 512:
        assert len(index_tar(archive, None)) == 3
    else:
        with pytest.raises(DatasetError, match="truncated"):
            index_tar(archive, None)


def test_compressed_archives_and_missing_ones_are_named(tmp_path, shards):
    with tarfile.open(tmp_path / "z.tar", "w:gz"):
        pass
    with pytest.raises(DatasetError, match=r"z\.tar: compressed, so no range of it can be read alone; unpack it"):
        describe("z.tar")
    with pytest.raises(DatasetError, match=r"2 of 4 archives are not there:\n  - .*shard-002\.tar\n  - .*shard-003"):
        describe("set/shard-{000..003}.tar")
    with pytest.raises(DatasetError, match=r"\{5\.\.2\}: expected a rising range"):
        describe("set/shard-{5..2}.tar")
    assert not list(tmp_path.glob("data_manifests/*.yaml"))


def test_an_archive_that_was_replaced_since_its_index_was_read_is_noticed(shards, tmp_path):
    split = read_split(describe(shards), "all")
    write_tar(tmp_path / "set/shard-000.tar", {"./other.jpg": jpeg(200), "./00.jpg": jpeg(0)})
    with pytest.raises(PipelineError, match=r"#\./01\.jpg: the archive changed while it was read"):
        split.paths_by_id["shard-000__01"].read_bytes()


def test_a_missing_object_is_named_and_no_place_is(memory):
    memory.pipe("/photos/a.jpg", jpeg(1))
    split = read_split(describe("memory://photos"), "all")
    memory.rm("/photos/a.jpg")
    with pytest.raises(FileNotFoundError) as error:
        split.paths[0].read_bytes()
    assert error.value.strerror == "no such file or object"
    with pytest.raises((MissingDataError, DatasetError), match="memory://gone"):
        describe("memory://gone")
    with pytest.raises(SettingsError, match="gopher"):
        describe("gopher://x/y")


def test_credentials_in_a_url_are_refused_and_shown_nowhere(tmp_path):
    for url in ("https://me:secret@host/list.txt", "https://me:p@ secret@host/list.txt", "s3://bucket/x?sig=secret"):
        with pytest.raises(SettingsError) as error:
            describe(url)
        assert "secret" not in str(error.value)
    file = RemoteFile("https://host/a.jpg?X-Amz-Signature=secret", 1, "v")
    shown = [str(file), repr(file), file.name, FileState.of(file).path, redact(f"GET {file.url}, failed")]
    assert not any("secret" in text for text in shown) and file.name == "a.jpg"


SAS = "sv=2023-01-03&st=2026-11-03T03:07:43Z&se={}-11-03T03:07:43Z&sr=b&sp=r;x,y)'&sig=secret%3D"
"""The query of a URL of Azure, as it is and with signs that a query may have."""


@pytest.mark.parametrize("path", ["host/a.jpg", "me:p@secret@host/a.jpg", "host/it's.jpg"])
def test_no_sign_of_a_query_or_a_password_ends_what_is_hidden(path):
    url = f"https://{path}?{SAS.format(2030)}"
    seen = f"https://{path.rpartition('@')[2]}?..."
    assert str(RemoteFile(url, 1, "v")) == redact_url(url) == seen
    assert redact(f"GET {url} failed, and {url}") == f"GET {seen} failed, and {seen}"
    assert "secret" not in redact(f"403, url='{url}'") + redact(f'no answer ("{url}"): retry')


def test_a_renewed_token_changes_no_state_and_is_kept_nowhere(web, shards, tmp_path):
    address, handler = web
    handler.files.update({"/a.jpg": jpeg(1), "/s.tar": (tmp_path / "set/shard-000.tar").read_bytes()})
    seen = []
    for year in (2030, 2031):
        lines = [f"{address}/{name}?{SAS.format(year)}" for name in ("a.jpg", "s.tar")]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        manifest = describe("list.txt")
        paths = read_split(manifest, "all").paths
        DigestMemory(tmp_path / "memory.sqlite").digests(paths)
        indexes = sorted(path.name for path in tmp_path.glob("data_manifests/*/index/*"))
        seen.append((state_of_split(manifest, "all"), [FileState.of(path) for path in paths], indexes))
    assert seen[0] == seen[1] and len(seen[0][1]) == 4 and len(seen[0][2]) == 1
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "list.txt"]
    assert len(kept) > 3 and not any(b"secret" in path.read_bytes() or b"2030-11" in path.read_bytes() for path in kept)


def test_retries_end_with_what_to_do_and_hide_the_query():
    asked = []

    def fails():
        asked.append(1)
        raise TimeoutError("no answer from https://host/a.jpg?sig=secret")

    with pytest.raises(PipelineError, match=r"cannot be read, 4 tries: no answer .*check the network") as error:
        with_retries(fails, "https://host/a.jpg?sig=secret")
    assert len(asked) == 4 and "secret" not in str(error.value) and error.value.__cause__ is None


# ---- a web server


class Server(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes] = {}
    failures: dict[str, int] = {}
    forbidden: set[str] = set()
    log: list[str] = []

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        path = self.path.partition("?")[0]
        self.log.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        data, code = self.files.get(path), 200
        if self.failures.get(path, 0) > 0:
            self.failures[path] -= 1
            data, code = b"busy", 503
        elif path in self.forbidden:
            data, code = b"not for you", 403
        elif data is None:
            data, code = b"nothing here", 404
        etag = hashlib.md5(data).hexdigest()
        if code == 200 and (found := self.headers.get("Range")):
            first, last = found.removeprefix("bytes=").split("-")
            data, code = data[int(first) : int(last) + 1], 206
        self.send_response(code)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not head:
            self.wfile.write(data)


@pytest.fixture
def web():
    """A web server on the loopback: its address, and its handler with files, failures to come and requests."""
    handler = type("Handler", (Server,), {"files": {}, "failures": {}, "forbidden": set(), "log": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_list_on_a_web_server_with_presigned_urls_and_failures_that_pass(web, tmp_path):
    address, handler = web
    handler.files.update({"/p/a.jpg": jpeg(1), "/p/b.jpg": jpeg(2)})
    (tmp_path / "list.txt").write_text(f"{address}/p/a.jpg?sig=secret\n{address}/p/b.jpg\n{address}/p/gone.jpg\n")
    handler.failures.update({"/p/a.jpg": 2})
    split = read_split(describe("list.txt"), "all")
    handler.failures.update({"/p/b.jpg": 3})
    assert split.ids == ("p__a", "p__b", "p__gone")
    assert [path.read_bytes() for path in split.paths[:2]] == [jpeg(1), jpeg(2)]
    with pytest.raises(FileNotFoundError):
        split.paths[2].read_bytes()
    assert not any("secret" in path.read_text() for path in tmp_path.glob("data_manifests/**/*.*"))


def test_a_server_that_is_busy_when_it_is_asked_for_versions_is_asked_again(web, tmp_path):
    address, handler = web
    handler.files["/p/a.jpg"] = jpeg(1)
    (tmp_path / "list.txt").write_text(f"{address}/p/a.jpg?sig=secret\n")
    manifest = describe("list.txt")
    (before,) = read_split(manifest, "all").paths
    handler.failures["/p/a.jpg"] = 6  # of three tries, HEAD and GET
    assert read_split(manifest, "all").paths == (before,) and handler.failures["/p/a.jpg"] == 0
    handler.failures["/p/a.jpg"] = 1000
    with pytest.raises(PipelineError, match=r"/p/a\.jpg\?\.\.\.: cannot be read, 4 tries: 503") as error:
        read_split(manifest, "all")
    assert "secret" not in str(error.value)


def test_of_a_file_that_was_not_there_when_listed_no_digest_is_remembered(web, tmp_path):
    address, handler = web
    (tmp_path / "list.txt").write_text(f"{address}/a.jpg\n{address}/b.jpg\n")
    handler.files["/b.jpg"] = jpeg(2)
    manifest = describe("list.txt")
    paths, absent = read_split(manifest, "all").paths, state_of_split(manifest, "all")
    assert state_of_split(manifest, "all") == absent and FileState.of(paths[0]) is None
    memory = DigestMemory(tmp_path / "memory.sqlite")
    digest = hashlib.sha256(jpeg(2)).hexdigest()
    handler.files["/a.jpg"] = jpeg(1)  # there, when it is read
    assert paths[0].read_bytes() == jpeg(1) and memory.digests(paths) == ["", digest]
    assert state_of_split(manifest, "all") != absent
    assert memory.digests(read_split(manifest, "all").paths) == [hashlib.sha256(jpeg(1)).hexdigest(), digest]
    handler.forbidden.add("/b.jpg")
    path = read_split(manifest, "all").paths[1]
    assert FileState.of(path) is None
    with pytest.raises(PermissionError, match="no rights to read it"):
        path.read_bytes()


@pytest.mark.parametrize(("name", "problem"), [("gone", "no such archive"), ("forbidden", "no rights to read it")])
def test_an_archive_of_a_list_that_is_not_there_is_named(web, tmp_path, name, problem):
    address, handler = web
    handler.forbidden.add("/forbidden.tar")
    (tmp_path / "list.txt").write_text(f"{address}/{name}.tar\n")
    with pytest.raises(DatasetError, match=rf"{name}\.tar: {problem}"):
        describe("list.txt")


def test_archives_on_a_web_server_are_read_by_range(web, shards, tmp_path):
    address, handler = web
    expected = contents(describe(shards))
    handler.files.update({f"/{path.name}": path.read_bytes() for path in (tmp_path / "set").iterdir()})
    manifest = describe(f"{address}/shard-{{000..001}}.tar")
    handler.log.clear()
    assert contents(manifest) == expected
    gets = [line for line in handler.log if line.startswith("GET")]
    assert len(gets) == 6 and all("bytes=" in line for line in gets)
    with pytest.raises(DatasetError, match="a web server does not list its files; give a list of them"):
        describe(f"{address}/p")
