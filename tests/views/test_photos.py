"""Large pictures are shown and mapped at the size of a page; their rows are those of the whole picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.activations.cutting import cut_patches
from pipeline.activations.prefetch import rescale_image
from pipeline.dataset.picture import decode_image, decode_picture
from pipeline.patches.grid import grid_windows
from pipeline.patches.settings import GridSettings
from pipeline.scoring.heat_maps import heat_maps
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.views import photos

GRID = GridSettings(scales=(1.0, 1.6, 3.0), overlap=0.6)


def draw(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("size_wh", "shrunk_wh"), [((640, 480), (160, 120)), ((331, 500), (106, 160)), ((90, 40), None)]
)
def test_a_map_at_display_size_is_the_full_one_shrunk(monkeypatch, size_wh, shrunk_wh):
    monkeypatch.setattr(photos, "DISPLAY_PX", 160)
    pixels = photos.shrink_for_display(draw(*size_wh))
    map_wh = (pixels.shape[1], pixels.shape[0])
    assert map_wh == (shrunk_wh or size_wh)
    boxes, _ = grid_windows(*size_wh, GRID)
    scores = np.random.default_rng(1).random((len(boxes), 3))
    small = heat_maps(boxes, scores, size_wh, map_wh=map_wh)
    full = heat_maps(boxes, scores, size_wh)
    # Each value is that of the full map at the centre of the pixel, bit for bit.
    x, y = (np.floor((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(map_wh, size_wh, strict=True))
    at_centres = full[:, y[:, None], x]
    edges = np.unique(boxes)
    inside = ~np.isin((np.arange(map_wh[0]) + 0.5) * size_wh[0] / map_wh[0] // 1, np.floor(edges))
    assert np.array_equal(small[:, :, inside], at_centres[:, :, inside]) or not inside.any()
    # Shrunk by area, the full map differs by no more than a map varies over a pixel of the small one.
    if shrunk_wh is not None:
        by_area = np.stack([Image.fromarray(m).resize(map_wh, Image.Resampling.BOX) for m in full])
        assert np.abs(by_area - small).mean() < 0.005 and np.abs(by_area - small).max() < 0.1


def test_windows_of_a_photo_are_those_of_a_split():
    runner = TrunkRunner(load_trunk("random", "pool5"), torch.device("cpu"), "fp32")
    image = draw(500, 340)
    boxes, scale = grid_windows(*image.size, GRID)
    boxes = boxes.astype(np.float32)
    cut = []
    for pixels, x, y in rescale_image(image, boxes, scale, runner):
        cut += [pixels.numpy()[top : top + 64, left : left + 64] for left, top in zip(x, y, strict=True)]
    assert np.array_equal(np.stack(cut), cut_patches(np.asarray(image), boxes, scale, "grid", 64))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P"])
def test_an_image_has_the_pixels_of_the_array(mode):
    stream = io.BytesIO()
    draw(40, 28).convert(mode).save(stream, "TIFF")
    image = decode_image(stream.getvalue(), apply_exif=True)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), decode_picture(stream.getvalue(), apply_exif=True))
