"""What a file from a stranger must never do: run code, write elsewhere, read elsewhere, eat the memory, open a door."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from pipeline.dataset.archive import unpack
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.picture import MAX_PIXELS, decode_picture
from pipeline.dataset.split import read_ids
from pipeline.dataset.voc_xml import parse_annotation
from pipeline.head.file import load_head
from pipeline.io.digests import sha256_file
from pipeline.io.errors import BadPictureError, DatasetError, PipelineError, SettingsError
from pipeline.stages.pretrain import pretrain_on_folders
from pipeline.trunk.alexnet import ALEXNET64
from pipeline.trunk.load import load_trunk
from pipeline.trunk.settings import PretrainSettings

SOURCES = sorted((Path(__file__).resolve().parents[3] / "pipeline").rglob("*.py"))

# ---- no code from files: what the sources may not call ---------------------------------------------

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "xml"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}
SAFE_LOADERS = {"_BoundedLoader", "yaml.SafeLoader"}


def unsafe_uses(source: str) -> list[str]:
    """Lines of a source that load objects, run code, or unpack or decode without the guards that we rely on."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [
                f"{node.lineno}: import {m}"
                for m in modules
                if m.split(".")[0] in FORBIDDEN_MODULES and m != "xml.sax.saxutils"  # it escapes, and reads nothing
            ]
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        last = name.rpartition(".")[2]
        loader = keywords.get("Loader", ast.unparse(node.args[1]) if len(node.args) > 1 else "")
        unsafe = (
            name in FORBIDDEN_CALLS
            or (name == "torch.load" and keywords.get("weights_only") != "True")
            or (name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False")
            or (name == "yaml.load" and loader not in SAFE_LOADERS)
            or (last == "extractall" and keywords.get("filter") != "'data'")
            or (name == "Image.open" and "formats" not in keywords)
            or (keywords.get("shell", "False") != "False")
        )
        if unsafe:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import xml.etree.ElementTree",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "tar.extractall(into)",
        "Image.open(path)",
        "subprocess.run(line, shell=True)",
        "eval(text)",
    ],
)
def test_the_scan_sees(source):
    assert len(unsafe_uses(source)) == 1
    assert unsafe_uses("torch.load(p, weights_only=True); np.load(p); yaml.load(t, yaml.SafeLoader)") == []


PICKLES = {
    # An unpickler that knows four names and puts records of its own in their places; hostile files are in
    # tests/trunk/formats/test_numpy_file.py.
    "numpy_file.py": ["import pickle"],
    # Only the class of the error by which torch.load(weights_only=True) refuses.
    "torch_file.py": ["import pickle"],
}


def test_no_source_loads_objects_or_runs_code():
    assert len(SOURCES) > 50
    found = {}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        uses = [use.partition(": ")[2] for use in unsafe_uses(text)]
        if uses != PICKLES.get(path.name, []):
            found[str(path)] = uses
        assert not re.search(r"pickle\.loads?\(", text), path
    assert not found


# ---- no code from files: real attempts -------------------------------------------------------------


class Code:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


FORMS: dict[str, Callable[[Path, Path], None]] = {
    **{
        f"pickle, protocol {protocol}": lambda path, marker, protocol=protocol: path.write_bytes(
            pickle.dumps(Code(marker), protocol)
        )
        for protocol in (0, 2, 4, 5)
    },
    "torch's archive": lambda path, marker: torch.save({"conv1.weight": Code(marker)}, path),
    "torch's old form": lambda path, marker: torch.save(
        {"conv1.weight": Code(marker)}, path, _use_new_zipfile_serialization=False
    ),
}
form = pytest.mark.parametrize("write", FORMS.values(), ids=FORMS.keys())


@form
def test_the_attempts_are_real(tmp_path, write):
    write(tmp_path / "w", tmp_path / "marker")

    with suppress(pickle.UnpicklingError):  # torch's own forms are read by torch alone
        pickle.loads((tmp_path / "w").read_bytes())
    if not (tmp_path / "marker").exists():
        torch.load(tmp_path / "w", weights_only=False)

    assert (tmp_path / "marker").exists()


@form
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin", "w"])
@pytest.mark.parametrize("trunk", ["krizhevsky", "alexnet", "torchvision/squeezenet1_0"])
def test_a_pickle_as_weights_runs_nothing(tmp_path, write, name, trunk):
    write(tmp_path / name, tmp_path / "marker")

    with pytest.raises(PipelineError, match=re.escape(str(tmp_path / name))):
        load_trunk(trunk, weights=tmp_path / name)

    assert not (tmp_path / "marker").exists()


