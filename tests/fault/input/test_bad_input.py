"""Every bad input that we know of, as a user makes it, and what the command must say of it.

The one list of them: exit code 2, no traceback, nothing on stdout, and a message that says what, where (path,
id or field), got, expected, and the next command where there is one. Details are tested beside each module.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from pipeline.trunk.alexnet import ALEXNET64, AlexNet
from pipeline.trunk.card import TrunkCard, save_trunk

CONFIG = "--config config.yaml"
PATCHES = f"patches --dataset tiny --split val {CONFIG}"
EXTRACT = f"extract --dataset tiny --split val {CONFIG}"
FETCH = "data fetch evil"


@dataclass(frozen=True)
class Case:
    """One bad input: `make` spoils a work folder that was in order, then `command` must say `says`."""

    name: str
    command: str
    says: tuple[str, ...]
    make: Callable[[Path], None] = lambda work: None


# ---- ways to spoil ---------------------------------------------------------------------------------


def write(path: str, content: str | bytes) -> Callable[[Path], None]:
    """Replace a file of the work folder."""

    def make(work: Path) -> None:
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def change(path: str, **values: Any) -> Callable[[Path], None]:
    """Change keys of a YAML file."""

    def make(work: Path) -> None:
        content = yaml.safe_load((work / path).read_text())
        (work / path).write_text(yaml.safe_dump({**content, **values}))

    return make


def config(**values: Any) -> Callable[[Path], None]:
    return change("config.yaml", **values)


def manifest(**values: Any) -> Callable[[Path], None]:
    return change("data_manifests/tiny.yaml", **values)


def remove(path: str) -> Callable[[Path], None]:
    def make(work: Path) -> None:
        target = work / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return make


def folder_for(path: str) -> Callable[[Path], None]:
    """A folder where a file was."""

    def make(work: Path) -> None:
        remove(path)(work)
        (work / path).mkdir()

    return make


def file_for(path: str) -> Callable[[Path], None]:
    """A file where a folder was."""

    def make(work: Path) -> None:
        remove(path)(work)
        (work / path).write_text("no folder")

    return make


def pipe_for(path: str) -> Callable[[Path], None]:
    def make(work: Path) -> None:
        remove("cache")(work)
        remove(path)(work)
        os.mkfifo(work / path)

    return make


def matching(pattern: str, data: bytes) -> Callable[[Path], None]:
    """Replace the one file that a pattern finds."""

    def make(work: Path) -> None:
        (path,) = work.glob(pattern)
        path.write_bytes(data)

    return make


def picture(data: bytes, name: str = "q0.jpg") -> Callable[[Path], None]:
    """Other bytes for the picture q0."""

    def make(work: Path) -> None:
        remove("data/tiny/JPEGImages/q0.png")(work)
        write(f"data/tiny/JPEGImages/{name}", data)(work)

    return make


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def bomb_png() -> bytes:
    """A PNG of a few hundred bytes that says it is 30,000 x 30,000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(90_001)))


def xml(*objects: str, size: str = "", before: str = "") -> Callable[[Path], None]:
    """Another annotation for the picture q0, which is 64 x 48."""
    return write("data/tiny/Annotations/q0.xml", f"{before}<annotation>{size}{''.join(objects)}</annotation>")


def thing(name: str = "ball", corners: tuple[object, ...] = (1, 1, 9, 9)) -> str:
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def size_of(width: int, height: int) -> str:
    return f"<size><width>{width}</width><height>{height}</height></size>"


def ids(text: str | bytes) -> Callable[[Path], None]:
    return write("data/tiny/ImageSets/Main/val.txt", text)


def empty(width: int, height: int) -> Callable[[Path], None]:
    """A black picture without objects for q0."""

    def make(work: Path) -> None:
        picture(encoded(Image.new("RGB", (width, height)), "PNG"), "q0.png")(work)
        xml()(work)

    return make


def state() -> dict[str, torch.Tensor]:
    return AlexNet(ALEXNET64).state_dict()


