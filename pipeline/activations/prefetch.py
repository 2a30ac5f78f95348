"""Pictures of a row plan, decoded and rescaled in threads a few pictures ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from pipeline.activations.cutting import cut_patches, rescale, split_scales
from pipeline.activations.row_plan import PlannedPicture, RowPlan
from pipeline.activations.run_log import StageClock
from pipeline.dataset.picture import decode_picture
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import BadPictureError, PipelineError
from pipeline.trunk.runner import TrunkRunner

MIN_DECODING_THREADS = 2


def prefetch_scales(
    plan: RowPlan, runner: TrunkRunner, clock: StageClock
) -> Iterator[list[tuple[torch.Tensor, np.ndarray, np.ndarray]]]:
    """Of each picture of the plan its rescaled forms on the device, and the windows' upper left corners in each."""
    px, interpolation = runner.trunk.card.input_px, runner.trunk.card.preprocessing.interpolation

    def make(pixels: np.ndarray, rows: slice) -> list[tuple[torch.Tensor, np.ndarray, np.ndarray]]:
        with clock.measure("rescale"):
            boxes, scale = plan.box_xyxy[rows], plan.scale[rows]
            if plan.source == "grid":
                found = [rescale(pixels, boxes[some], px, interpolation) for some in split_scales(scale)]
            else:
                # Each has a rescaling of its own, of which it is all.
                flip = None if plan.flip is None else plan.flip[rows]
                corner = np.zeros(1, int)
                patches = cut_patches(pixels, boxes, scale, plan.source, px, flip, interpolation)
                found = [(patch, corner, corner) for patch in patches]
            return [(runner.to_device(scaled), x, y) for scaled, x, y in found]

    return prefetch_pictures(plan, make, clock)


def prefetch_patches(plan: RowPlan, px: int, clock: StageClock, interpolation: str = "bilinear") -> Iterator[np.ndarray]:
    """Patches of the plan's rows, a picture at a time, made in threads a few pictures ahead."""

    def make(pixels: np.ndarray, rows: slice) -> np.ndarray:
        with clock.measure("rescale and cut"):
            flip = None if plan.flip is None else plan.flip[rows]
            return cut_patches(pixels, plan.box_xyxy[rows], plan.scale[rows], plan.source, px, flip, interpolation)

    return prefetch_pictures(plan, make, clock)


Made = TypeVar("Made")


def prefetch_pictures(plan: RowPlan, make: Callable[[np.ndarray, slice], Made], clock: StageClock) -> Iterator[Made]:
    """What `make` makes of each picture's pixels and rows of the plan, in threads a few pictures ahead."""

    def decode_and_make(picture: PlannedPicture) -> Made:
        with clock.measure("decode"):
            pixels = _decode_unchanged(picture)
        return make(pixels, slice(*np.searchsorted(plan.picture, [picture.index, picture.index + 1])))

    # As many as feed a GPU; a trunk on the CPU takes its turns with them.
    threads = max(MIN_DECODING_THREADS, torch.get_num_threads())
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[Future[Made]] = []
        try:
            for picture in plan.pictures:
                ahead.append(pool.submit(decode_and_make, picture))
                if len(ahead) > threads + 1:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()


def _decode_unchanged(picture: PlannedPicture) -> np.ndarray:
    """Decode a picture whose bytes must be those that the table was made from."""
    again = "make the patch table again with: pipeline patches, then go on with: pipeline extract"
    try:
        data = picture.path.read_bytes()
    except OSError as error:
        raise PipelineError(f"{picture.id}: {picture.path}: {error.strerror}; it was there before; {again}") from error
    if sha256_bytes(data) != picture.sha256:
        raise PipelineError(f"{picture.id}: {picture.path}: changed since the patch table was made; {again}")
    try:
        return decode_picture(data, picture.apply_exif, picture.id)
    except BadPictureError as error:
        raise PipelineError(f"{error}; it could be decoded before; {again}") from error
