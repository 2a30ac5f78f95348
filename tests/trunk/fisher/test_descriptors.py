"""Dense descriptors against loops that say the same slowly, and what they must not notice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.trunk.fisher.descriptors import (
    CELL_PX,
    CELLS,
    CHANNELS,
    FAINT,
    GREY,
    ORIENTATIONS,
    SCALES,
    SPAN_PX,
    STEP_PX,
    colour_descriptors,
    describe,
    orientation_maps,
    shape_descriptors,
)


def smooth_noise(px=48, seed=0):
    """A picture without repetition whose gradients point everywhere: Tensor (3, px, px) of 0..1."""
    coarse = torch.rand(1, 3, px // 4, px // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (px, px), mode="bicubic")[0].clamp(0, 1)


def tent():
    """Weights of the pixels of one cell along one axis."""
    return np.array([CELL_PX - abs(i - (CELL_PX - 1)) for i in range(2 * CELL_PX - 1)]) / CELL_PX**2


def cells_of(plane, left, top):
    """Weighted means over the 4 x 4 cells of the square at (left, top) of one plane: (4, 4)."""
    weights, out = np.outer(tent(), tent()), np.zeros((CELLS, CELLS))
    for row in range(CELLS):
        for column in range(CELLS):
            y, x = top + row * CELL_PX, left + column * CELL_PX
            out[row, column] = (plane[y : y + len(weights), x : x + len(weights)] * weights).sum()
    return out


def slow_shape(picture, left, top):
    grey = np.tensordot(GREY, picture, 1)
    padded = np.pad(grey, 1, mode="edge")
    planes = np.zeros((ORIENTATIONS, *grey.shape))
    for y in range(grey.shape[0]):
        for x in range(grey.shape[1]):
            dx = (padded[y + 1, x + 2] - padded[y + 1, x]) / 2
            dy = (padded[y + 2, x + 1] - padded[y, x + 1]) / 2
            turns = math.atan2(dy, dx) % (2 * math.pi) / (2 * math.pi) * ORIENTATIONS
            low = math.floor(turns)
            planes[low % ORIENTATIONS, y, x] += math.hypot(dx, dy) * (1 - turns + low)
            planes[(low + 1) % ORIENTATIONS, y, x] += math.hypot(dx, dy) * (turns - low)
    values = np.stack([cells_of(plane, left, top) for plane in planes]).ravel()
    return np.sqrt(values / (values.sum() + FAINT / 255 * CELLS**2))


def slow_colour(picture, left, top):
    means = np.stack([cells_of(plane, left, top) for plane in picture])
    squares = np.stack([cells_of(plane**2, left, top) for plane in picture])
    return np.concatenate([means, np.sqrt(np.maximum(squares - means**2, 0))]).ravel()


KINDS = {"shape": (shape_descriptors, slow_shape), "colour": (colour_descriptors, slow_colour)}


@pytest.mark.parametrize("kind", KINDS)
def test_descriptors_are_those_of_the_loops(kind):
    fast, slow = KINDS[kind]
    picture = smooth_noise()
    rows = fast(picture).reshape(-1, CHANNELS[kind])
    per_side = (48 - SPAN_PX) // STEP_PX + 1
    assert len(rows) == per_side**2
    for row, column in ((0, 0), (0, 3), (2, 1), (per_side - 1, per_side - 1)):
        expected = slow(picture.double().numpy(), column * STEP_PX, row * STEP_PX)
        assert expected.std() > 0.02
        assert np.allclose(rows[row * per_side + column].numpy(), expected, atol=2e-4)


def test_orientations_share_out_the_gradient():
    grey = smooth_noise()[0]
    maps = orientation_maps(grey)
    dy, dx = np.gradient(grey.numpy())
    inside = np.s_[1:-1, 1:-1]
    assert np.allclose(maps.sum(0).numpy()[inside], np.hypot(dx, dy)[inside], atol=1e-6)
    assert ((maps > 1e-7).sum(0) <= 2).all()


@pytest.mark.parametrize("direction", range(2 * ORIENTATIONS))
def test_a_slope_lies_in_its_direction(direction):
    angle = direction * math.pi / ORIENTATIONS
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    centre = orientation_maps(0.01 * (x * math.cos(angle) + y * math.sin(angle)))[:, 4, 4] / 0.01
    expected = torch.zeros(ORIENTATIONS)
    expected[direction // 2] += 0.5
    expected[(direction + 1) // 2 % ORIENTATIONS] += 0.5
    assert torch.allclose(centre, expected, atol=1e-4)


def test_a_flat_picture_has_colour_and_no_shape():
    rows, _ = describe(torch.tensor([0.2, 0.4, 0.9])[:, None, None].expand(3, 64, 64).contiguous())
    assert rows["shape"].max() < 1e-3  # of rounding, when it is rescaled
    means, deviations = rows["colour"].reshape(-1, 2, 3, CELLS**2).unbind(1)
    assert torch.allclose(means, torch.tensor([0.2, 0.4, 0.9])[:, None].expand_as(means), atol=1e-6)
    assert deviations.max() < 2e-3


def test_shape_hardly_depends_on_light():
    picture = smooth_noise()
    bright, dark = shape_descriptors(picture), shape_descriptors(0.3 * picture + 0.1)
    assert (bright - dark).norm(dim=1).max() < 0.2 * bright.norm(dim=1).min()
    assert (colour_descriptors(picture) - colour_descriptors(0.3 * picture + 0.1)).norm(dim=1).min() > 0.1


def test_places_are_those_of_the_squares():
    picture = torch.zeros(3, 64, 80)
    rows, places = describe(picture)
    assert len(rows["shape"]) == len(rows["colour"]) == len(places)
    assert places.abs().max() < 0.5
    assert torch.allclose(places[0], torch.tensor([SPAN_PX / 2 / 80 - 0.5, SPAN_PX / 2 / 64 - 0.5]))
    # Where the one spot of a dark picture is, there are the descriptors that see it.
    picture[:, 40:42, 60:62] = 1
    rows, places = describe(picture)
    seen = places[rows["colour"].sum(1) > 0]
    reach = (SPAN_PX / 2 + 2) / (min(SCALES) * 80)
    assert 0 < len(seen) < len(places)
    assert ((seen - torch.tensor([61 / 80 - 0.5, 41 / 64 - 0.5])).abs().max(0).values < reach * 1.3).all()


def test_a_shift_moves_descriptors_and_changes_none():
    picture = smooth_noise(64)
    for kind, (fast, _) in KINDS.items():
        whole = fast(picture[:, :, :-STEP_PX])
        shifted = fast(picture[:, :, STEP_PX:])
        rows = (64 - SPAN_PX) // STEP_PX + 1
        grid = [values.reshape(rows, -1, CHANNELS[kind]) for values in (whole, shifted)]
        # The outermost pixels have no neighbour on one side.
        assert torch.allclose(grid[0][1:-1, 2:-1], grid[1][1:-1, 1:-2], atol=1e-5), kind