def card(change_state: Callable[[dict[str, torch.Tensor]], None] = lambda s: None, **values: Any):
    """A trunk of our own, ``mine.yaml`` with its weights, wrong in one way."""

    def make(work: Path) -> None:
        tensors = state()
        change_state(tensors)
        fields = TrunkCard(name="mine", architecture="alexnet64", input_px=64, layers=ALEXNET64.widths)
        save_trunk(work / "mine", tensors, fields)
        change("mine.yaml", **values)(work)

    return make


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


PICKLE = pickle.dumps(Code(), 4)


def torch_file(work: Path) -> None:
    torch.save({"conv1.weight": torch.ones(1)}, work / "w.pth")


def other_weights(work: Path) -> None:
    save_file({"conv1.weight": torch.ones(96, 3, 11, 11)}, work / "w.safetensors")


def archive(*members: tuple[str, bytes, str], md5: str | None = None) -> Callable[[Path], None]:
    """Dataset ``evil``, whose archive lies in the download folder already."""

    def make(work: Path) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name, kind, link in members:
                member = tarfile.TarInfo(name)
                member.type, member.linkname, member.size = kind, link, 3 if kind == tarfile.REGTYPE else 0
                tar.addfile(member, io.BytesIO(b"abc"))
        data = stream.getvalue()
        write("data/downloads/a.tar", data)(work)
        digest = md5 or hashlib.md5(data, usedforsecurity=False).hexdigest()
        content = yaml.safe_load((work / "data_manifests/tiny.yaml").read_text())
        content |= {"name": "evil", "folder": "evil", "archives": []}
        content["archives"] = [{"url": "https://127.0.0.1:1/a.tar", "md5": digest, "filename": "a.tar"}]
        write("data_manifests/evil.yaml", yaml.safe_dump(content))(work)

    return make


FILE, LINK, HARD, DEVICE, PIPE = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE
ALIASES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: 1}}\n" for n in range(1, 12)
)
LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(f'<!ENTITY a{n} "&a{n - 1};&a{n - 1};">' for n in range(2, 30)) + "]>"
)

# ---- the list --------------------------------------------------------------------------------------

NAMES = [
    Case(
        "unknown dataset",
        f"patches --dataset tine --split val {CONFIG}",
        ("dataset 'tine'", "data_manifests/tine.yaml", "known: ", "tiny", "pipeline data new --root DIR --name tine"),
    ),
    Case(
        "dataset that is a path",
        f"patches --dataset ../tiny --split val {CONFIG}",
        ("dataset '../tiny'", "expected lower case letters, digits and _"),
    ),
    Case(
        "dataset with an endless name",
        f"patches --dataset {'a' * 300} --split val {CONFIG}",
        ("dataset 'aaa", "at most 64"),
    ),
    Case(
        "unknown split",
        f"extract --dataset tiny --split trial {CONFIG}",
        ("tiny: no split 'trial'", "there are test, train, val"),
    ),
    Case("unknown trunk", f"{EXTRACT} --trunk vgg", ("trunk: must be one of alexnet64", "got 'vgg'")),
    Case("unknown layer", f"{EXTRACT} --layer fc8", ("layer: trunk random has pool5, fc6, fc7", "got 'fc8'")),
    Case(
        "unknown head",
        f"fit-head --dataset tiny --head fcz {CONFIG}",
        ("unknown head 'fcz'", "did you mean fcb, fca or fca2?", "under 'heads:' in a --config file"),
    ),
    Case(
        "unknown torchvision model",
        f"{EXTRACT} --trunk torchvision/resnet19",
        ("torchvision has no classifier 'resnet19'", "resnet18"),
    ),
    Case("card that is not there", f"{EXTRACT} --trunk none.yaml", ("none.yaml: no such card", "next to its weights")),
    Case("unknown command", "extrakt --dataset tiny", ("No such command 'extrakt'",)),
    Case("unknown option", f"{EXTRACT} --layerz fc7", ("No such option", "--layerz")),
]