@form
@pytest.mark.parametrize("weights", ["mine.safetensors", "mine.pth"])
def test_a_pickle_behind_a_card_with_the_right_digest_runs_nothing(tmp_path, write, weights):
    write(tmp_path / weights, tmp_path / "marker")
    card = {
        "name": "mine",
        "architecture": "alexnet64",
        "input_px": 64,
        "layers": ALEXNET64.widths,
        "weights_file": weights,
        "weights_sha256": sha256_file(tmp_path / weights),
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card))

    with pytest.raises(PipelineError, match=re.escape(weights)):
        load_trunk(str(tmp_path / "mine.yaml"))

    assert not (tmp_path / "marker").exists()


@form
def test_a_pickle_as_a_head_runs_nothing(tmp_path, write):
    write(tmp_path / "head.safetensors", tmp_path / "marker")

    with pytest.raises(PipelineError, match="head.safetensors: cannot be read as a head"):
        load_head(tmp_path / "head.safetensors")

    assert not (tmp_path / "marker").exists()


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path, Path]:
    """Class folders to pre-train on and to measure on, and a folder for what is made."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (64, 64)).save(tmp_path / split / name / "1.png")
    (tmp_path / "out").mkdir()
    return tmp_path / "train", tmp_path / "val", tmp_path / "out"


@form
def test_a_pickle_as_a_checkpoint_runs_nothing(tmp_path, folders, write):
    write(tmp_path / "out/mine.checkpoint.pt", tmp_path / "marker")

    with pytest.raises(PipelineError, match=r"mine.checkpoint.pt: damaged, or a pickle .* never loaded; remove it"):
        pretrain_on_folders(*folders, "mine", PretrainSettings(epochs=1, batch=2), "", "cpu", 1, str)

    assert not (tmp_path / "marker").exists()


def test_a_harmless_checkpoint_of_another_program_is_named(tmp_path, folders):
    torch.save({"weights": torch.ones(1)}, tmp_path / "out/mine.checkpoint.pt")

    with pytest.raises(PipelineError, match="mine.checkpoint.pt: not a checkpoint of this command"):
        pretrain_on_folders(*folders, "mine", PretrainSettings(epochs=1, batch=2), "", "cpu", 1, str)


def test_a_head_whose_facts_are_of_another_shape_is_named(tmp_path):
    for facts in ([], {"format": 1}, "text", {"format": "head-1", "sha256": None}, None):
        save_file({"mean": torch.ones(())}, tmp_path / "h.safetensors", metadata={"facts": json.dumps(facts)})
        with pytest.raises(PipelineError, match=r"h.safetensors: .*pipeline fit-head|fit it again"):
            load_head(tmp_path / "h.safetensors")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [{}]", "!!python/object/new:os.mkdir [{}]"])
def test_yaml_tags_run_nothing(tmp_path, run, work, tag):
    text = f"a: {tag.format(work / 'marker')}"
    (work / "bad.yaml").write_text(text)
    (work / "data_manifests/bad.yaml").write_text(text)

    for line in (
        "patches --dataset tiny --split val --config bad.yaml",
        "patches --dataset bad --split val",
        "extract --dataset tiny --split val --config config.yaml --trunk bad.yaml",
    ):
        ended = run(line)
        assert (ended.code, "not valid YAML" in ended.err) == (2, True), ended.err
    assert not (work / "marker").exists()


# ---- archives --------------------------------------------------------------------------------------


def tar(*members: tuple[str, bytes, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 5 if kind == tarfile.REGTYPE else 0
            out.addfile(member, io.BytesIO(b"hello"))
    return stream.getvalue()


def tar_with_pax_path(path: str) -> bytes:
    """A member with a harmless name, and the true one in an extended header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as out:
        member = tarfile.TarInfo("harmless")
        member.size, member.pax_headers = 5, {"path": path}
        out.addfile(member, io.BytesIO(b"hello"))
    return stream.getvalue()


FILE, LINK, HARD, DEVICE, BLOCK, PIPE = (
    tarfile.REGTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)
ESCAPES = {
    "climbs": tar(("../outside", FILE, "")),
    "climbs inside": tar(("a/../../outside", FILE, "")),
    "climbs behind 120 letters": tar((f"{'a' * 120}/../../outside", FILE, "")),
    "absolute": tar(("{base}/outside", FILE, "")),
    "absolute, two slashes": tar(("//{base}/outside", FILE, "")),
    "extended header": tar_with_pax_path("../outside"),
    "backslashes": tar(("..\\outside", FILE, "")),
    "through a link": tar(("out", LINK, ".."), ("out/outside", FILE, "")),
    "through an absolute link": tar(("out", LINK, "{base}"), ("out/outside", FILE, "")),
    "through two links": tar(("a", LINK, "."), ("a/b", LINK, ".."), ("a/b/outside", FILE, "")),
    "hard link to a secret": tar(("copy", HARD, "../secret")),
    "hard link over a link": tar(("out", LINK, "../secret"), ("copy", HARD, "out")),
    "device": tar(("null", DEVICE, "")),
    "block device": tar(("disk", BLOCK, "")),
    "pipe": tar(("pipe", PIPE, "")),
}


