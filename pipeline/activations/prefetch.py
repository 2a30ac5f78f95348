"""Pictures of a row plan, decoded and rescaled in threads a few pictures ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from pipeline.activations.cutting import cut_patches, place_windows, rescale, split_scales
from pipeline.activations.row_plan import PlannedPicture, RowPlan
from pipeline.activations.run_log import StageClock
from pipeline.dataset.picture import decode_picture
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import BadPictureError, PipelineError
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.windows import ScaledWindows

MIN_DECODING_THREADS = 2

T = TypeVar("T")


def prefetch_scales(plan: RowPlan, runner: TrunkRunner, clock: StageClock) -> Iterator[ScaledWindows]:
    """Rescale each picture of the plan to each of its scales, on the runner's device, with the windows' corners."""
    px, interpolation = runner.trunk.card.input_px, runner.trunk.card.preprocessing.interpolation

    def rescale_picture(pixels: np.ndarray, rows: slice) -> list[ScaledWindows]:
        with clock.measure("rescale"):
            boxes, scale = plan.box_xyxy[rows], plan.scale[rows]
            if plan.source != "grid":
                flip = None if plan.flip is None else plan.flip[rows]
                patches = cut_patches(pixels, boxes, scale, plan.source, px, flip, interpolation)
                return runner.load_windows([_stack_patches(patches)])
            if runner.rescales(interpolation):
                size_wh = (pixels.shape[1], pixels.shape[0])
                placed = [place_windows(size_wh, boxes[same], px) for same in split_scales(scale)]
                return runner.rescale_windows(pixels, placed)
            image = Image.fromarray(pixels)
            return runner.load_windows([rescale(image, boxes[same], px, interpolation) for same in split_scales(scale)])

    for scales in prefetch_pictures(plan, rescale_picture, clock):
        yield from scales


def _stack_patches(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stack patches (n, px, px, 3) that were rescaled one by one as windows of one picture, which is copied at once."""
    n, px = patches.shape[:2]
    return patches.reshape(n * px, px, 3), np.zeros(n, int), np.arange(n) * px


def rescale_image(
    image: Image.Image, box_xyxy: np.ndarray, scale: np.ndarray, runner: TrunkRunner
) -> list[ScaledWindows]:
    """Rescale one decoded picture to each scale of its grid, as `prefetch_scales` does for the pictures of a plan.

    Parameters
    ----------
    image : of mode RGB
    box_xyxy : float ndarray of shape (n, 4), windows of a grid
    scale : integer ndarray of shape (n,), rising
    """
    px, interpolation = runner.trunk.card.input_px, runner.trunk.card.preprocessing.interpolation
    if runner.rescales(interpolation):
        placed = [place_windows(image.size, box_xyxy[same], px) for same in split_scales(scale)]
        return runner.rescale_windows(np.asarray(image), placed)
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        scaled = pool.map(lambda same: rescale(image, box_xyxy[same], px, interpolation), split_scales(scale))
        return runner.load_windows(list(scaled))


def prefetch_patches(
    plan: RowPlan, px: int, clock: StageClock, interpolation: str = "bilinear"
) -> Iterator[np.ndarray]:
    """Cut the patches of the plan's rows, one picture after the other: uint8 ndarrays (n, px, px, 3)."""

    def cut_picture(pixels: np.ndarray, rows: slice) -> np.ndarray:
        with clock.measure("rescale and cut"):
            flip = None if plan.flip is None else plan.flip[rows]
            return cut_patches(pixels, plan.box_xyxy[rows], plan.scale[rows], plan.source, px, flip, interpolation)

    return prefetch_pictures(plan, cut_picture, clock)


def prefetch_pictures(plan: RowPlan, transform: Callable[[np.ndarray, slice], T], clock: StageClock) -> Iterator[T]:
    """Decode and transform the plan's pictures in order, in threads a few pictures ahead of the caller.

    Parameters
    ----------
    transform : called with a picture's pixels, uint8 ndarray (height, width, 3), and its rows in the plan

    Raises
    ------
    PipelineError
        A picture changed or vanished since the patch table was made.
    """

    def decode_and_transform(picture: PlannedPicture) -> T:
        with clock.measure("decode"):
            pixels = _decode_unchanged(picture)
        return transform(pixels, slice(*np.searchsorted(plan.picture, [picture.index, picture.index + 1])))

    # Enough to feed a GPU; a trunk on the CPU shares the cores with them.
    threads = max(MIN_DECODING_THREADS, torch.get_num_threads())
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[T]] = deque()
        try:
            for picture in plan.pictures:
                ahead.append(pool.submit(decode_and_transform, picture))
                if len(ahead) > threads + 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _decode_unchanged(picture: PlannedPicture) -> np.ndarray:
    """Decode a picture, and check that its bytes are those that the table was made from."""
    advice = "make the patch table again with: pipeline patches, then resume with: pipeline extract"
    try:
        data = picture.path.read_bytes()
    except OSError as error:
        raise PipelineError(f"{picture.id}: {picture.path}: {error.strerror}; it was there before; {advice}") from error
    if sha256_bytes(data) != picture.sha256:
        raise PipelineError(f"{picture.id}: {picture.path}: changed since the patch table was made; {advice}")
    try:
        return decode_picture(data, picture.apply_exif, picture.id)
    except BadPictureError as error:
        raise PipelineError(f"{error}; it could be decoded before; {advice}") from error