SETTINGS = [
    Case("unknown precision", f"{EXTRACT} --precision fp8", ("precision: ", "'bf16' or 'fp16'", "got 'fp8'")),
    Case("fp16 on a CPU", f"{EXTRACT} --precision fp16 --device cpu", ("precision 'fp16'", "use bf16 or fp32")),
    Case("unknown device", f"{EXTRACT} --device gpu", ("device: ", "auto|cpu|cuda", "got 'gpu'")),
    Case("device that is not there", f"{EXTRACT} --device cuda:99", ("device 'cuda:99'", "CUDA device")),
    Case("negative seed", f"{EXTRACT} --seed -1", ("seed: ", "greater than or equal to 0", "got -1")),
    Case("seed that torch cannot take", f"{EXTRACT} --seed {2**64}", ("seed: ", "less than or equal to", str(2**64))),
    Case("negative threads", f"{EXTRACT} --threads -1", ("threads: ", "got -1")),
    Case("batch of 0", f"{EXTRACT} --batch 0", ("batch: ", "greater than or equal to 1", "got 0")),
    Case("k that is not a number", f"evaluate --dataset tiny --k nan {CONFIG}", ("aggregation", "finite number")),
    Case("k of a word", f"evaluate --dataset tiny --k five {CONFIG}", ("--k: expected a number or max", "got 'five'")),
    Case(
        "overlap NaN",
        PATCHES,
        ("config.yaml: 1 mistake", "grid.overlap: ", "finite"),
        config(grid={"overlap": float("nan")}),
    ),
    Case("seed true", PATCHES, ("seed: must be a number, got True",), config(seed=True)),
    Case(
        "dropout false",
        PATCHES,
        ("heads.fca.dropout: must be a number, got False",),
        config(heads={"fca": {"dropout": False}}),
    ),
    Case("257 scales", PATCHES, ("grid.scales: ", "at most 256"), config(grid={"scales": list(range(1, 258))})),
    Case(
        "no epoch",
        PATCHES,
        ("heads.fca: max_epochs must allow one epoch",),
        config(heads={"fca": {"max_epochs": [0, 0, 0]}}),
    ),
    Case("no head to compare", PATCHES, ("compare: ", "at least 1"), config(compare=[])),
    Case("folder name with NUL", PATCHES, ("cache: must not hold NUL", r"'a\x00b'"), config(cache="a\0b")),
    Case(
        "head name that is a path", PATCHES, ("heads: names may have letters", "'../up'"), config(heads={"../up": {}})
    ),
    Case(
        "labels of another shape, with --single-object",
        f"{PATCHES} --single-object fills",
        ("labels: Input should be a valid dictionary", "got 'touches'"),
        config(labels="touches"),
    ),
    Case(
        "unknown key",
        PATCHES,
        ("config.yaml: 1 mistake", "trnk: Extra", "got 'random'", "did you mean trunk"),
        config(trnk="random"),
    ),
    Case(
        "config that is a list", PATCHES, ("config.yaml: expected a mapping", "got list"), write("config.yaml", "- a")
    ),
    Case(
        "config that is missing", PATCHES, ("config.yaml: cannot be read as YAML: No such file",), remove("config.yaml")
    ),
    Case("config that is a folder", PATCHES, ("config.yaml", "is a directory"), folder_for("config.yaml")),
    Case(
        "config that is no text",
        PATCHES,
        ("config.yaml: ", "not valid YAML: 'utf-8' codec"),
        write("config.yaml", b"\xff\xfe\0a"),
    ),
    Case(
        "config with a broken date",
        PATCHES,
        ("config.yaml: ", "month must be in 1..12"),
        write("config.yaml", "a: 2024-99-99"),
    ),
    Case(
        "config with code",
        PATCHES,
        ("config.yaml: ", "not valid YAML", "python/object"),
        write("config.yaml", "a: !!python/object/apply:os.getcwd []"),
    ),
    Case(
        "config of aliases of aliases",
        PATCHES,
        ("config.yaml: ", "more than 10,000 merged keys"),
        write("config.yaml", ALIASES),
    ),
    Case(
        "config nested without end", PATCHES, ("config.yaml: ", "nested too deeply"), write("config.yaml", "[" * 5000)
    ),
    Case(
        "config without end", PATCHES.replace("config.yaml", "/dev/zero"), ("/dev/zero: ", "larger than 500,000 bytes")
    ),
]

