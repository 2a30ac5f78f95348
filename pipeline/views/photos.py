"""A fitted head on photos that are in no dataset: patches, activations, scores and heat maps, with nothing stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from pipeline.activations.compute import compute_layers
from pipeline.activations.identity import explain_differences
from pipeline.activations.prefetch import rescale_image
from pipeline.activations.row_plan import PlannedPicture, RowPlan
from pipeline.activations.run_log import StageClock
from pipeline.activations.trunk_identity import trunk_fields
from pipeline.dataset.picture import decode_image
from pipeline.dataset.split import EMPTY_ANNOTATION, Annotation
from pipeline.head.head import Head
from pipeline.head.settings import ScoreKind
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import DatasetError, HeadError
from pipeline.io.messages import shorten
from pipeline.patches.grid import grid_windows
from pipeline.patches.settings import GridSettings
from pipeline.scoring.aggregation import Aggregation, AggregationLike
from pipeline.scoring.heat_maps import heat_maps
from pipeline.stages.runner import make_runner
from pipeline.stages.workspace import Workspace
from pipeline.trunk.runner import TrunkRunner
from pipeline.views.figures.heat_maps import smooth

LAST_BITS = ("how.precision", "how.batch", "how.part_rows", "how.dtype")
"""What decides no more than the last bits of a row: other values may differ from those of the head's store."""


SMOOTH_SHARE = 0.15
"""Of the side of the smallest patch: the deviation of the Gaussian that smooths maps which are drawn."""
DISPLAY_PX = 1000
"""Longer side of pictures and maps that are shown; a smaller picture stays as it is."""


def shrink_for_display(image: Image.Image, most_px: int | None = None) -> np.ndarray:
    """Shrink a picture: uint8 ndarray of shape (height, width, 3), RGB; only the result is copied.

    Parameters
    ----------
    most_px : longer side of the result at most; None for `DISPLAY_PX`
    """
    factor = (most_px or DISPLAY_PX) / max(image.size)
    if factor < 1:
        width, height = (max(1, round(side * factor)) for side in image.size)
        # First by a whole number, which reads each pixel once.
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(image)


@dataclass(frozen=True, repr=False)
class Look:
    """A picture and what a head says of each of its patches.

    Attributes
    ----------
    name : of the picture, for people
    pixels : uint8 ndarray of shape (height, width, 3), RGB, at the size in which it is shown
    size_wh : (width, height) of the picture itself
    box_xyxy : float ndarray of shape (n, 4), patches in pixels of the picture itself
    classes : of the head
    patch_scores : float32 ndarray of shape (n, n_classes)
    score_kind : what the scores are, such as ``softmax``
    objects : those that its annotation has, by index into `classes`
    labels : int8 ndarray of shape (n_classes,): 1 where the picture is known to show a class, 0 where it counts neither
        way, -1 elsewhere; None where nothing is known of the picture
    own_scores : float64 ndarray of shape (n_classes,), of the whole picture, by heads that score pictures in a way of
        their own (``pooled``); None where patch scores are aggregated
    """

    name: str
    pixels: np.ndarray
    size_wh: tuple[int, int]
    box_xyxy: np.ndarray
    classes: tuple[str, ...]
    patch_scores: np.ndarray
    score_kind: ScoreKind
    objects: Annotation = EMPTY_ANNOTATION
    labels: np.ndarray | None = None
    own_scores: np.ndarray | None = None

    def __repr__(self) -> str:
        width, height = self.size_wh
        return (
            f"<Look at {shorten(self.name)}, {width:,} x {height:,} px: {len(self.box_xyxy):,} patches, "
            f"{self.score_kind} scores of {len(self.classes):,} classes>"
        )

    @property
    def scale(self) -> ScoreKind:
        """`score_kind` under the name that it had before."""
        return self.score_kind

    def picture_scores(self, k: AggregationLike) -> np.ndarray:
        """Score of each class for the whole picture: float64 ndarray (n_classes,).

        Raises
        ------
        HeadError
            These scores have no such aggregation.
        """
        aggregation = Aggregation.parse(k)
        if not aggregation.applies_to(self.score_kind):
            expected = "max, top:T or lme:R" if self.own_scores is None else "pooled"
            raise HeadError(f"{self.score_kind} scores have no aggregation k={k}; expected {expected}")
        if self.own_scores is not None:
            return self.own_scores.copy()
        return aggregation.apply(self.patch_scores[None].astype(np.float64))[0]

    def shrunk(self, most_px: int) -> Look:
        """Return the same scores on a smaller picture, whose maps are as small."""
        return replace(self, pixels=shrink_for_display(Image.fromarray(self.pixels), most_px))

    def maps(self, columns: np.ndarray) -> np.ndarray:
        """Mean score of the patches over each pixel of `pixels`: float32 ndarray (len(columns), height, width)."""
        map_wh = (self.pixels.shape[1], self.pixels.shape[0])
        return heat_maps(self.box_xyxy, self.patch_scores[:, columns], self.size_wh, map_wh=map_wh)

    def smooth_maps(self, columns: np.ndarray) -> np.ndarray:
        """`maps` for the eye: smoothed, so that edges of patches are not seen, by a share of the smallest patch."""
        smallest = (self.box_xyxy[:, 2:] - self.box_xyxy[:, :2]).min() * self.pixels.shape[1] / self.size_wh[0]
        return smooth(self.maps(columns), SMOOTH_SHARE * float(smallest))

    def boxes_of(self, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) of a class's objects in pixels of `pixels`, and whether each is difficult (n,)."""
        of_class = self.objects.class_index == column
        factor = self.pixels.shape[1] / self.size_wh[0], self.pixels.shape[0] / self.size_wh[1]
        return self.objects.box_xyxy[of_class] * np.tile(factor, 2), self.objects.difficult[of_class]


