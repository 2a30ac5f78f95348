"""Decoding: every kind of file becomes 8-bit RGB, or is refused by name."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.dataset import picture, picture_formats
from pipeline.dataset.picture import decode_annotated, decode_picture, orientation_of_file, picture_size
from pipeline.io.errors import BadPictureError

WIDTH, HEIGHT = 12, 8


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def turned_jpeg(orientation: int, size_wh: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """A picture whose stored left half is white, with an EXIF orientation."""
    image = Image.new("RGB", size_wh, "black")
    image.paste("white", (0, 0, size_wh[0] // 2, size_wh[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "JPEG", exif=exif, quality=95)


def palette_image() -> Image.Image:
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return image


SIXTEEN_BIT = Image.fromarray(np.full((HEIGHT, WIDTH), 25700, np.uint16))
CASES = {
    "RGB": (encode(Image.new("RGB", (WIDTH, HEIGHT), (200, 100, 50))), (200, 100, 50)),
    "greyscale": (encode(Image.new("L", (WIDTH, HEIGHT), 77)), (77, 77, 77)),
    "greyscale JPEG": (encode(Image.new("L", (WIDTH, HEIGHT), 77), "JPEG"), (77, 77, 77)),
    "one bit": (encode(Image.new("1", (WIDTH, HEIGHT), 1)), (255, 255, 255)),
    "palette": (encode(palette_image()), (200, 100, 50)),
    "palette, transparent": (encode(palette_image(), transparency=1), (255, 255, 255)),
    "half transparent on white": (
        encode(Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 128))),
        (127, 127, 127),
    ),
    "16 bit PNG, not clipped to white": (encode(SIXTEEN_BIT), (100, 100, 100)),
    "16 bit TIFF": (encode(SIXTEEN_BIT, "TIFF"), (100, 100, 100)),
    "CMYK JPEG": (
        encode(Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)), "JPEG", quality=95),
        (255, 0, 0),
    ),
}


@pytest.mark.parametrize(("data", "colour"), CASES.values(), ids=CASES.keys())
def test_every_kind_of_file_becomes_8_bit_rgb(data, colour):
    pixels = decode_picture(data, apply_exif=False)

    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= 2


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
JPEG, PNG = encode(NOISE, "JPEG"), encode(NOISE)
BAD = {
    "empty": (b"", "the file is empty"),
    "no picture": (b"GIF is what this text only talks of", "cannot be decoded"),
    "html instead of a picture": (b"<html><body>404</body></html>", "cannot be decoded"),
    "JPEG cut in half": (JPEG[: len(JPEG) // 2], "cannot be decoded: image file is truncated"),
    "PNG cut in half": (PNG[: len(PNG) // 2], "cannot be decoded"),
    "header only": (JPEG[:20], "cannot be decoded"),
}


@pytest.mark.parametrize("apply_exif", [False, True])
@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD.keys())
def test_files_that_cannot_be_decoded_are_named(data, message, apply_exif):
    with pytest.raises(BadPictureError, match=message) as caught:
        decode_picture(data, apply_exif, name="JPEGImages/a.jpg")

    assert str(caught.value).startswith("JPEGImages/a.jpg: ")


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(picture, "MAX_PIXELS", 95)

    with pytest.raises(BadPictureError, match="big: 12 x 8 pixels, at most 95 are decoded"):
        decode_picture(CASES["RGB"][0], False, "big")


def test_a_machine_out_of_memory_is_not_blamed_on_the_picture(monkeypatch):
    def run_out(image):
        raise MemoryError

    monkeypatch.setattr(picture, "to_rgb", run_out)

    with pytest.raises(MemoryError):
        decode_picture(CASES["RGB"][0], False)


def test_exif_orientation_is_applied_only_if_asked():
    data = turned_jpeg(6)  # to be shown turned a quarter clockwise: stored left is shown above

    stored, shown = decode_picture(data, apply_exif=False), decode_picture(data, apply_exif=True)

    assert (stored.shape, shown.shape) == ((8, 12, 3), (12, 8, 3))
    assert stored[:, :5].min() > 230 and stored[:, 7:].max() < 25
    assert shown[:5].min() > 230 and shown[7:].max() < 25


@pytest.mark.parametrize(
    ("orientation", "size_wh", "expect_wh", "turned"),
    [
        pytest.param(1, (12, 8), (12, 8), False, id="not turned"),
        pytest.param(6, (12, 8), (12, 8), False, id="boxes on the stored pixels"),
        pytest.param(6, (8, 12), (8, 12), True, id="boxes on the turned picture"),
        pytest.param(8, (8, 12), (8, 12), True, id="turned the other way"),
    ],
)
def test_the_size_in_the_annotation_tells_which_way_round(orientation, size_wh, expect_wh, turned):
    decoded = decode_annotated(turned_jpeg(orientation), size_wh)

    assert (decoded.pixels.shape[1], decoded.pixels.shape[0]) == expect_wh
    assert (decoded.apply_exif, decoded.is_told, decoded.orientation) == (turned, True, orientation)


@pytest.mark.parametrize("otherwise", [True, False])
@pytest.mark.parametrize(
    ("orientation", "stored_wh", "size_wh"),
    [
        pytest.param(3, (12, 8), (12, 8), id="upside down: both fit"),
        pytest.param(2, (12, 8), (12, 8), id="mirrored: both fit"),
        pytest.param(6, (12, 8), None, id="no size"),
        pytest.param(6, (8, 8), (8, 8), id="a square"),
    ],
)
def test_where_the_annotation_does_not_tell_the_caller_decides(orientation, stored_wh, size_wh, otherwise):
    decoded = decode_annotated(turned_jpeg(orientation, stored_wh), size_wh, otherwise=otherwise)

    assert (decoded.apply_exif, decoded.is_told) == (otherwise, False)
    assert np.array_equal(decoded.pixels, decode_picture(turned_jpeg(orientation, stored_wh), apply_exif=otherwise))


@pytest.mark.parametrize(("box", "turned"), [((0, 0, 4, 11), True), ((0, 0, 11, 4), False)])
def test_without_a_size_boxes_tell_if_they_fit_one_way_only(box, turned):
    decoded = decode_annotated(turned_jpeg(6), None, box_xyxy=np.array([box], float))

    assert (decoded.apply_exif, decoded.is_told) == (turned, True)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_size_that_fits_neither_way_is_an_error(orientation):
    with pytest.raises(BadPictureError, match=r"a: the picture is 12 x 8.*, its annotation says 10 x 8"):
        decode_annotated(turned_jpeg(orientation), (10, 8), "a")


def test_a_size_is_read_from_the_header_alone(tmp_path):
    data = turned_jpeg(6)
    (tmp_path / "a.jpg").write_bytes(data[: data.index(b"\xff\xda") + 14])  # the pixels are cut off
    assert picture_size(tmp_path / "a.jpg") == (WIDTH, HEIGHT)

    (tmp_path / "b.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(BadPictureError, match="b.jpg: cannot be decoded: expected JPEG, PNG"):
        picture_size(tmp_path / "b.jpg", "b.jpg")

    os.mkfifo(tmp_path / "c.jpg")
    with pytest.raises(BadPictureError, match="c.jpg: no plain file"):
        picture_size(tmp_path / "c.jpg", "c.jpg")


# ---- numbers instead of grey levels


def number_tiff(values) -> bytes:
    return encode(Image.fromarray(np.asarray(values)), "TIFF")


RAMP = np.linspace(0, 1, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("values", "expect"),
    [
        pytest.param(RAMP.astype(np.float32), RAMP * 255, id="float 0..1"),
        pytest.param((RAMP * 255).astype(np.float32), RAMP * 255, id="float 0..255"),
        pytest.param((RAMP * 255).astype(np.int32), (RAMP * 255).astype(int), id="int32 0..255"),
        pytest.param(np.full((HEIGHT, WIDTH), 1, np.int32), np.ones((HEIGHT, WIDTH)), id="int32 mask, as it is"),
    ],
)
def test_floating_point_and_32_bit_values_are_scaled_by_a_stated_rule(values, expect):
    decoded = decode_annotated(number_tiff(values), None)

    assert decoded.from_numbers
    assert np.abs(decoded.pixels.astype(float) - expect[..., None]).max() <= 0.51


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param(
            RAMP.astype(np.float32) * 4095, "floating-point grey values from 0.0 to 4095.0: which", id="12 bits"
        ),
        pytest.param(RAMP.astype(np.float32) - 0.5, "floating-point grey values from -0.5 to 0.5", id="negative"),
        pytest.param((RAMP * 70000).astype(np.int32), "32-bit grey values from 0.0 to 70000.0", id="int32"),
        pytest.param(np.full((HEIGHT, WIDTH), np.nan, np.float32), "grey values that are not finite", id="nan"),
    ],
)
def test_values_of_another_range_are_refused_with_the_way_out(values, message):
    with pytest.raises(BadPictureError, match=message) as caught:
        decode_picture(number_tiff(values), False)

    assert "save 8 bits" in str(caught.value)


def test_pictures_that_show_next_to_nothing():
    dark = np.random.default_rng(0).integers(0, 8, (200, 300, 3), np.uint8)
    dotted = np.zeros((200, 300, 3), np.uint8)
    dotted[::2, ::2] = 255

    assert picture.is_nearly_constant(dark) and picture.is_nearly_constant(np.full((5, 5, 3), 200, np.uint8))
    assert not picture.is_nearly_constant(dotted) and not picture.is_nearly_constant(np.asarray(NOISE))


# ---- more formats


def frames(form: str, **options) -> bytes:
    images = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ((200, 100, 50), "blue")]
    return encode(images[0], form, save_all=True, append_images=images[1:], **options)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "AVIF", "TIFF"])
def test_of_several_frames_the_first_is_read(form):
    feature = picture_formats.OPTIONAL_FORMATS.get(form)
    if feature is not None and not picture_formats.features.check(feature):
        pytest.skip(f"Pillow without {form}")

    pixels = decode_picture(frames(form), False)

    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 8


@pytest.mark.parametrize("form", ["WEBP", "AVIF"])
def test_a_format_that_pillow_was_built_without_is_named(form, monkeypatch):
    def refuse(*args, **more):
        raise picture.UnidentifiedImageError

    monkeypatch.setattr(picture.Image, "open", refuse)
    monkeypatch.setattr(picture_formats.features, "check", lambda name: False)
    data = {"WEBP": b"RIFF\0\0\0\0WEBPVP8 ", "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0"}[form]

    with pytest.raises(BadPictureError, match=f"a {form} file, and this Pillow was built without {form}; install"):
        decode_picture(data, False)


@pytest.mark.parametrize("kind", ["text", "international text", "profile", "both"])
def test_large_texts_and_profiles_do_not_refuse_a_sound_png(kind, tmp_path):
    info = PngInfo()
    if kind in ("text", "both"):
        info.add_text("comment", "x" * 3_000_000, zip=True)
    if kind == "international text":
        info.add_itxt("comment", "é" * 3_000_000, zip=True)
    profile = {"icc_profile": bytes(3_000_000)} if kind in ("profile", "both") else {}
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(NOISE, "PNG", pnginfo=info, exif=exif, **profile)

    assert np.array_equal(decode_picture(data, False), np.asarray(NOISE))
    assert np.array_equal(decode_picture(data, True), np.rot90(np.asarray(NOISE), -1))  # its EXIF is kept
    (tmp_path / "a.png").write_bytes(data)
    assert picture_size(tmp_path / "a.png") == NOISE.size


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pictures_of_several_strips_are_those_of_one(mode):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 256, (700, 30, {"RGBA": 4, "LA": 2, "P": 3}[mode]), np.uint8)
    if mode == "P":
        image, options = Image.fromarray(values).quantize(16), {"transparency": 5}
    else:
        image, options = Image.fromarray(values, mode if mode == "LA" else None), {}
    data = encode(image, **options)
    with Image.open(io.BytesIO(data)) as opened:
        whole = opened.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", whole.size, (255, 255, 255, 255)), whole).convert("RGB")
    assert np.array_equal(np.asarray(decode_picture(data, False)), np.asarray(expected))


# ---- what is met in place of pictures


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC file, which is not read: convert it to JPEG or PNG"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0", "a HEIC file"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 file"),
        (b"\xff\x0a\0\0", "a JPEG XL file"),
        (b"%PDF-1.4", "a PDF file"),
        (b"<!DOCTYPE html>", "a page in HTML, as servers send"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer without its file: git lfs pull"),
    ],
)
def test_files_of_other_formats_are_named(data, name):
    with pytest.raises(BadPictureError, match=f"the file begins with .*: {name}"):
        decode_picture(data, False)


def test_values_that_are_not_finite_are_named():
    values = np.zeros((9, 9), np.float32)
    values[4, 4] = np.nan

    with pytest.raises(BadPictureError, match="grey values that are not finite: replace NaN"):
        decode_picture(encode(Image.fromarray(values), "TIFF"), False)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_the_header_tells_the_orientation_that_decoding_finds(form, orientation, tmp_path):
    feature = picture_formats.OPTIONAL_FORMATS.get(form)
    if feature is not None and not picture_formats.features.check(feature):
        pytest.skip(f"Pillow without {form}")
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "a.picture"
    file.write_bytes(encode(Image.new("RGB", (64, 48), "red"), form, exif=exif))

    assert orientation_of_file(file, None)[0] == orientation == picture.examine_picture(file.read_bytes()).orientation


def test_an_orientation_behind_the_pixels_of_a_png_is_found(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (64, 48), "red"), "PNG", exif=exif)
    at = data.index(b"eXIf") - 4
    size = 12 + int.from_bytes(data[at : at + 4], "big")
    end = data.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + data[at + size : end] + data[at : at + size] + data[end:])
    (tmp_path / "b.png").write_bytes(data[:at] + data[at + size :])

    assert orientation_of_file(tmp_path / "a.png", None)[0] == 6
    assert orientation_of_file(tmp_path / "b.png", None)[0] == 1


@pytest.mark.parametrize("kind", [np.uint16, np.float32, np.int32])
def test_strips_of_many_bits_are_those_of_the_whole(kind):
    top = {np.uint16: 65535, np.float32: 1.0, np.int32: 255}[kind]
    values = (np.random.default_rng(0).random((600, 7)) * top).astype(kind)
    values[0, 0], values[599, 6] = 0, top  # the range is that of all strips
    whole = np.clip(values.astype(np.float64) * 255 / top + 0.5, 0, 255).astype(np.uint8)

    assert np.array_equal(decode_picture(encode(Image.fromarray(values), "TIFF"), False), np.dstack([whole] * 3))


def test_a_deviation_by_strips_is_that_of_the_whole():
    random = np.random.default_rng(0)
    for contrast in (0, 1, 2, 3, 4, 9):
        pixels = (100 + random.integers(0, contrast + 1, (70, 50, 3))).astype(np.uint8)
        assert picture.is_nearly_constant(pixels) == (pixels.std() < 1)


# ---- memory

LARGE_WH = (3000, 2000)
MEASURE = """
import io, json, sys
from pathlib import Path
from PIL import Image
from pipeline.dataset.picture import decode_image
from pipeline.io.memory import peak_memory, release_memory, resident_memory

