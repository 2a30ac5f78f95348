"""One photo or two: copies of drawn scenes agree by their pixels, and scenes of the same kind do not."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.dataset.demo.scenes import draw_scene
from pipeline.dataset.same_photo import FLAT, _correlate, grey_picture, match_pictures

ONE_PHOTO = 0.75


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [draw_scene(np.random.default_rng(seed))[0] for seed in range(6)]


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def smaller(image: Image.Image, times: int) -> Image.Image:
    return image.resize((image.width // times, image.height // times))


def cropped(image: Image.Image, wide: float, tall: float, x: float = 0.5, y: float = 0.5) -> Image.Image:
    """A crop of a share of the sides; `x` and `y` say where, 0 to 1."""
    width, height = round(wide * image.width), round(tall * image.height)
    left, top = round(x * (image.width - width)), round(y * (image.height - height))
    return image.crop((left, top, left + width, top + height))


COPIES = {
    "resized": lambda image: smaller(image, 3),
    "compressed": lambda image: compressed(image, 15),
    "grey": lambda image: image.convert("L"),
    "cropped at a corner": lambda image: cropped(image, 0.8, 0.8, 0, 1),
    "cropped at the sides": lambda image: cropped(image, 0.7, 1),
    "cropped and made smaller": lambda image: compressed(smaller(cropped(image, 0.75, 0.75, 0.9, 0.2), 3), 60),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "mirrored and cropped": lambda image: cropped(image, 0.85, 0.85).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_found_in_both_orders(scenes, change):
    for scene in scenes:
        copy = grey_picture(COPIES[change](scene))

        found, back = match_pictures(grey_picture(scene), copy), match_pictures(copy, grey_picture(scene))

        assert found.correlation >= ONE_PHOTO, change
        assert back.correlation == pytest.approx(found.correlation, abs=1e-6)
        assert found.mirrored == change.startswith("mirrored")


def test_scenes_of_the_same_kind_are_not_one_photo(scenes):
    grey = [grey_picture(scene) for scene in scenes]

    highest = max(match_pictures(a, b).correlation for i, a in enumerate(grey) for b in grey[:i])

    assert highest < ONE_PHOTO


def test_pictures_without_detail_agree_by_their_grey_alone():
    def plain(level: int) -> np.ndarray:
        return grey_picture(Image.new("RGB", (80, 60), (level,) * 3))

    sky = np.tile(np.linspace(90, 120, 40, dtype=np.uint8), (30, 1))
    assert match_pictures(plain(200), plain(200)).correlation == 1
    assert match_pictures(plain(200), plain(90)).correlation == 0
    assert match_pictures(sky, sky).correlation == 1 and match_pictures(sky, sky[:, ::-1]).correlation == 0
    striped = np.tile(np.array([0, 255], np.uint8), (30, 20))
    assert match_pictures(plain(127), striped).correlation == 0


def test_one_light_over_other_things_is_not_one_photo():
    """A bright sky over a dark field with a different thing in it: grey levels agree, and the detail does not."""
    rng = np.random.default_rng(0)
    light = np.repeat(np.linspace(240, 60, 30), 40).reshape(30, 40)
    first, second = (np.clip(light + rng.normal(0, 10, light.shape), 0, 255).astype(np.uint8) for _ in range(2))

    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.9
    assert match_pictures(first, second).correlation < 0.5


def slow_correlation(whole: np.ndarray, template: np.ndarray) -> float:
    """Pearson's correlation of each piece, one after the other; pieces without structure are passed over."""
    height, width = template.shape
    best = -1.0
    for y in range(whole.shape[0] - height + 1):
        for x in range(whole.shape[1] - width + 1):
            piece = whole[y : y + height, x : x + width]
            if piece.std() >= FLAT / 2 and template.std() >= FLAT / 2:
                best = max(best, float(np.corrcoef(piece.ravel(), template.ravel())[0, 1]))
    return best


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.tuples(st.integers(2, 9), st.integers(2, 9)))
def test_correlation_as_slowly(seed, size):
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, 256, (9, 10)).astype(np.float32)
    whole[:4] *= rng.integers(0, 2)  # at times a part without structure
    template = rng.integers(0, 256, size).astype(np.float32)

    expected = [slow_correlation(whole, template), slow_correlation(whole, template[:, ::-1])]
    assert _correlate(whole, template) == pytest.approx(expected, abs=1e-5)


def test_longest_and_thinnest_pictures_are_compared():
    rng = np.random.default_rng(0)
    line = Image.fromarray(rng.integers(0, 256, (1, 600, 3), np.uint8))

    assert match_pictures(grey_picture(line), grey_picture(line)).correlation == pytest.approx(1, abs=1e-5)
    assert match_pictures(grey_picture(line), grey_picture(line.rotate(90, expand=True))).correlation < ONE_PHOTO
