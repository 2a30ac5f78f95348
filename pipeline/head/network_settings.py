"""Settings of networks on cached rows: of their layers, and of their fits by SGD."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.head.points import GridOfHeads
from pipeline.io.messages import brief
from pipeline.io.model import MAX_BATCH, MAX_EPOCHS, MAX_WIDTH


class SgdSettings(GridOfHeads):
    """How a network on cached rows is fitted (Oquab et al. 2014, section 3.3)."""

    rates: tuple[float, ...] = Field((0.01, 0.001, 0.0001), min_length=1, description="learning rates, in turn")
    max_epochs: tuple[int, ...] = Field((6, 2, 1), min_length=1, description="largest number of epochs per rate")
    settled: float = Field(
        0.01, ge=0, description="a rate ends when an epoch lowers the mean loss by less than this share"
    )
    batch: int = Field(256, ge=1, le=MAX_BATCH)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)

    @model_validator(mode="after")
    def _rates_and_epochs_pair(self) -> Self:
        if len(self.rates) != len(self.max_epochs):
            got = f"{brief(self.rates)} and {brief(self.max_epochs)}"
            raise ValueError(f"rates and max_epochs must be equally long, got {got}")
        if any(r <= 0 for r in self.rates) or any(e < 0 for e in self.max_epochs):
            raise ValueError("rates must be positive, max_epochs at least 0")
        if not any(self.max_epochs):
            raise ValueError("max_epochs must allow one epoch at least")
        if any(e > MAX_EPOCHS for e in self.max_epochs):
            raise ValueError(f"max_epochs must be at most {MAX_EPOCHS:,}")
        return self


class NetworkSettings(SgdSettings):
    """Layers of a head on standardised rows."""

    hidden: tuple[int, ...] = Field((2048,), max_length=8, description="widths of the layers before FCb: FCa, ...")
    dropout: float = Field(0.5, ge=0, lt=1, description="on the inputs of FCa and FCb")
    input_dropout: float | None = Field(
        None, ge=0, lt=1, description="on the input of the first layer, where it differs from dropout"
    )
    standardise: bool = Field(True, description="input columns to mean 0 and deviation 1 over the fit rows")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of hidden layers, the last one is fp32 always; auto: bf16 where the CPU computes in it"
    )

    @field_validator("hidden")
    @classmethod
    def _widths_are_sane(cls, hidden: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= h <= MAX_WIDTH for h in hidden):
            raise ValueError(f"hidden must be positive and at most {MAX_WIDTH:,}")
        return hidden