def check_makes_heat_maps(head: Head) -> None:
    """Refuse heads that say nothing of single patches of a grid.

    Raises
    ------
    HeadError
    """
    name = head.name
    if not head.scores_patches:
        raise HeadError(
            f"head {name!r} scores whole pictures, not patches, and so has no heat maps; give one of kind strong or "
            "weak, such as --head weak, which needs no boxes: "
            f"pipeline fit-head --dataset {head.facts.dataset} --head weak"
        )
    if head.facts.how["how.source"] != "grid":
        raise HeadError(f"head {name!r} was fitted on patches of source {head.facts.how['how.source']!r}, not grid")


@dataclass(frozen=True, repr=False)
class Photo:
    """A photo and the activations of its patches.

    Attributes
    ----------
    name : of the file, without suffix
    pixels : uint8 ndarray of shape (height, width, 3), RGB, turned as its EXIF says, at the size in which it is shown
    size_wh : (width, height) of the photo itself, turned
    box_xyxy : float64 ndarray of shape (n, 4), its patches in pixels of the photo itself
    rows : float16 ndarray of shape (n, width), their activations
    """

    name: str
    pixels: np.ndarray
    size_wh: tuple[int, int]
    box_xyxy: np.ndarray
    rows: np.ndarray

    def __repr__(self) -> str:
        width, height = self.size_wh
        return f"<Photo {shorten(self.name)}, {width:,} x {height:,} px: {len(self.rows):,} patches>"


def look_at(head: Head, photo: Photo) -> Look:
    """Return what a head says of a photo and of its patches."""
    return Look(
        photo.name,
        photo.pixels,
        photo.size_wh,
        photo.box_xyxy,
        head.classes,
        head.patch_scores(photo.rows),
        head.score_kind,
        own_scores=head.own_picture_scores(photo.rows),
    )


class PhotoReader:
    """A head and the trunk under it, loaded once, for any number of photos.

    Parameters
    ----------
    ws : the settings under which the head was fitted: they say which trunk
    head : fitted on patches of a grid
    runner : of a reader with the same settings, if there is one already

    Raises
    ------
    HeadError
        The head has no scores of patches, or the settings' trunk makes other rows than it was fitted on; the fields
        that differ are named.
    """

    def __init__(self, ws: Workspace, head: Head, runner: TrunkRunner | None = None) -> None:
        check_makes_heat_maps(head)
        self.head = head
        how = head.facts.how
        settings = ws.settings.model_copy(update={"method": how["how.method"]})
        self.runner = runner or make_runner(Workspace(settings), head.facts.dataset)
        self.grid = GridSettings(scales=tuple(how["how.scales"]), overlap=how["how.overlap"])
        trunk = self.runner.trunk
        got = trunk_fields(trunk, self.runner.precision_name, self.runner.batch_rows, 0, self.runner.window_fields)
        got = {field: value for field, value in got.items() if field not in LAST_BITS}
        expected = {field: how.get(field) for field in got}
        if got != expected:
            raise HeadError(
                f"head {head.name!r} was fitted on rows made in another way than trunk {trunk.card.name!r} "
                f"would make them\n{explain_differences(got, expected)}\n"
                "give the settings with which its rows were extracted (--config, --trunk, --layer, --weights)"
            )

    def __repr__(self) -> str:
        trunk, head = self.runner.trunk, self.head
        return f"<PhotoReader: head {head.name} of {head.facts.dataset} on {shorten(trunk.card.name)} {trunk.layer}>"

    def read(self, path: Path, known_turns: Mapping[str, bool] = MappingProxyType({})) -> Photo:
        """Send a photo's patches through the trunk; it is turned as its EXIF says.

        Parameters
        ----------
        known_turns : whether pictures of a split are turned, by the SHA-256 of their bytes: the same file as a photo
            is read in the same way

        Raises
        ------
        DatasetError
            There is no such file.
        BadPictureError
            It cannot be decoded, or is too small for patches.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror}; expected a photo") from error
        sha256 = sha256_bytes(data)
        apply_exif = known_turns.get(sha256, True)
        # Decoded once, at full size: the rows are those of the same picture in a split.
        image = decode_image(data, apply_exif, name=str(path))
        del data
        box_xyxy, scale = grid_windows(*image.size, self.grid)
        picture = np.zeros(len(scale), np.int32)
        of_photo = (PlannedPicture(0, path.name, path, sha256, apply_exif),)
        plan = RowPlan(picture, box_xyxy.astype(np.float32), scale, "grid", None, of_photo)
        windows = rescale_image(image, plan.box_xyxy, scale, self.runner)
        pixels, size_wh = shrink_for_display(image), image.size
        del image
        batch = self.runner.batch_rows
        (rows,) = compute_layers(plan, self.runner, batch, StageClock(), windows=windows).values()
        return Photo(path.stem, pixels, size_wh, box_xyxy, rows)

    def judge(self, photo: Photo) -> Look:
        """Return the head's scores of a photo and its patches."""
        return look_at(self.head, photo)

    def look(self, path: Path, known_turns: Mapping[str, bool] = MappingProxyType({})) -> Look:
        """`read` and `judge` a photo."""
        return self.judge(self.read(path, known_turns))
