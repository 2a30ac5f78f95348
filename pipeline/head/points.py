"""The grid of a head: every combination of the values that it names is a point, which is a head of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from pipeline.io.likeness import suggest
from pipeline.io.messages import brief
from pipeline.io.model import Settings, explain_validation

HeadT = TypeVar("HeadT", bound="GridOfHeads")
MOST_POINTS = 1000
OUTSIDE = ("kind", "grid", "takes", "code", "sha256")
"""Settings that are one for all points: they decide what a head is, or whether it scores patches."""
Point = dict[str, Any]
"""The values of a point, by the name of a setting, as JSON values."""


class GridOfHeads(Settings):
    """What all heads have in common: a grid of points, each of which is a head of its own."""

    # Left out where there is none, so that heads from before there were grids keep their names.
    grid: dict[str, tuple[Any, ...]] = Field(
        {},
        exclude_if=lambda grid: not grid,
        description="values that are tried, by the name of a setting of this head; every combination is a point, the "
        "last setting changes first, and one point is chosen on held-out fit pictures",
    )

    @property
    def has_chance(self) -> bool:
        """Whether another seed makes another head."""
        return True

    @property
    def pooled_by(self) -> tuple[str, ...]:
        """Poolings of the vectors of pictures that it learns from; none where it learns from rows."""
        return ()

    @model_validator(mode="after")
    def _points_are_heads(self) -> Self:
        if self.grid:
            check_grid(self)
        return self


def points_of(head: HeadT) -> list[tuple[Point, HeadT]]:
    """Return the points of a head's grid, in its order, each with its settings; a head without a grid is one point.

    The last setting of the grid changes first. Values are those of the settings: ``1e-3`` of a YAML file, which is a
    text there, is a number.
    """
    found = []
    for point in _combinations(head.grid):
        settings = at_point(head, point)
        values = settings.model_dump(mode="json")
        # Some settings leave out their usual value, so that older names stay.
        found.append(({name: values.get(name, getattr(settings, name)) for name in point}, settings))
    return found


def at_point(head: HeadT, point: Mapping[str, Any]) -> HeadT:
    """Return the settings of a head at a point: without a grid.

    Raises
    ------
    pydantic.ValidationError
        A value that the setting does not take, alone or beside the others.
    """
    return type(head).model_validate({**head.model_dump(mode="json", exclude={"grid"}), **point})


def in_words(point: Mapping[str, Any]) -> str:
    """Name a point in messages and tables.

    >>> in_words({"weight_decay": 0.001, "pooling": ["mean", "max"], "standardise": True})
    'weight_decay=0.001 pooling=mean+max standardise=true'
    """
    return " ".join(f"{name}={value_in_words(value)}" for name, value in point.items())


def value_in_words(value: Any) -> str:
    """Name a value of a point.

    >>> value_in_words([0.01, 0.001]), value_in_words([]), value_in_words(None), value_in_words(0.12345678)
    ('0.01+0.001', 'none', 'none', '0.12345678')
    """
    if isinstance(value, list | tuple):
        return "+".join(map(value_in_words, value)) or "none"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)  # two points never have one name
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


def check_grid(head: GridOfHeads) -> None:
    """Refuse a grid that is no list of heads.

    Raises
    ------
    ValueError
        Unknown settings, no values, too many points, a point that is no head, or two that are the same head.
    """
    grid, fields = head.grid, type(head).model_fields
    for name, values in grid.items():
        if name in OUTSIDE and name in fields:
            raise ValueError(f"{name} is one for all points, so a grid cannot have it; name a head for each")
        if name not in fields:
            allowed = [field for field in fields if field not in OUTSIDE]
            raise ValueError(f"grid has {brief(name)}, which is no setting of this head{suggest(name, allowed)}")
        if not values:
            raise ValueError(f"grid has no value for {name}")
    n_points = math.prod(map(len, grid.values()))
    if n_points > MOST_POINTS:
        raise ValueError(f"grid has {n_points:,} points, at most {MOST_POINTS:,} are allowed")
    seen: dict[str, Point] = {}
    for point in _combinations(grid):
        try:
            settings = at_point(head, point)
        except ValidationError as error:
            raise ValueError(f"at {in_words(point)}: {explain_validation(error)[0]}") from error
        key = settings.model_dump_json()
        if key in seen:
            raise ValueError(f"grid has one head twice: {in_words(seen[key])}, and {in_words(point)}")
        seen[key] = point


def _combinations(grid: Mapping[str, tuple[Any, ...]]) -> list[Point]:
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