MANIFESTS = [
    Case(
        "manifest that is no YAML",
        PATCHES,
        ("tiny.yaml: ", "not valid YAML"),
        write("data_manifests/tiny.yaml", "a: ["),
    ),
    Case("manifest with an unknown key", PATCHES, ("tiny.yaml:", "colour: Extra", "got 'red'"), manifest(colour="red")),
    Case(
        "manifest of another name", PATCHES, ("tiny.yaml: name: got 'other'", "expected 'tiny'"), manifest(name="other")
    ),
    Case(
        "manifest whose folder climbs",
        PATCHES,
        ("tiny.yaml:", "folder: must not contain '..'"),
        manifest(folder="../../x"),
    ),
    Case("manifest without a folder", PATCHES, ("tiny.yaml:", "folder: must name a folder"), manifest(folder="")),
    Case(
        "class that is a path",
        PATCHES,
        ("tiny.yaml:", "classes: ", "no '/'", "'../../ball'"),
        manifest(classes=["../../ball"]),
    ),
    Case(
        "split that is a path",
        PATCHES,
        ("tiny.yaml:", "splits: ", "'../val'"),
        manifest(splits={"train": {}, "val": {}, "../val": {}}),
    ),
    Case(
        "id list outside",
        PATCHES,
        ("tiny.yaml:", "splits.val.ids: must not contain '..'"),
        manifest(splits={"train": {}, "val": {"ids": "../../secret.txt"}}),
    ),
    Case(
        "id list of an absolute path",
        PATCHES,
        ("tiny.yaml:", "splits.val.ids: must not be absolute, got '/etc/passwd'"),
        manifest(splits={"train": {}, "val": {"ids": "/etc/passwd"}}),
    ),
    Case(
        "data that are nowhere",
        f"{PATCHES} --data-root nowhere",
        ("pictures not found (looked in nowhere/tiny", "--data-root DIR", "make demo"),
    ),
]

WEIGHTS = [
    Case(
        "pickled weights",
        f"{EXTRACT} --trunk krizhevsky --weights w.pth",
        ("w.pth: pickled weights are never loaded", "expected safetensors"),
        torch_file,
    ),
    Case(
        "pickle with another name",
        f"{EXTRACT} --trunk alexnet --weights w.safetensors",
        ("w.safetensors: pickled weights are never loaded",),
        write("w.safetensors", PICKLE),
    ),
    Case("pickle as a trunk", f"{EXTRACT} --trunk w.pth", ("trunk: must be one of", "got 'w.pth'"), torch_file),
    Case(
        "weights that are no weights",
        f"{EXTRACT} --trunk alexnet --weights w.safetensors",
        ("w.safetensors: not a safetensors file",),
        write("w.safetensors", "<html>"),
    ),
    Case(
        "weights that are missing",
        f"{EXTRACT} --trunk alexnet --weights none.safetensors",
        ("none.safetensors: weights file not found",),
    ),
    Case(
        "weights without a card",
        f"{EXTRACT} --trunk w.safetensors",
        ("'w.safetensors': no card w.yaml",),
        write("w.safetensors", "x"),
    ),
    Case(
        "weights for a trunk that has its own",
        f"{EXTRACT} --weights w.safetensors",
        ("trunk 'random' has weights of its own",),
    ),
    Case(
        "weights of another shape",
        f"{EXTRACT} --trunk mine.yaml",
        ("mine: weights do not fit", "fc6.weight: shape (10, 1152), expected (1024, 1152)"),
        card(lambda s: s.update({"fc6.weight": torch.zeros(10, 1152)})),
    ),
    Case(
        "weights that are not finite",
        f"{EXTRACT} --trunk mine.yaml",
        ("mine: weights do not fit", "fc7.bias: holds values that are not finite"),
        card(lambda s: s.update({"fc7.bias": torch.full((1024,), float("nan"))})),
    ),
    Case(
        "weights of whole numbers",
        f"{EXTRACT} --trunk mine.yaml",
        ("fc7.bias: holds int64, expected a float type",),
        card(lambda s: s.update({"fc7.bias": torch.ones(1024, dtype=torch.int64)})),
    ),
    Case(
        "weights of another trunk",
        f"{EXTRACT} --trunk krizhevsky --weights w.safetensors",
        ("krizhevsky from w.safetensors: weights do not fit", "fc6.weight: missing, expected shape (4096, 9216)"),
        other_weights,
    ),
    Case(
        "card with an unknown key",
        f"{EXTRACT} --trunk mine.yaml",
        ("mine.yaml: not a trunk's card", "colour: Extra", "got 'red'"),
        card(colour="red"),
    ),
    Case(
        "card of another file",
        f"{EXTRACT} --trunk mine.yaml",
        ("mine.safetensors: digest ", "the card says 000", "another or a damaged file"),
        card(weights_sha256="0" * 64),
    ),
    Case(
        "card whose weights lie elsewhere",
        f"{EXTRACT} --trunk mine.yaml",
        ("mine.yaml: weights_file must be a plain name", "'../w.safetensors'"),
        card(weights_file="../w.safetensors"),
    ),
    Case(
        "card that divides by zero",
        f"{EXTRACT} --trunk mine.yaml",
        ("mine.yaml: ", "preprocessing.std: must be at least 0.001"),
        card(preprocessing={"std": [0, 1, 1]}),
    ),
]

