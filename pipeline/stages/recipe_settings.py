"""Settings of a recipe: what it changes of a run's settings, and its head."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.head.settings import HEADS, AnyHead
from pipeline.io.messages import brief
from pipeline.io.model import Settings
from pipeline.io.names import expand_home
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings, LabelSettings, Source
from pipeline.scoring.aggregation import POOLED, Aggregation


class RecipeSettings(Settings):
    """A named system: what it changes of a run's settings, and its head; or other recipes, joined."""

    title: str = Field("", max_length=200)
    published: str = Field("", max_length=100, description="name of the published row that it stands for")
    trunk: str | None = None
    layer: str | None = None
    weights: str | None = None
    trunk_px: int | None = Field(None, ge=32, le=4096, exclude_if=lambda px: px is None)
    # Left out where there are none, so that what was named before there were any keeps its name.
    layers: tuple[str, ...] = Field(
        (),
        max_length=20,
        exclude_if=lambda layers: not layers,
        description="layers of the trunk of which one is chosen together with a point of the head's grid",
    )
    source: Source | None = None
    grid: GridSettings | None = None
    crops: CropSettings | None = None
    boxes: BoxSettings | None = None
    labels: LabelSettings | None = None
    head: AnyHead | None = None
    aggregation: float | str | None = Field(None, description="None: chosen on held-out fit pictures")
    reseed_trunk: bool = Field(False, description="a trunk of its own for each seed")
    join: tuple[str, ...] = Field((), description="recipes whose picture scores are joined")
    by: Literal["rank", "stack"] = Field(
        "rank", description="join by mean rank, or by a logistic regression per class on held-out scores"
    )

    @field_validator("head", mode="before")
    @classmethod
    def _head_by_name(cls, head: object) -> object:
        if not isinstance(head, str):
            return head
        if head not in HEADS:
            raise ValueError(f"no built-in head {brief(head)}; there are {', '.join(HEADS)}, or give its settings")
        return HEADS[head]

    @field_validator("trunk", "weights", mode="before")
    @classmethod
    def _home_is_expanded(cls, value: object) -> object:
        return expand_home(value) if isinstance(value, str) else value

    @field_validator("aggregation")
    @classmethod
    def _aggregation_is_known(cls, value: object) -> object:
        return None if value is None else Aggregation.parse(value).to_json()

    @model_validator(mode="after")
    def _is_a_head_or_a_join(self) -> Self:
        if self.join and self.changes:
            raise ValueError(f"a recipe that joins others has nothing of its own, got {', '.join(self.changes)}")
        if not self.join and self.head is None:
            raise ValueError("needs a head, or recipes to join")
        if len(self.join) == 1:
            raise ValueError("join needs two recipes at least")
        if self.layers and (self.join or self.layer is not None or len(set(self.layers)) < len(self.layers)):
            raise ValueError("layers are for a recipe with a head and without a layer, and name each once")
        return self

    @property
    def stated_aggregation(self) -> Aggregation | None:
        """The aggregation where there is nothing to choose: it is named, or the head scores one vector per picture."""
        if self.aggregation is not None:
            return Aggregation.parse(self.aggregation)
        return POOLED if self.head is not None and not self.head.scores_patches else None

    @property
    def has_points(self) -> bool:
        """Whether a point of a grid, or one of several layers, is to be chosen."""
        return bool(self.layers) or (self.head is not None and bool(self.head.grid))

    @property
    def changes(self) -> dict[str, Any]:
        """What it sets of the run's settings, by name."""
        names = ("trunk", "layer", "weights", "trunk_px", "source", "grid", "crops", "boxes", "labels", "head")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
