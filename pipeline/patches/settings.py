"""Settings of patches: the windows of a picture, and the label rule."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from pipeline.io.messages import brief
from pipeline.io.model import Settings

Source = Literal["grid", "whole", "crops", "boxes"]


class GridSettings(Settings):
    """Which square windows of a picture are cut (Oquab et al. 2014, section 3.2)."""

    scales: tuple[float, ...] = Field(
        (1.0, 1.3, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0),
        min_length=1,
        max_length=256,  # a patch table keeps the scale's number in one byte
        description="window side = short side of the picture / scale",
    )
    overlap: float = Field(
        0.65,
        ge=0,
        lt=0.95,
        description="least overlap of neighbours; the paper's 'at least 50 %' and 'around 500 patches' mean 0.65",
    )
    max_patches: int = Field(2000, ge=1, le=1_000_000, description="a picture with more is refused")
    min_side_px: float = Field(8.0, ge=0.1, description="a picture whose smallest window is smaller is refused")

    @field_validator("scales")
    @classmethod
    def _scales_rise(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if any(s < 1 for s in scales) or list(scales) != sorted(set(scales)):
            raise ValueError(f"must be at least 1 and rise, got {brief(list(scales))}")
        if scales and scales[-1] > 1000:
            raise ValueError(f"must be at most 1000, got {scales[-1]}")
        return scales


class CropSettings(Settings):
    """Jittered crops of a whole picture (Krizhevsky et al. 2012; Razavian et al. 2014): `source: crops`.

    The whole picture, squashed to a square; for each share five squares, in the centre and in the four corners; and the
    whole picture turned.
    """

    whole: bool = Field(True, description="the whole picture is one of the crops")
    shares: tuple[float, ...] = Field(
        (0.875,), max_length=25, description="sides of the squares, as shares of the picture's short side"
    )
    flips: bool = Field(True, description="each crop once more, mirrored left to right")
    # Left out where there are none, so that what was named before there were any keeps its name.
    turns: tuple[float, ...] = Field(
        (),
        max_length=25,
        exclude_if=lambda turns: not turns,
        description="degrees, counter-clockwise, by which the whole picture is turned about its middle, once for each; "
        "beyond its edges it is mirrored",
    )

    @field_validator("turns")
    @classmethod
    def _turns_differ(cls, turns: tuple[float, ...]) -> tuple[float, ...]:
        if any(not -180 < t <= 180 or t == 0 for t in turns) or len(set(turns)) < len(turns):
            raise ValueError(f"must lie between -180 and 180, not be 0, and differ, got {brief(list(turns))}")
        return turns

    @field_validator("shares")
    @classmethod
    def _shares_are_parts(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0.05 <= s <= 1 for s in shares) or len(set(shares)) < len(shares):
            raise ValueError(f"must lie in 0.05..1 and differ, got {brief(list(shares))}")
        return shares

    @model_validator(mode="after")
    def _there_is_a_crop(self) -> Self:
        if not (self.whole or self.shares or self.turns):
            raise ValueError("no crop is left: allow whole, or give shares")
        n_crops = (self.whole + 5 * len(self.shares) + len(self.turns)) * (1 + self.flips)
        if n_crops > 256:  # their numbers are kept in a byte
            raise ValueError(f"shares, turns and flips make {n_crops} crops of a picture, at most 256 are allowed")
        return self


class BoxSettings(Settings):
    """One square per person, centred on the box (Oquab et al. 2014, section 4, action recognition): `source: boxes`."""

    margin: float = Field(1.0, ge=1, le=3, description="side of the square / longer side of the box")
    flips: bool = Field(False, description="each square once more, mirrored left to right")


class SourceSettings(Settings):
    """A source and the settings of all of them; those of the others decide nothing."""

    source: Source = "grid"
    grid: GridSettings = GridSettings()
    crops: CropSettings = CropSettings()
    boxes: BoxSettings = BoxSettings()

    def own(self) -> dict[str, object]:
        """Return the settings of ``crops`` or ``boxes``, by name; nothing for ``grid`` and ``whole``."""
        own = {"crops": self.crops, "boxes": self.boxes}.get(self.source)
        return {} if own is None else {f"{self.source}_{name}": v for name, v in own.model_dump(mode="json").items()}


class LabelSettings(Settings):
    """How a patch gets its label from the boxes (Oquab et al. 2014, section 3.2, conditions i to iii)."""

    single_object: Literal["fills", "touches"] = Field(
        "fills",
        description="what a second object must not do for a patch to be positive: fill it, or touch it",
    )
    background: Literal["untouched", "unfilled"] = Field(
        "untouched", description="a patch is background if no box touches it, or if none fills it"
    )
