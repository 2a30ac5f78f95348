"""Settings of heads of kind ``logistic``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from pipeline.head.points import GridOfHeads
from pipeline.io.messages import brief


class LogisticSettings(GridOfHeads):
    """Logistic regression on one pooled vector per picture, to its minimum: a linear probe."""

    scores_patches: ClassVar[bool] = False
    needs_boxes: ClassVar[bool] = False
    kind: Literal["logistic"]
    pooling: tuple[Literal["mean", "max"], ...] = Field(
        ("mean", "max"), min_length=1, description="how a picture's rows become one vector; several are joined"
    )
    normalise: bool = Field(True, description="each pooled vector to length 1, before several are joined")
    standardise: bool = Field(
        True, description="columns to mean 0 and equal deviation over the fit pictures, after that; lengths stay near 1"
    )
    weight_decay: float = Field(
        1e-3,
        ge=1e-9,
        le=1e3,
        description="half of it times the squared length of the weights of a class is added to the mean loss; "
        "scikit-learn's C is 1 / (weight_decay * pictures)",
    )
    loss: Literal["auto", "logistic", "softmax"] = Field(
        "auto",
        description="logistic: one regression per class; softmax: one for all, where every picture shows one class; "
        "auto: softmax where it can be",
    )

    @field_validator("pooling")
    @classmethod
    def _each_once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"must name each once, got {brief(list(values))}")
        return values

    @property
    def has_chance(self) -> bool:
        return False

    @property
    def pooled_by(self) -> tuple[str, ...]:
        return self.pooling
