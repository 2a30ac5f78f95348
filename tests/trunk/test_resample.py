"""Pillow's resize in torch's integers, against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.trunk import resample
from pipeline.trunk.resample import FILTERS, equals_pillow, resize, resize_weights

SIDES = st.integers(1, 160)


def by_pillow(pixels: np.ndarray, size_wh: tuple[int, int], interpolation: str) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size_wh, Image.Resampling[interpolation.upper()]))


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(sorted(FILTERS)), st.integers(0, 2**32 - 1))
def test_every_bit_is_pillows(before_wh, after_wh, interpolation, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (before_wh[1], before_wh[0], 3), np.uint8)
    found = resize(torch.from_numpy(pixels), after_wh, interpolation)
    assert (found.dtype, found.shape) == (torch.uint8, (after_wh[1], after_wh[0], 3))
    assert np.array_equal(found.numpy(), by_pillow(pixels, after_wh, interpolation))


@pytest.mark.parametrize("interpolation", FILTERS)
def test_sharp_edges_neither_overflow_nor_wrap_around(interpolation):
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[10:20, ::2] = 255
    for size_wh in ((64, 90), (13, 11), (40, 30)):
        found = resize(torch.from_numpy(pixels), size_wh, interpolation)
        assert np.array_equal(found.numpy(), by_pillow(pixels, size_wh, interpolation))


def test_weights_of_a_doubled_row():
    index, weight = resize_weights(3, 6, "bilinear")
    assert index.tolist() == [[0, 1], [0, 1], [0, 1], [1, 2], [1, 2], [2, 2]]
    assert (weight / 2**22).tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0.75, 0.25], [0.25, 0.75], [1, 0]]


def test_another_pillow_is_noticed(monkeypatch):
    assert equals_pillow("bilinear") and not equals_pillow("nearest")
    equals_pillow.cache_clear()
    monkeypatch.setattr(resample, "height_is_first", lambda size_wh, new_wh: False)
    assert not equals_pillow("bilinear")
    equals_pillow.cache_clear()