WHERE = "data/tiny/JPEGImages/q0"
NOISE = Image.effect_noise((64, 48), 90)
PICTURES = [
    Case(
        "no picture",
        PATCHES,
        ("tiny val", "q0: no picture JPEGImages/q0.jpg", "pipeline data check tiny"),
        remove("data/tiny/JPEGImages/q0.png"),
    ),
    Case("picture of no bytes", PATCHES, (f"q0: {WHERE}.jpg: the file is empty", "--on-error skip"), picture(b"")),
    Case(
        "picture cut in half",
        PATCHES,
        (f"q0: {WHERE}.jpg: cannot be decoded: image file is truncated",),
        picture(encoded(NOISE, "JPEG")[:1500]),
    ),
    Case(
        "web page as a picture",
        PATCHES,
        (f"q0: {WHERE}.jpg: cannot be decoded: expected JPEG, PNG", "begins with b'<html>40'"),
        picture(b"<html>404</html>"),
    ),
    Case(
        "broken CMYK picture",
        PATCHES,
        (f"q0: {WHERE}.jpg: cannot be decoded",),
        picture(encoded(NOISE.convert("CMYK"), "JPEG")[:900]),
    ),
    Case(
        "Targa of another name",
        PATCHES,
        (f"q0: {WHERE}.jpg: cannot be decoded: expected JPEG, PNG",),
        picture(encoded(NOISE, "TGA")),
    ),
    Case(
        "program for a printer",
        PATCHES,
        (f"q0: {WHERE}.jpg: cannot be decoded: expected JPEG, PNG", "b'%!PS-Ado"),
        picture(encoded(NOISE, "EPS")),
    ),
    Case(
        "decompression bomb",
        PATCHES,
        (f"q0: {WHERE}.png: ", "at most 100,000,000 pixels are decoded: Image size (900000000 pixels)"),
        picture(bomb_png(), "q0.png"),
    ),
    Case(
        "picture that is too small",
        PATCHES,
        (f"q0: {WHERE}.png: 12 x 12 pixels: the smallest window is 6.0 px, at least 8",),
        empty(12, 12),
    ),
    Case(
        "picture that is too long",
        PATCHES,
        (f"q0: {WHERE}.png: 9000 x 16 pixels give ", "at most 2000 are allowed"),
        empty(9000, 16),
    ),
    Case(
        "picture of another size",
        PATCHES,
        (f"q0: {WHERE}.png: the picture is 64 x 48, its annotation says 64 x 40",),
        xml(size=size_of(64, 40)),
    ),
    Case("picture that is a folder", PATCHES, (f"q0: {WHERE}.png: no plain file",), folder_for(f"{WHERE}.png")),
    Case("picture that is a pipe", PATCHES, (f"q0: {WHERE}.png: no plain file",), pipe_for(f"{WHERE}.png")),
    Case(
        "too many bad pictures to skip",
        f"{PATCHES} --on-error skip",
        ("1 of 4 pictures are bad", "q0: ", "max_skipped: 0.05"),
        picture(b""),
    ),
    Case(
        "picture that data check decodes",
        "data check tiny --deep",
        ("tiny: 1 problem", "val: q0: JPEGImages/q0.jpg: the file is empty", "--on-error skip"),
        picture(b""),
    ),
]

