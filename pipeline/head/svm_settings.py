"""Settings of heads of the kinds ``svm`` and ``vlad``."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.head.points import GridOfHeads
from pipeline.io.messages import brief
from pipeline.io.model import MAX_WIDTH


class LinearSvmSettings(GridOfHeads):
    """What heads have in common that are a linear SVM per class on one vector per picture."""

    scores_patches: ClassVar[bool] = False
    needs_boxes: ClassVar[bool] = False
    kind: Literal["svm", "vlad"]
    pooling: tuple[Literal["mean", "max"], ...] = Field(
        ("mean", "max"), min_length=1, description="how a picture's rows become one vector; several are joined"
    )
    normalise: bool = Field(True, description="each pooled vector to length 1")
    standardise: bool = Field(
        True, description="columns to mean 0 and equal deviation over the fit pictures, after that; lengths stay near 1"
    )
    costs: tuple[float, ...] = Field(
        (0.1, 0.3, 1.0, 3.0, 10.0),
        min_length=1,
        max_length=100,
        description="values of C; one for all classes is chosen by cross-validation over the fit pictures",
    )

    @field_validator("pooling", "costs")
    @classmethod
    def _each_once(cls, values: tuple[str | float, ...]) -> tuple[str | float, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"must name each once, got {brief(list(values))}")
        return values

    @field_validator("costs")
    @classmethod
    def _costs_are_positive(cls, costs: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 1e-6 <= c <= 1e6 for c in costs):
            raise ValueError("costs must lie in 1e-6..1e6")
        return costs


class SvmSettings(LinearSvmSettings):
    """A linear SVM per class on one vector per picture (Razavian et al. 2014)."""

    kind: Literal["svm"]
    # Left out where they are the usual ones, so that heads from before there was a choice keep their names.
    examples: Literal["pictures", "rows"] = Field(
        "pictures",
        exclude_if=lambda examples: examples == "pictures",
        description="pictures: one pooled vector each; rows: every row, with the labels of its picture, whose score is "
        "the mean over its rows",
    )
    root: bool = Field(
        False,
        exclude_if=lambda root: not root,
        description="values of each example to the root of their size, with their sign, before lengths are set to 1",
    )

    @property
    def pooled_by(self) -> tuple[str, ...]:
        return self.pooling if self.examples == "pictures" else ()

    @model_validator(mode="after")
    def _rows_are_not_pooled_before(self) -> Self:
        if self.examples == "rows" and (self.pooling != ("mean",) or len(self.costs) > 1):
            got = f"{brief(list(self.pooling))} and {brief(list(self.costs))}"
            raise ValueError(f"examples: rows goes with pooling: [mean] and one value of costs, got {got}")
        return self


class VladSettings(LinearSvmSettings):
    """A linear SVM per class on an orderless encoding of a picture's patches, scale by scale (Gong et al. 2014)."""

    kind: Literal["vlad"]
    encoding: Literal["vlad", "fisher"] = Field(
        "vlad", description="vlad: residuals to the nearest words; fisher: gradients of a mixture of Gaussians"
    )
    levels: int = Field(3, ge=1, le=256, description="groups of neighbouring scales, each with words of its own")
    words: int = Field(32, ge=1, le=4096, description="words per level, or Gaussians")
    components: int = Field(64, ge=1, le=MAX_WIDTH, description="principal components of a row, over all levels")
    sample: int = Field(
        20_000, ge=10, le=10_000_000, description="fit rows, about, from which components and words are learnt"
    )
    pooling: tuple[Literal["mean", "max"], ...] = Field(
        ("mean", "max"),
        description="further vectors of each level that are joined: the mean or the maximum of its rows; may be none",
    )