def measure(file):
    data = file.read_bytes()
    release_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident_memory()
    width, height = decode_image(data, apply_exif=True).size
    return (peak_memory() - before) / (width * height)

files = sorted(Path(sys.argv[1]).iterdir())
for warm in (True, False):
    grown = {file.name: measure(file) for file in files}
print(json.dumps(grown))
"""


def test_no_format_takes_the_memory_of_four_copies_of_the_pixels(tmp_path):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the system does not tell the peak of a part of a process")
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.linear_gradient("L").resize(LARGE_WH)
    rgb = Image.merge("RGB", (grey, grey.transpose(Image.Transpose.ROTATE_180), grey))
    transparent = Image.merge("RGBA", (*rgb.split(), grey))
    quick = {"compress_level": 1}
    for name, image, options in (
        ("plain.jpg", rgb, {}),
        ("turned.jpg", rgb, {"exif": exif, "progressive": True}),
        ("cmyk.jpg", rgb.convert("CMYK"), {"exif": exif, "progressive": True}),
        ("plain.png", rgb, quick),
        ("transparent.png", transparent, quick),
        ("palette.png", transparent.quantize(16, method=Image.Quantize.FASTOCTREE), quick),
        ("grey16.png", Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), quick),
        ("floats.tif", Image.fromarray(np.asarray(grey) / np.float32(255)), {}),
        ("transparent.webp", transparent, {"method": 0, "exif": exif}),
    ):
        image.save(tmp_path / name, **options)

    ended = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)

    # A pixel of RGB takes 4 bytes in Pillow. At 48 megapixels, 15 bytes are 690 MiB.
    bytes_per_pixel = json.loads(ended.stdout)
    assert len(bytes_per_pixel) == 9 and max(bytes_per_pixel.values()) < 15, bytes_per_pixel