XML = "q0: Annotations/q0.xml: "
ANNOTATIONS = [
    Case(
        "object without a name",
        PATCHES,
        (f"{XML}object 1 (no name): no <name>, so no class", "pipeline data check tiny"),
        xml(thing("")),
    ),
    Case(
        "unknown class",
        PATCHES,
        (f"{XML}object 1 (cow): unknown class, expected one of ball, crate",),
        xml(thing("cow")),
    ),
    Case(
        "box outside of the picture",
        PATCHES,
        (f"{XML}object 1 (ball): box [1, 1, 90, 9] outside of the picture of 64 x 48",),
        xml(thing(corners=(1, 1, 90, 9)), size=size_of(64, 48)),
    ),
    Case(
        "box outside of a picture of no stated size",
        PATCHES,
        (f"{WHERE}.png: box [1, 1, 90, 9] outside of the picture of 64 x 48 by 26 pixels",),
        xml(thing(corners=(1, 1, 90, 9))),
    ),
    Case(
        "corners exchanged",
        PATCHES,
        (f"{XML}object 1 (ball): the corners of its box are inverted: xmin 9 > xmax 1, ymin 9 > ymax 1",),
        xml(thing(corners=(9, 9, 1, 1))),
    ),
    Case(
        "NaN in a box",
        PATCHES,
        (f"{XML}object 1 (ball): box without area", "nan"),
        xml(thing(corners=("nan", 1, 9, 9))),
    ),
    Case(
        "words in a box",
        PATCHES,
        (f"{XML}object 1 (ball): bndbox/xmin is missing or not a number, got 'left'",),
        xml(thing(corners=("left", 1, 9, 9))),
    ),
    Case("endless size", PATCHES, (f"{XML}size: at most 1,000,000 pixels, got 1e+09",), xml(size=size_of(10**9, 48))),
    Case(
        "XML that is cut off",
        PATCHES,
        (f"{XML}not valid XML: no element found",),
        write("data/tiny/Annotations/q0.xml", "<annotation><object>"),
    ),
    Case(
        "XML of something else",
        PATCHES,
        (f"{XML}no annotation: expected <annotation> at the top, got <html>",),
        write("data/tiny/Annotations/q0.xml", "<html/>"),
    ),
    Case(
        "billion laughs",
        PATCHES,
        (f"{XML}refused: EntitiesForbidden (entities are not allowed)",),
        xml(thing("&a29;"), before=LAUGHS),
    ),
    Case(
        "external entity",
        PATCHES,
        (f"{XML}refused: EntitiesForbidden",),
        xml(thing("&f;"), before='<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/hostname">]>'),
    ),
    Case("no annotation", PATCHES, ("q0: no annotation Annotations/q0.xml",), remove("data/tiny/Annotations/q0.xml")),
    Case("annotation that is a folder", PATCHES, (f"{XML}Is a directory",), folder_for("data/tiny/Annotations/q0.xml")),
    Case(
        "file for the folder of annotations",
        PATCHES,
        ("q0: no annotation Annotations/q0.xml", "4 problem(s)"),
        file_for("data/tiny/Annotations"),
    ),
]

