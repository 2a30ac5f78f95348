"""Pictures of a row plan, decoded and rescaled in threads a few pictures ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image

from pipeline.activations.cutting import cut_patches, place_windows, rescale, split_scales
from pipeline.activations.row_plan import PlannedPicture, RowPlan
from pipeline.activations.run_log import StageClock
from pipeline.dataset.picture import decode_picture
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import BadPictureError, PipelineError
from pipeline.io.remote import REQUESTS
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.windows import ScaledWindows

MIN_DECODING_THREADS = 2

T = TypeVar("T")


def queue_scales(plans: Iterable[RowPlan], runner: TrunkRunner, clock: StageClock) -> PictureQueue[list[ScaledWindows]]:
    """Rescale each picture of the plans to each of its scales, on the runner's device, with the windows' corners."""
    px, interpolation = runner.trunk.card.input_px, runner.trunk.card.preprocessing.interpolation

    def rescale_picture(plan: RowPlan, pixels: np.ndarray, rows: slice) -> list[ScaledWindows]:
        with clock.measure("rescale"):
            boxes, scale = plan.box_xyxy[rows], plan.scale[rows]
            if plan.source != "grid":
                flip, turn = (None if column is None else column[rows] for column in (plan.flip, plan.turn))
                patches = cut_patches(pixels, boxes, scale, plan.source, px, flip, interpolation, turn)
                return runner.load_windows([_stack_patches(patches)])
            if runner.rescales(interpolation):
                size_wh = (pixels.shape[1], pixels.shape[0])
                placed = [place_windows(size_wh, boxes[same], px) for same in split_scales(scale)]
                return runner.rescale_windows(pixels, placed)
            image = Image.fromarray(pixels)
            return runner.load_windows([rescale(image, boxes[same], px, interpolation) for same in split_scales(scale)])

    return PictureQueue(plans, rescale_picture, clock)


def prefetch_scales(plan: RowPlan, runner: TrunkRunner, clock: StageClock) -> Iterator[ScaledWindows]:
    """Yield the windows of each picture and scale of one plan; see `queue_scales`."""
    with queue_scales([plan], runner, clock) as queue:
        for _ in plan.pictures:
            yield from queue.take()


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

    def cut_picture(plan: RowPlan, pixels: np.ndarray, rows: slice) -> np.ndarray:
        with clock.measure("rescale and cut"):
            boxes, scale = plan.box_xyxy[rows], plan.scale[rows]
            flip, turn = (None if column is None else column[rows] for column in (plan.flip, plan.turn))
            return cut_patches(pixels, boxes, scale, plan.source, px, flip, interpolation, turn)

    with PictureQueue([plan], cut_picture, clock) as queue:
        for _ in plan.pictures:
            yield queue.take()


class PictureQueue(Generic[T]):
    """Decodes and transforms the pictures of plans in order, in threads a few pictures ahead of the caller.

    The threads go on with the next plan while the caller takes the last pictures of one.

    Parameters
    ----------
    plans : are asked for one by one, as late as the threads allow
    transform : called with a plan, a picture's pixels, uint8 ndarray (height, width, 3), and its rows in the plan
    """

    def __init__(
        self, plans: Iterable[RowPlan], transform: Callable[[RowPlan, np.ndarray, slice], T], clock: StageClock
    ) -> None:
        self._pictures = ((plan, picture) for plan in plans for picture in plan.pictures)
        self._transform, self._clock = transform, clock
        # Enough to feed a GPU; a trunk on the CPU shares the cores with them.
        self._threads = max(MIN_DECODING_THREADS, torch.get_num_threads())
        self._pool = ThreadPoolExecutor(self._threads)
        # Pictures elsewhere are waited for: more of them at the same time, and by threads that decode nothing.
        self._readers = ThreadPoolExecutor(REQUESTS)
        self._ahead: deque[Future[T]] = deque()
        self._most_ahead = self._threads + 1

    def __enter__(self) -> PictureQueue[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        for future in self._ahead:
            future.cancel()
        self._readers.shutdown(cancel_futures=True)
        self._pool.shutdown()

    def fill(self) -> None:
        """Give the threads further pictures to work on, as far as there are any."""
        while len(self._ahead) <= self._most_ahead:
            following = next(self._pictures, None)
            if following is None:
                return
            plan, picture = following
            data = None
            if not isinstance(picture.path, Path):
                self._most_ahead = max(self._most_ahead, REQUESTS)
                data = self._readers.submit(_read_unchanged, picture)
            self._ahead.append(self._pool.submit(self._decode_and_transform, plan, picture, data))

    def take(self) -> T:
        """Return the next picture's result.

        Raises
        ------
        PipelineError
            A picture changed or vanished since the patch table was made.
        """
        self.fill()
        return self._ahead.popleft().result()

    def _decode_and_transform(self, plan: RowPlan, picture: PlannedPicture, data: Future[bytes] | None) -> T:
        with self._clock.measure("decode"):
            pixels = _decode_unchanged(picture, _read_unchanged(picture) if data is None else data.result())
        rows = slice(*np.searchsorted(plan.picture, [picture.index, picture.index + 1]))
        return self._transform(plan, pixels, rows)


ADVICE = "make the patch table again with: pipeline patches, then resume with: pipeline extract"


def _read_unchanged(picture: PlannedPicture) -> bytes:
    """Read a picture, and check that its bytes are those that the table was made from."""
    try:
        data = picture.path.read_bytes()
    except OSError as error:
        if isinstance(error, PipelineError):
            raise
        raise PipelineError(f"{picture.id}: {picture.path}: {error.strerror}; it was there before; {ADVICE}") from error
    if sha256_bytes(data) != picture.sha256:
        raise PipelineError(f"{picture.id}: {picture.path}: changed since the patch table was made; {ADVICE}")
    return data


def _decode_unchanged(picture: PlannedPicture, data: bytes) -> np.ndarray:
    try:
        return decode_picture(data, picture.apply_exif, picture.id)
    except BadPictureError as error:
        raise PipelineError(f"{error}; it could be decoded before; {ADVICE}") from error
