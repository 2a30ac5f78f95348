"""All settings, as closed pydantic models: an unknown key or a value out of range is an error."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator


class Settings(BaseModel):
    """Base of all settings: frozen, and closed against unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def explain_validation(error: ValidationError) -> list[str]:
    """One line a mistake: where, what, and what was got."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "settings"
        got = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r}"
        lines.append(f"{where}: {item['msg'].removeprefix('Value error, ')}{got}")
    return lines


class GridSettings(Settings):
    """Which square windows of a picture are looked at (Oquab et al. 2014, section 3.2)."""

    scales: tuple[float, ...] = Field(
        (1.0, 1.3, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0),
        min_length=1,
        description="window side = short side of the picture / scale",
    )
    overlap: float = Field(
        0.65,
        ge=0,
        lt=0.95,
        description="least overlap of neighbours; the paper's 'at least 50 %' and 'around 500 patches' mean 0.65",
    )
    max_patches: int = Field(2000, ge=1, description="a picture with more is refused")
    min_side_px: float = Field(8.0, gt=0, description="a picture whose smallest window is smaller is refused")

    @field_validator("scales")
    @classmethod
    def _scales_rise(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if any(s < 1 for s in scales) or list(scales) != sorted(set(scales)):
            raise ValueError(f"must be at least 1 and rise, got {list(scales)}")
        return scales


class LabelSettings(Settings):
    """How a patch gets its label from the boxes (Oquab et al. 2014, section 3.2, conditions i to iii)."""

    single_object: Literal["fills", "touches"] = Field(
        "fills",
        description="what a second object must not do for a patch to be positive: fill it, or touch it",
    )
    background: Literal["untouched", "unfilled"] = Field(
        "untouched", description="a patch is background if no box touches it, or if none fills it"
    )


class PretrainSettings(Settings):
    """How a trunk is pre-trained on the source task."""

    architecture: Literal["krizhevsky", "alexnet64"] = "alexnet64"
    epochs: int = Field(24, ge=1)
    batch: int = Field(256, ge=2)
    peak_rate: float = Field(0.15, gt=0, description="highest learning rate of the one cycle")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.2, ge=0, lt=1, description="on the inputs of FC6 and FC7")
    shift_px: int = Field(6, ge=0, description="largest shift in each direction")
    zoom: tuple[float, float] = Field((0.9, 1.2), description="range of the random zoom")
    seed: int = Field(0, ge=0)