LIST = "data/tiny/ImageSets/Main/val.txt"
LISTS = [
    Case("id twice", PATCHES, (f"{LIST}: 1 problem", "'q0': listed twice"), ids("q0\nq1\nq0\n")),
    Case("id that climbs", PATCHES, (f"{LIST}: 1 problem", "'../q0': not the name of a picture"), ids("q1\n../q0\n")),
    Case("absolute id", PATCHES, (f"{LIST}: ", "'/etc/passwd': not the name of a picture"), ids("/etc/passwd\n")),
    Case("id with NUL", PATCHES, (f"{LIST}: ", r"'q\x000': not the name of a picture"), ids("q\0" + "0\n")),
    Case(
        "id with a line end inside",
        PATCHES,
        ("q: no picture JPEGImages/q.jpg",),
        ids("q1\nq\x0b2q\n".replace("2q", "q2")),
    ),
    Case("endless id", PATCHES, (f"{LIST}: ", "'aaaa", "not the name of a picture"), ids("a" * 300)),
    Case("empty list", PATCHES, (f"{LIST}: ", "the list is empty"), ids(" \n")),
    Case("list that is no text", PATCHES, (f"{LIST}: not a text file",), ids(b"\xff\xfe\0a")),
    Case("no list", PATCHES, (f"{LIST}: id list not found",), remove(LIST)),
    Case("list that is a folder", PATCHES, (f"{LIST}: the id list cannot be read: Is a directory",), folder_for(LIST)),
    Case(
        "label that is none of -1, 0, 1",
        PATCHES,
        ("ball_val.txt line 1: expected 'id -1|0|1', got 'q0 2'", "crate_val.txt: missing, other classes have theirs"),
        write("data/tiny/ImageSets/Main/ball_val.txt", "q0 2\n"),
    ),
]

FOLDERS = [
    Case(
        "results below a file",
        f"evaluate --dataset tiny {CONFIG} --results file/below",
        ("file/below/scores", "pipeline score"),
        write("file", ""),
    ),
    Case(
        "cache below a file",
        f"{PATCHES} --cache file/below",
        ("file", "a file is where a folder is needed"),
        write("file", ""),
    ),
    Case(
        "output below a file",
        f"evaluate --dataset tiny {CONFIG} --output file/map.json",
        ("file", "a file is where a folder is needed"),
        write("file", ""),
    ),
    Case(
        "cache of an endless name",
        f"{PATCHES} --cache {'a' * 300}",
        ("aaaa", "File name too long; choose a shorter name"),
    ),
    Case(
        "no pictures' folder",
        "data new --root bare --name bare",
        ("bare: no such folder", "--root names the folder of the pictures"),
    ),
    Case("name that is taken", "data new --root data/tiny --name tiny", ("tiny.yaml: exists already", "--overwrite")),
    Case(
        "negative seed of splits",
        "data new --root data/tiny --name more --seed -1",
        ("--seed", "-1 is not in the range"),
    ),
    Case(
        "class that becomes a path",
        "data new --root data/tiny --name more",
        ("Annotations/q0.xml: class 'a/b'", "no '/'"),
        xml(thing("a/b")),
    ),
    Case("no class folders", "pretrain --train none --val none --out out", ("none: no such folder", "class folders")),
    Case(
        "negative threads of pretraining",
        "pretrain --train none --val none --out out --threads -1",
        ("--threads", "-1 is not in the range"),
    ),
]