@pytest.mark.parametrize("data", ESCAPES.values(), ids=ESCAPES.keys())
def test_archives_write_nothing_outside_and_link_to_nothing(tmp_path, data):
    base = tmp_path / "base"
    (base / "into").mkdir(parents=True)
    (base / "secret").write_text("secret")
    (base / "a.tar").write_bytes(with_base(data, base))

    with pytest.raises(DatasetError, match="a.tar: refused, nothing unpacked"):
        unpack(base / "a.tar", base / "into")

    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "base", "into", "secret"]


def with_base(data: bytes, base: Path) -> bytes:
    """The same archive with ``{base}`` in names and links replaced."""
    stream = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old.getmembers():
            member.name = member.name.replace("{base}", str(base))
            member.linkname = member.linkname.replace("{base}", str(base))
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    return stream.getvalue()


# ---- XML -------------------------------------------------------------------------------------------

LAUGHS = '<!DOCTYPE a [<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "&a{n - 1};&a{n - 1};">' for n in range(1, 40))
ENTITIES = {
    "billion laughs": LAUGHS + "]><annotation><object><name>&a39;</name></object></annotation>",
    "one long entity, often": f'<!DOCTYPE a [<!ENTITY a "{"x" * 100_000}">]><annotation>{"&a;" * 10_000}</annotation>',
    "external entity": '<!DOCTYPE a [<!ENTITY f SYSTEM "file://{secret}">]><annotation><object><name>&f;</name>'
    "</object></annotation>",
    "external parameter entity": '<!DOCTYPE a [<!ENTITY % f SYSTEM "file://{secret}"> %f;]><annotation/>',
    "entity of the net": '<!DOCTYPE a [<!ENTITY f SYSTEM "http://127.0.0.1:1/x">]><annotation>&f;</annotation>',
}


@pytest.mark.parametrize("text", ENTITIES.values(), ids=ENTITIES.keys())
def test_xml_with_entities_is_refused(tmp_path, text):
    (tmp_path / "secret").write_text("the secret")
    started = time.process_time()

    with pytest.raises(ValueError, match="refused: EntitiesForbidden") as caught:
        parse_annotation(text.replace("{secret}", str(tmp_path / "secret")).encode(), ("cat",))

    assert "the secret" not in str(caught.value)
    assert time.process_time() - started < 2


def test_a_document_type_that_lies_elsewhere_is_not_read(tmp_path):
    (tmp_path / "secret").write_text('<!ENTITY f "cat">')
    text = f'<!DOCTYPE annotation SYSTEM "file://{tmp_path}/secret"><annotation><object><name>&f;</name></object>'

    with pytest.raises(ValueError, match="refused|not valid XML|unknown class"):
        parse_annotation(f"{text}</annotation>".encode(), ("cat",))


# ---- pictures --------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(1_000_000))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def grown(form: str, width: int, height: int) -> bytes:
    """A small picture of `form` whose header says that it is large."""
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, form, lossless=True)
    data = bytearray(stream.getvalue())
    if form == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif form == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif form == "WEBP":
        at = data.index(b"VP8L") + 9
        data[at : at + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    else:  # TIFF: tags 256 and 257, as short or long
        first = struct.unpack("<I", data[4:8])[0]
        for n in range(struct.unpack("<H", data[first : first + 2])[0]):
            at = first + 2 + 12 * n
            tag = struct.unpack("<H", data[at : at + 2])[0]
            if tag in (256, 257):
                data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, width if tag == 256 else height)
    return bytes(data)


BOMBS = {
    "PNG": png(60_000, 60_000),
    "PNG just above the limit": png(10_001, 10_000),
    "PNG with a text of 300 MB": png(8, 8, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(300_000_000), 1))),
    "PNG with a profile of 300 MB": png(8, 8, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(300_000_000), 1))),
    "JPEG": grown("JPEG", 65_000, 65_000),
    "BMP": grown("BMP", 60_000, 60_000),
    "TIFF": grown("TIFF", 60_000, 60_000),
    "WebP": grown("WEBP", 16_000, 16_000),
}


def memory_kb(key: str) -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_memory_grows(name):
    Path("/proc/self/clear_refs").write_text("5")
    before, started = memory_kb("VmRSS"), time.process_time()

    with pytest.raises(BadPictureError, match="bomb.jpg: "):
        decode_picture(BOMBS[name], False, "bomb.jpg")

    assert memory_kb("VmHWM") - before < 20_000
    assert time.process_time() - started < 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("trunk", ["krizhevsky", "alexnet"])
