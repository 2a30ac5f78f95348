"""A picture is decoded once for all tables; a memory that cannot be used costs time alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset import decode_memory
from pipeline.dataset.decode_memory import DecodeMemory
from pipeline.dataset.picture import PictureFacts, decode_annotated, examine_picture
from pipeline.io.digests import DigestMemory, sha256_bytes
from pipeline.io.errors import BadPictureError


def encode(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8), "JPEG", exif=exif)


PICTURES = {
    "noise": encode(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)),
    "constant": encode(np.full((12, 16, 3), 7, np.uint8)),
    "numbers": encode(np.linspace(0, 1, 192, dtype=np.float32).reshape(12, 16), "TIFF"),
    **{f"turned {n}": turned(n) for n in (1, 3, 6, 8)},
}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cache/file-digests.sqlite"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the pictures that were decoded."""
    names: list[str] = []

    def examine(data: bytes, name: str) -> PictureFacts:
        names.append(name)
        return examine_picture(data, name)

    monkeypatch.setattr(decode_memory, "examine_picture", examine)
    return names


def examine_all(path: Path | None) -> dict[str, PictureFacts]:
    with DecodeMemory(path) as memory:
        return {name: memory.examine(sha256_bytes(data), data, name) for name, data in PICTURES.items()}


def test_facts_are_those_of_a_decoding_and_each_picture_is_decoded_once(path, decoded):
    first, second = examine_all(path), examine_all(path)
    assert first == second == {name: examine_picture(data) for name, data in PICTURES.items()}
    assert decoded == list(PICTURES)


@pytest.mark.parametrize("apply_exif", [False, True])
@pytest.mark.parametrize("name", PICTURES)
def test_facts_are_those_of_the_whole_decoder(name, apply_exif):
    whole = decode_annotated(PICTURES[name], None, otherwise=apply_exif)
    facts = examine_picture(PICTURES[name])
    assert facts.size_wh(whole.apply_exif) == whole.pixels.shape[1::-1]
    assert (facts.orientation, facts.from_numbers) == (whole.orientation, whole.from_numbers)


def test_another_version_of_the_decoder_decodes_again(path, decoded, monkeypatch):
    examine_all(path)
    monkeypatch.setattr(decode_memory, "DECODED_BY", "another")
    examine_all(path)
    assert len(decoded) == 2 * len(PICTURES)


@pytest.mark.parametrize("damage", ["not a database", "a folder", "no file"])
def test_a_memory_that_cannot_be_used_costs_time_alone(path, decoded, damage):
    path.parent.mkdir()
    if damage == "not a database":
        path.write_bytes(b"x" * 5000)
    elif damage == "a folder":
        path.mkdir()
    first, second = (examine_all(None if damage == "no file" else path) for _ in range(2))
    assert first == second and len(decoded) == 2 * len(PICTURES)


def test_it_shares_its_file_with_the_memory_of_digests(path, tmp_path, decoded):
    file = tmp_path / "a.png"
    file.write_bytes(PICTURES["noise"])
    examine_all(path)
    assert DigestMemory(path).digests([file]) == [sha256_bytes(PICTURES["noise"])]
    DigestMemory(path).forget()
    examine_all(path)
    assert len(decoded) == len(PICTURES)


def test_a_bad_picture_is_not_remembered(path):
    for _ in range(2):
        with DecodeMemory(path) as memory, pytest.raises(BadPictureError):
            memory.examine("0" * 64, b"GIF89a", "a")