PICTURE = ("evil/JPEGImages/a.jpg", FILE, "")
ARCHIVES = [
    Case(
        "archive that climbs",
        FETCH,
        ("a.tar: refused, nothing unpacked", "../../x: path with '..'"),
        archive(PICTURE, ("../../x", FILE, "")),
    ),
    Case(
        "archive with an absolute path",
        FETCH,
        ("a.tar: refused", "/tmp/x: absolute path"),
        archive(PICTURE, ("/tmp/x", FILE, "")),
    ),
    Case(
        "archive with a link",
        FETCH,
        ("a.tar: refused", "evil/out: link to ../.."),
        archive(PICTURE, ("evil/out", LINK, "../..")),
    ),
    Case(
        "archive with a hard link",
        FETCH,
        ("a.tar: refused", "evil/out: link to /etc/passwd"),
        archive(PICTURE, ("evil/out", HARD, "/etc/passwd")),
    ),
    Case(
        "archive with a device",
        FETCH,
        ("a.tar: refused", "evil/null: a device or pipe"),
        archive(PICTURE, ("evil/null", DEVICE, "")),
    ),
    Case(
        "archive with a pipe",
        FETCH,
        ("a.tar: refused", "evil/pipe: a device or pipe"),
        archive(PICTURE, ("evil/pipe", PIPE, "")),
    ),
    Case(
        "archive of another digest",
        FETCH,
        ("wrong MD5 digest, got ", f"expected {'0' * 32}", "set aside as data/downloads/a.tar.wrong"),
        archive(PICTURE, md5="0" * 32),
    ),
    Case(
        "archive of other folders",
        FETCH,
        ("a.tar: expected ", "evil/JPEGImages in it"),
        archive(("other/a.jpg", FILE, "")),
    ),
    Case(
        "archive in which a file is a folder, too",
        FETCH,
        ("a.tar: cannot be unpacked",),
        archive(PICTURE, ("evil/JPEGImages/a.jpg/b", FILE, "")),
    ),
]

ORDER = [
    Case(
        "fitting before extraction",
        f"fit-head --dataset tiny --layer fc6 {CONFIG}",
        ("tiny train: no activations of trunk 'random'", "pipeline extract --dataset tiny --split train"),
    ),
    Case(
        "scoring before fitting",
        f"score --dataset tiny --head fca2 {CONFIG}",
        ("no such head; make it with: pipeline fit-head",),
    ),
    Case(
        "evaluating before scoring",
        f"evaluate --dataset tiny --head fca2 {CONFIG}",
        ("no such scores; make them with: pipeline score",),
    ),
    Case(
        "evaluating a split without scores",
        f"evaluate --dataset tiny --split test {CONFIG}",
        ("tiny-test-fca", "no such scores; make them with: pipeline score"),
    ),
    Case(
        "recipe that joins itself",
        f"recipe run both --dataset tiny {CONFIG}",
        ("recipe 'both' joins itself: both -> both",),
        config(recipes={"both": {"join": ["both", "strong"]}}),
    ),
    Case(
        "pickle as a head",
        f"score --dataset tiny {CONFIG}",
        ("cannot be read as a head", "pipeline fit-head"),
        matching("results/heads/tiny-fca-*.safetensors", PICKLE),
    ),
    Case(
        "scores that are damaged",
        f"evaluate --dataset tiny {CONFIG}",
        (".h5: damaged", "pipeline score"),
        matching("results/scores/tiny-val-fca-*.h5", b"x"),
    ),
    Case(
        "receipt that is damaged",
        f"score --dataset tiny {CONFIG}",
        ("missing or damaged receipt", "pipeline extract"),
        matching("cache/receipts/tiny-val-*.json", b"[]"),
    ),
    Case("showing what is not there", "show none.json", ("none.json: cannot be read as a result",)),
    Case("showing what is no JSON", "show config.yaml", ("config.yaml: cannot be read as a result",)),
    Case(
        "showing what is no result",
        "show r.json",
        ("r.json: not a result", "expected one of recipes, rows, mAP"),
        write("r.json", "[1]"),
    ),
    Case(
        "showing half a result",
        "show r.json",
        ("r.json: not a result of this program",),
        write("r.json", json.dumps({"mAP": 0.5})),
    ),
]

CASES = NAMES + SETTINGS + MANIFESTS + WEIGHTS + PICTURES + ANNOTATIONS + LISTS + FOLDERS + ARCHIVES + ORDER


def test_the_list_is_long_and_names_are_unique():
    assert len(CASES) >= 100
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_a_message_and_exit_2(run, work, case):
    case.make(work)

    ended = run(case.command)

    assert ended.code == 2, ended
    for fragment in case.says:
        assert fragment in ended.err
    assert re.search("^(error|Usage): ", ended.err, re.M), ended.err
    assert ended.out.count("\n") <= 4  # what 'data check' counted
    assert "Traceback" not in ended.err
    assert len(ended.err) < 5000
    assert not (work / "unpickled").exists()
