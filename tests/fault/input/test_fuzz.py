"""Hostile bytes at every door: each ends in a result or in a ``PipelineError`` that says where, and soon.

``PIPELINE_TORTURE=1`` gives each test fifty times the examples, drawn anew in each run.
"""

from __future__ import annotations

import io
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from pipeline.cli.common import workspace_from
from pipeline.dataset import picture
from pipeline.dataset.archive import unpack
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.picture import decode_annotated, picture_size
from pipeline.dataset.read import read_split
from pipeline.dataset.split import read_ids
from pipeline.dataset.voc_folder import id_list_path
from pipeline.dataset.voc_xml import parse_annotation
from pipeline.head.settings import HeadSettings
from pipeline.io.errors import PipelineError
from pipeline.patches.grid import grid_windows
from pipeline.patches.labels import measure_overlap
from pipeline.patches.settings import GridSettings, LabelSettings
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace
from pipeline.trunk.load import load_trunk
from pipeline.trunk.trunk import read_weights

# As outside of pytest: Pillow's warnings of odd metadata are not errors, nor are those of odd codecs.
pytestmark = [pytest.mark.filterwarnings(r"ignore:::PIL\."), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TORTURE = os.environ.get("PIPELINE_TORTURE") == "1"
MAX_GROWTH_KB = 200_000
MAX_MESSAGE = 20_000


def law(n: int) -> Callable[[Any], Any]:
    """`n` examples, each in seconds; the same ones in every short run."""
    return settings(
        max_examples=50 * n if TORTURE else n,
        derandomize=not TORTURE,
        deadline=timedelta(seconds=20),
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def _memory_kb(key: str) -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@contextmanager
def bounded() -> Iterator[None]:
    """This process must not grow by more than `MAX_GROWTH_KB`, not even for a moment; seen on Linux only."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        yield
        return
    reset.write_text("5")  # the peak is counted from now
    before = _memory_kb("VmRSS")
    try:
        yield
    finally:
        assert _memory_kb("VmHWM") - before < MAX_GROWTH_KB


def ends(call: Callable[[], Any], *named: str) -> Any:
    """A result, or None after a ``PipelineError`` that is short and names one of `named`."""
    try:
        with bounded():
            return call()
    except PipelineError as error:
        message = str(error)
        assert any(name in message for name in named), message
        assert len(message) < MAX_MESSAGE, message[:1000]
        return None


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# ---- bytes -----------------------------------------------------------------------------------------

HUGE = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\xff\xff", b"\xff\xff", b"\0\0\0\0"]


def _changed(data: bytes, kind: str, at: int, length: int, extra: bytes) -> bytes:
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (1 << length % 8)]) + data[at + 1 :] if at < len(data) else data
    if kind == "cut":
        return data[:at]
    if kind == "remove":
        return data[:at] + data[at + length :]
    if kind == "repeat":
        return data[:at] + data[at : at + length] * 3 + data[at + length :]
    if kind == "insert":
        return data[:at] + extra + data[at:]
    return data[:at] + extra + data[at + len(extra) :]  # overwrite


@st.composite
def mutated(draw: st.DrawFn, bases: list[bytes], words: list[bytes] = HUGE) -> bytes:
    """One of `bases` after up to four changes; `words` are bytes that matter in the format."""
    data = draw(st.sampled_from(bases))
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["flip", "cut", "remove", "repeat", "insert", "overwrite", "splice"]))
        # Headers decide more than the rest: every second change is made near the beginning.
        end = min(len(data), 64) if draw(st.booleans()) else len(data)
        at = draw(st.integers(0, max(0, end)))
        if kind == "splice":
            data = data[:at] + draw(st.sampled_from(bases))[at:]
        else:
            extra = draw(st.sampled_from(words) | st.binary(max_size=8))
            data = _changed(data, kind, at, draw(st.integers(1, 64)), extra)
    return data


# ---- pictures --------------------------------------------------------------------------------------


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _pictures() -> list[bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80)
    return [
        _encoded(noise, "JPEG"),
        _encoded(noise, "JPEG", progressive=True, exif=exif, comment=b"c"),
        _encoded(noise.convert("CMYK"), "JPEG"),
        _encoded(noise.convert("L"), "JPEG"),
        _encoded(noise, "PNG"),
        _encoded(noise.convert("RGBA"), "PNG"),
        _encoded(noise.convert("P"), "PNG", transparency=0),
        _encoded(deep, "PNG"),
        _encoded(noise, "BMP"),
        _encoded(noise.convert("P"), "BMP"),
        _encoded(noise, "WEBP"),
        _encoded(noise.convert("RGBA"), "WEBP", lossless=True),
        _encoded(noise, "TIFF"),
        _encoded(deep, "TIFF", compression="tiff_deflate"),
        _encoded(noise, "TIFF", compression="tiff_lzw"),
        _encoded(noise, "GIF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
    ]


PICTURES = _pictures()


def png_of(width: int, height: int, depth: int = 8, colour: int = 2, rows: int = 8) -> bytes:
    """A PNG that says it is `width` x `height` and has a few black rows of that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    n_bytes = 1 + (width * (3 if colour == 2 else 1) * depth + 7) // 8
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    content = zlib.compress(bytes(min(n_bytes * rows, 100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@st.composite
def declared(draw: st.DrawFn) -> bytes:
    """A picture whose header states another size, all checksums right."""
    width, height = draw(st.tuples(*[st.sampled_from([0, 1, 31, 4000, 2**14, 2**16 - 1, 2**31 - 1])] * 2))
    if draw(st.booleans()):
        return png_of(width, height, draw(st.sampled_from([1, 8, 16])), draw(st.sampled_from([0, 2, 3])))
    data = draw(st.sampled_from(PICTURES[:4]))
    frame = re.search(rb"\xff[\xc0\xc2]..", data, re.S).end()
    return data[: frame + 1] + struct.pack(">HH", height % 2**16, width % 2**16) + data[frame + 5 :]


@pytest.fixture
def few_pixels(monkeypatch) -> None:
    """A limit under which a picture that is decoded in full cannot break the law of memory."""
    monkeypatch.setattr(picture, "MAX_PIXELS", 4_000_000)


@law(250)
@given(
    mutated(PICTURES, [*HUGE, b"Exif\0\0", b"\xff\xda", b"\xff\xc0", b"IDAT", b"tRNS", b"VP8X"])
    | declared()
    | st.binary(max_size=200),
    st.sampled_from([None, (32, 24), (24, 32)]),
)
def test_pictures(few_pixels, folder, data, size_wh):
    decoded = ends(lambda: decode_annotated(data, size_wh, "JPEGImages/a.jpg"), "JPEGImages/a.jpg: ")

    (folder / "a.jpg").write_bytes(data)
    stored_wh = ends(lambda: picture_size(folder / "a.jpg", "JPEGImages/a.jpg"), "JPEGImages/a.jpg: ")
    if decoded is not None:
        pixels = decoded.pixels
        assert sorted(stored_wh) == sorted(pixels.shape[:2])
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        assert size_wh in (None, (pixels.shape[1], pixels.shape[0]))
        assert pixels.size <= 3 * picture.MAX_PIXELS


@law(150)
@given(
    st.integers(1, 70_000),
    st.integers(1, 70_000),
    st.lists(st.floats(1, 1000), min_size=1, max_size=300),
    st.floats(0, 0.949),
    st.floats(0.1, 20),
    st.integers(1, 1_000_000),
)
def test_grids(width, height, scales, overlap, min_side_px, max_patches):
    values = {"scales": scales, "overlap": overlap, "min_side_px": min_side_px, "max_patches": max_patches}
    run = ends(lambda: parse_run_settings({"grid": values}), "grid")
    windows = run and ends(lambda: grid_windows(width, height, run.grid), f"{width} x {height} pixels")

    if windows:
        boxes, scale = windows
        assert len(boxes) == len(scale) <= max_patches
        assert scale.max() == len(scales) - 1
        assert boxes.min() >= 0 and (boxes.max(0)[2:] <= np.array([width, height]) * (1 + 1e-9)).all()


# ---- annotations -----------------------------------------------------------------------------------

NUMBERS = st.sampled_from(
    ["1", "10", "20.5", "-5", "0", "", " 7 ", "1e3", "1e308", "1e999", "nan", "-inf", "0x10", "1_0", "９", "9" * 5000,
     "ten", "1,5", "--1", "&#48;"]
)  # fmt: skip
NAMES = st.sampled_from(["cat", "dog", " cat ", "", "Cat", "cow", "../x", "c" * 3000, "<b/>", "&lt;", "&#0;", "é"])
SIZES = ["100", "80", "0", "-1", "1e308", "nan", "", "x", "100.0"]


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Annotations that nearly fit: odd values, fields that are missing, twice or nested."""

    def field(tag: str, values: st.SearchStrategy[str]) -> str:
        n = draw(st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2]))
        return "".join(f"<{tag}>{draw(values)}</{tag}>" for _ in range(n))

    objects = ""
    for _ in range(draw(st.integers(0, 3))):
        box = "".join(field(corner, NUMBERS) for corner in ("xmin", "ymin", "xmax", "ymax"))
        part = draw(st.sampled_from(["", "<part><name>head</name></part>", "<object><name>dog</name></object>"]))
        difficult = field("difficult", NUMBERS) if draw(st.booleans()) else ""
        objects += f"<object>{field('name', NAMES)}{difficult}<bndbox>{box}</bndbox>{part}</object>"
    size = f"<size>{field('width', st.sampled_from(SIZES))}{field('height', st.sampled_from(SIZES))}</size>"
    root = draw(st.sampled_from(["annotation"] * 5 + ["html", "a:b", "annotation xmlns='urn:x'"]))
    declaration = draw(
        st.sampled_from(["", "", "<?xml version='1.0'?>", "<!DOCTYPE annotation>", "<?xml version='9'?>"])
        | st.sampled_from(
            ["utf-8", "latin-1", "utf-16", "utf-7", "ascii", "cp037", "rot13", "hex", "unicode_escape", "klingon"]
        ).map(lambda name: f"<?xml version='1.0' encoding='{name}'?>")
    )
    text = f"{declaration}<{root}>{size if draw(st.booleans()) else ''}{objects}</{root.split()[0]}>"
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"])))


def entity_bomb(levels: int, width: int, quadratic: bool) -> bytes:
    if quadratic:
        entities = f'<!ENTITY e "{"x" * 1000 * width}">'
        use = "&e;" * 1000
    else:
        entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * width}">' for n in range(1, levels))
        entities, use = f'<!ENTITY e0 "ha">{entities}', f"&e{levels - 1};"
    return f"<!DOCTYPE a [{entities}]><annotation><object><name>{use}</name></object></annotation>".encode()


def nested(depth: int) -> bytes:
    return b"<annotation>" + b"<object>" * depth + b"</object>" * depth + b"</annotation>"


BOMBS = st.builds(entity_bomb, st.integers(2, 12), st.integers(1, 20), st.booleans()) | st.builds(
    nested, st.sampled_from([10, 1000, 100_000])
)
ONE = (
    b"<annotation><size><width>100</width><height>80</height></size><object><name>cat</name><bndbox><xmin>1</xmin>"
    b"<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
TAGS = [b"<object>", b"</object>", b"&x;", b"<![CDATA[", b"-->", b"<!--", b"\0", b"\xff", b"<?", b"]]>", b"xmlns:a='b'"]


@law(250)
@given(documents() | mutated([ONE], TAGS) | BOMBS | st.binary(max_size=100))
def test_annotations(data):
    try:
        with bounded():
            annotation = parse_annotation(data, ("cat", "dog"))
    except ValueError as error:  # its callers put the file's name before it
        assert len(str(error)) < MAX_MESSAGE  # noqa: PT017
        return
    assert np.isfinite(annotation.box_xyxy).all()
    assert (annotation.box_xyxy[:, 2:] > annotation.box_xyxy[:, :2]).all()
    assert annotation.size_wh is None or min(annotation.size_wh) >= 1
    boxes, _ = grid_windows(100, 80, GridSettings())
    overlap = measure_overlap(boxes, annotation.box_xyxy, annotation.class_index, annotation.difficult)
    assert len(overlap.n_filling) == len(boxes)


@law(60)
@given(documents() | BOMBS | st.binary(max_size=100), st.binary(max_size=60), st.booleans())
def test_a_split_with_one_odd_annotation_or_list_is_named(folder, data, lines, listed):
    root = folder / "VOC"
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / sub).mkdir(parents=True, exist_ok=True)
    (root / "JPEGImages/a.jpg").touch()
    (root / "Annotations/a.xml").write_bytes(data)
    (root / "ImageSets/Main/train.txt").write_text("a\n")
    for name in ("cat", "dog"):
        path = root / f"ImageSets/Main/{name}_train.txt"
        path.write_bytes(b"a 1\n" + lines) if listed else path.unlink(missing_ok=True)
    (folder / "own.yaml").write_text(yaml.safe_dump(MANIFEST))
    manifest = load_manifest("own", folder)

    split = ends(lambda: read_split(manifest, "train", folder), "Annotations/a.xml", "_train.txt")

    assert split is None or (split.ids == ("a",) and split.labels.shape == (1, 2))


# ---- id lists --------------------------------------------------------------------------------------

IDS = st.sampled_from(
    ["a", "2007_000027", "../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "..", "a..b", "-rf", "", " ", "a b", "a 1",
     "a\0b", "a\x85b", "a\u2028b", "é", "x" * 300, "\ufeff", "a -1", "CON", "a\x1b[2J", "٣"]
)  # fmt: skip
ID_LISTS = st.lists(IDS, max_size=6).map("\n".join).map(str.encode)


@law(150)
@given(ID_LISTS | mutated([b"a\nb\nc 1\n"], [b"\0", b"\r", b"\x85", b"../", b"\xff\xfe"]) | st.binary(max_size=100))
def test_id_lists(folder, data):
    path = folder / "list.txt"
    path.write_bytes(data)

    ids = ends(lambda: read_ids(path), str(path))

    if ids is not None:
        assert ids and len(set(ids)) == len(ids)
        for i in ids:
            assert (folder / f"{i}.xml").resolve().is_relative_to(folder.resolve())
            assert not (folder / f"{i}.xml").is_file()  # no name so long, or so odd, that the system refuses it


# ---- YAML: manifests, cards, settings --------------------------------------------------------------

MANIFEST = {
    "name": "own",
    "title": "Own pictures",
    "folder": "VOC",
    "metric": "voc12",
    "fit": "train",
    "eval": "val",
    "splits": {"train": {}, "val": {"ids": "own/val.txt", "pictures": 3}},
    "classes": ["cat", "dog"],
    "archives": [{"url": "https://x", "md5": "0" * 32, "filename": "a.tar", "strip": "VOCdevkit"}],
}
CARD = {
    "name": "mine",
    "architecture": "krizhevsky",
    "input_px": 227,
    "layers": {"pool5": 9216, "fc6": 16, "fc7": 16},
    "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "weights_file": "mine.safetensors",
    "weights_sha256": "0" * 64,
}
CONFIG = {"trunk": "random", "seed": 3, "grid": {"scales": [1, 2]}, "heads": {"fca": {"hidden": [8]}}, "k": 1}
TEXTS = [
    "",
    "a",
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "\n",
    "fc7",
    "é",
    "max",
    "~",
    "C:\\",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, 2**64, -1, 10**30, 16**50, 0])
    | st.floats()
    | st.sampled_from(TEXTS)
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in _places(inner, (*path, key)))]


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def altered(draw: st.DrawFn, content: dict[str, Any]) -> Any:
    """`content` with up to three values replaced, or with a key too many or too few."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(content)[1:] or [()]))
        if not place:
            return content
        match draw(st.sampled_from(["value", "value", "value", "key", "remove"])):
            case "value":
                content = _replaced(content, place, draw(VALUES))
            case "key":
                content = {**content, draw(st.sampled_from(TEXTS) | st.text(max_size=5)): draw(VALUES)}
            case "remove":
                content = {key: value for key, value in content.items() if key != place[0]}
    return content


def _dumped(content: Any) -> bytes:
    try:
        return yaml.dump(content, Dumper=yaml.SafeDumper, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):  # a value that YAML cannot hold
        return b"a: b"


def alias_bomb(levels: int, width: int, form: str) -> bytes:
    """A few lines that stand for `width` ** `levels` entries: as lists, as mappings, or merged."""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for n in range(1, levels):
        uses = [f"*a{n - 1}"] * width
        if form == "merge":
            lines.append(f"a{n}: &a{n} {{k{n}: 1, <<: [{', '.join(uses)}]}}")
        elif form == "list":
            lines.append(f"a{n}: &a{n} [{', '.join(uses)}]")
        else:
            lines.append(f"a{n}: &a{n} {{{', '.join(f'k{i}: {use}' for i, use in enumerate(uses))}}}")
    return "\n".join(lines).encode()


WORDS = [b"&a ", b"*a", b"<<: *a", b"!!int x", b"!!timestamp x", b"!!bool x", b"!!binary x", b"2024-99-99",
         b"0x_", b"0b_",
         b"!!python/object/apply:os.system [id]", b"? ", b"- ", b": ", b"[", b"{", b"\t", b"|\n", b"---\n",
         b"%YAML 9.9\n",
         b"\xff", b"\0", b"!!set {a}", b"&a [*a]", b"1:60:60", b".inf", b"=", b"!<tag:x> 1"]  # fmt: skip
BOMB_FILES = (
    st.builds(alias_bomb, st.integers(2, 12), st.integers(1, 12), st.sampled_from(["list", "map", "merge"]))
    | st.sampled_from(
        [
            b"[" * 5000,
            b"{a: " * 3000,
            b"- " * 4000,
            b"x: " + b"9" * 5000,
            b"seed: 0x" + b"f" * 5000,
            b"0x" + b"f" * 5000 + b": 1",
        ]
    )
    | st.just(b"a: " + b"x" * 600_000)
    | st.sampled_from(WORDS)
)


def yaml_files(content: dict[str, Any]) -> st.SearchStrategy[bytes]:
    return altered(content).map(_dumped) | mutated([_dumped(content)], WORDS) | BOMB_FILES | st.binary(max_size=60)


@law(300)
@given(yaml_files(MANIFEST))
def test_manifests(folder, data):
    (folder / "own.yaml").write_bytes(data)

    manifest = ends(lambda: load_manifest("own", folder), str(folder / "own.yaml"))

    if manifest is not None:
        below = folder / "below"
        for split in manifest.splits:
            path = Path(os.path.normpath(id_list_path(manifest, split, below)))
            assert folder in path.parents
            ends(lambda split=split: read_split(manifest, split, folder), manifest.title, str(folder), manifest.folder)
        for name in manifest.classes:
            assert Path(f"comp1_cls_test_{name}.txt").name == f"comp1_cls_test_{name}.txt"
        for entry in manifest.archives:
            assert folder in Path(os.path.normpath(below / entry.strip / "x")).parents
            assert (below / entry.filename).parent == below and entry.filename not in ("..", ".lock")


@law(120)
@given(yaml_files(CARD))
def test_cards(folder, data):
    (folder / "card.yaml").write_bytes(data)
    (folder / "mine.safetensors").write_bytes(TENSORS)

    ends(lambda: load_trunk(str(folder / "card.yaml"), "fc7"), str(folder), "weights do not fit")


@law(150)
@given(
    st.sampled_from(sorted(RunSettings.model_fields)).flatmap(lambda key: st.tuples(st.just(key), VALUES))
    | st.sampled_from(
        [(key, sub) for key, model in (("grid", GridSettings), ("labels", LabelSettings)) for sub in model.model_fields]
    ).flatmap(lambda pair: st.tuples(st.just(pair[0]), VALUES.map(lambda value: {pair[1]: value})))
    | st.sampled_from(sorted(HeadSettings.model_fields)).flatmap(
        lambda sub: st.tuples(st.just("heads"), VALUES.map(lambda value: {"mine": {sub: value}}))
    )
)
def test_settings(item):
    key, value = item

    run = ends(lambda: parse_run_settings({key: value}), key, f"unknown head {str(value)[:50]}")

    if run is not None:
        ws = Workspace(run)
        for path in (ws.table_path("demo", "train"), ws.receipt_path("demo", "train"), ws.run_dir("demo")):
            assert len(path.name) < 200
            str(path).encode()
            assert "\0" not in str(path)
        torch.manual_seed(run.seed)
        np.random.default_rng(run.seed)


@law(200)
@given(yaml_files(CONFIG), st.sampled_from([None, "touches", "sees"]), st.sampled_from([None, "5", "max", "nan", "x"]))
def test_config_files(folder, data, single_object, k):
    path = folder / "config.yaml"
    path.write_bytes(data)

    ends(lambda: workspace_from({"config": str(path), "single_object": single_object, "k": k}), str(path), "--k")


# ---- weights and archives --------------------------------------------------------------------------

TENSORS = save({"conv1.weight": torch.ones(2, 3), "fc6.weight": torch.ones(4, 2, dtype=torch.float16)})
HEADERS = [*HUGE, b'"F64"', b'"I8"', b'"U9"', b"[0,99999]", b"[99999999999]", b"[-1]", b'"shape"', b"\x80\x02", b"PK"]


@law(150)
@given(mutated([TENSORS], HEADERS) | st.binary(max_size=100), st.sampled_from(["krizhevsky", "alexnet"]))
def test_weights(folder, data, trunk):
    path = folder / "w.safetensors"
    path.write_bytes(data)

    state = ends(lambda: read_weights(path), str(path))

    if state is not None and trunk == "krizhevsky":
        ends(lambda: load_trunk(trunk, weights=path), "krizhevsky", str(path))


def _archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, link in (
            ("VOC/", tarfile.DIRTYPE, ""),
            ("VOC/a.jpg", tarfile.REGTYPE, ""),
            ("VOC/é" + "x" * 120, tarfile.REGTYPE, ""),
            ("VOC/b.jpg", tarfile.LNKTYPE, "VOC/a.jpg"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 5 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"hello"))
    return stream.getvalue()


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Mutated tars, every second one with its checksums put right again."""
    data = bytearray(
        draw(mutated([_archive()], [*HUGE, b"../", b"/", b"\x80", b"1", b"2", b"3", b"5", b"x", b"S", b"L"]))
    )
    if draw(st.booleans()):
        for start in range(0, len(data) - 511, 512):
            header = bytes(data[start : start + 512])
            if header[257:262] == b"ustar":
                total = sum(header[:148]) + 8 * 32 + sum(header[156:])
                data[start + 148 : start + 156] = b"%06o\0 " % total
    if draw(st.integers(0, 9)) == 0:
        return zlib.compress(bytes(data), wbits=31)[: draw(st.integers(0, 2000))]
    return bytes(data)


@law(150)
@given(archives())
def test_archives(tmp_path_factory, data):
    base = tmp_path_factory.mktemp("archive")
    (base / "a.tar").write_bytes(data)
    (base / "into").mkdir()

    ends(lambda: unpack(base / "a.tar", base / "into"), str(base / "a.tar"), "unpacking a.tar needs")

    assert sorted(p.name for p in base.iterdir()) == ["a.tar", "into"]
    for path in (base / "into").rglob("*"):
        assert not path.is_symlink() and (path.is_dir() or path.is_file())
