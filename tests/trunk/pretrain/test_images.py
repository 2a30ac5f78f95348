"""Pictures of class folders are decoded as those of datasets are."""

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset.picture import decode_picture
from pipeline.io.errors import BadPictureError
from pipeline.trunk.pretrain.images import decode_class_folders, decode_square

PX = 16


def noise(size_wh: tuple[int, int] = (40, 24)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "ppm"])
@pytest.mark.parametrize("size_wh", [(40, 24), (24, 40), (PX, PX), (7, 9)])
def test_ordinary_pictures_are_what_pillow_makes_of_them(tmp_path, suffix, size_wh):
    noise(size_wh).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        expected = opened.convert("RGB")
    scale = PX / min(expected.size)
    if scale != 1:
        sides = (max(PX, round(side * scale)) for side in expected.size)
        expected = expected.resize(tuple(sides), Image.Resampling.BILINEAR)
    left, top = (expected.width - PX) // 2, (expected.height - PX) // 2

    assert np.array_equal(decode_square(tmp_path / f"a.{suffix}", PX), expected.crop((left, top, left + PX, top + PX)))


def test_sixteen_bits_and_transparency_are_decoded_as_everywhere(tmp_path):
    Image.fromarray(np.full((PX, PX), 25700, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (PX, PX), (0, 0, 0, 128)).save(tmp_path / "clear.png")

    assert (decode_square(tmp_path / "deep.png", PX) == 100).all()  # not clipped to white
    assert (decode_square(tmp_path / "clear.png", PX) == 127).all()  # on white


def test_pictures_are_read_as_they_are_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise((PX, PX)).save(tmp_path / "turned.png", exif=exif)

    stored = decode_picture((tmp_path / "turned.png").read_bytes(), apply_exif=False)
    turned = decode_picture((tmp_path / "turned.png").read_bytes(), apply_exif=True)

    assert np.array_equal(decode_square(tmp_path / "turned.png", PX), turned)
    assert not np.array_equal(stored, turned)


def test_a_bad_picture_is_named_with_its_place(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")

    with pytest.raises(BadPictureError, match=r"a\.png: cannot be decoded: expected JPEG, .*PPM"):
        decode_square(tmp_path / "a.png", PX)


def test_an_unreadable_picture_is_listed_with_the_others(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        noise().save(tmp_path / name / "0.png")
    (tmp_path / "a/1.png").symlink_to("none.png")

    with pytest.raises(ValueError, match=r"1 of 3 pictures cannot be decoded\n.*a/1.png: No such file"):
        decode_class_folders(tmp_path, PX)


def test_hidden_files_and_folders_are_no_pictures_and_every_format_is_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k, suffix in enumerate((".png", ".tif", ".gif", ".jfif")):
            noise((PX, PX)).save(tmp_path / name / f"{k}{suffix}", format="JPEG" if suffix == ".jfif" else None)
        (tmp_path / name / "._0.png").write_bytes(b"of a Mac")
    (tmp_path / ".cache").mkdir()

    read = decode_class_folders(tmp_path, PX)

    assert read.classes == ("a", "b") and len(read.labels) == 8