def test_weights_that_do_not_fit_are_refused_before_memory_grows(tmp_path, trunk):
    save_file({"conv1.weight": torch.ones(2, 3), "fc6.weight": torch.ones(4096, 0)}, tmp_path / "w.safetensors")
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_kb("VmRSS")

    with pytest.raises(PipelineError, match="weights do not fit"):
        load_trunk(trunk, weights=tmp_path / "w.safetensors")

    assert memory_kb("VmHWM") - before < 50_000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_the_measure_of_memory_sees_a_picture_that_is_decoded():
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_kb("VmRSS")
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")

    assert decode_picture(stream.getvalue(), False).size == 243_000_000 < 3 * MAX_PIXELS
    assert memory_kb("VmHWM") - before > 200_000


# ---- paths -----------------------------------------------------------------------------------------

GOOD = {
    "name": "own",
    "title": "Own",
    "folder": "VOC",
    "metric": "voc12",
    "fit": "train",
    "eval": "train",
    "splits": {"train": {}},
    "classes": ["cat"],
}
PATHS = ["../../x", "a/../../x", "/etc/passwd"]
ARCHIVE = {"url": "https://x", "md5": "0" * 32, "filename": "a.tar"}
PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "splits": lambda p: {"splits": {"train": {}, p: {}}},
    "ids": lambda p: {"splits": {"train": {"ids": p}}},
    "classes": lambda p: {"classes": ["cat", p]},
    "strip": lambda p: {"archives": [{**ARCHIVE, "strip": p}]},
    "filename": lambda p: {"archives": [{**ARCHIVE, "filename": p}]},
    "name": lambda p: {"name": p},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", PLACES)
def test_a_manifest_names_nothing_outside(tmp_path, place, path):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**GOOD, **PLACES[place](path)}))

    with pytest.raises(SettingsError, match=place):
        load_manifest("own", tmp_path)


@pytest.mark.parametrize("path", PATHS[:2])
def test_a_manifests_folder_does_not_climb(tmp_path, path):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**GOOD, "folder": path}))

    with pytest.raises(SettingsError, match=r"folder: must not contain '\.\.'"):
        load_manifest("own", tmp_path)


@pytest.mark.parametrize("filename", [".", "..", ".lock", "...partial"])
def test_a_download_gets_a_plain_name(tmp_path, filename):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**GOOD, "archives": [{**ARCHIVE, "filename": filename}]}))

    with pytest.raises(SettingsError, match="archives.0.filename: "):
        load_manifest("own", tmp_path)


@pytest.mark.parametrize(
    "i", [*PATHS, "..", ".", "a/../b", "a//b", "a/.b", "a\\b", "a\0b", "~", "-rf", "\x1b[2J", "a\u202eb"]
)
def test_an_id_is_a_plain_name(tmp_path, i):
    (tmp_path / "list.txt").write_text(f"good\n{i}\n", encoding="utf-8")

    with pytest.raises(DatasetError, match="list.txt: 1 problem"):
        read_ids(tmp_path / "list.txt")


# ---- doors -----------------------------------------------------------------------------------------

HOOK = """
import os, sys
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def hook(event, args):
    if event in ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto"):
        os.write(log, f"{{event}} {{args[1:]}}\\n".encode())
sys.addaudithook(hook)
"""
RUN = """
import sys
from pipeline.cli.main import main
for line in {lines!r}:
    main([*line.split(), "--config", "config.yaml"])
print("ended")
"""
LINES = [
    "patches --dataset tiny --split train",
    "extract --dataset tiny --split train",
    "extract --dataset tiny --split val",
    "fit-head --dataset tiny",
    "score --dataset tiny",
    "evaluate --dataset tiny",
    "sweep --dataset tiny",
]


def with_hook(code: str, folder: Path, log: Path) -> subprocess.CompletedProcess:
    """Run code in a process, and processes that it starts, whose sockets are written down."""
    site = log.parent / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOOK.format(log=str(log)))
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=200
    )


def test_the_hook_sees_a_door(tmp_path):
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()"

    assert with_hook(code, tmp_path, tmp_path / "log").returncode == 0

    assert "socket.bind" in (tmp_path / "log").read_text()


def test_a_run_opens_no_door_and_calls_nobody(work, tmp_path):
    for made in ("cache", "results"):
        (work / made).rename(tmp_path / f"old-{made}")

    ended = with_hook(RUN.format(lines=LINES), work, tmp_path / "log")

    assert ended.stdout.endswith("ended\n"), ended.stderr
    assert (tmp_path / "log").read_text() == ""
    assert list(work.glob("cache/*.zarr")) and list(work.glob("results/runs/*/map.json"))
