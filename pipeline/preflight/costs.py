"""Measured unit costs: what a picture, a patch and a start-up cost, and on what that was measured.

``costs.yaml`` beside this file is made by ``benchmarks/scale.py --costs FILE``; null: not measured.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from pipeline.activations.part_size import rows_per_part
from pipeline.io.errors import SettingsError
from pipeline.io.messages import enumerate_problems
from pipeline.io.model import Settings, explain_validation
from pipeline.trunk.registry import names_layer

MEASURE = "measure it there: python benchmarks/scale.py --costs costs.yaml, then pipeline plan --costs costs.yaml"
USUAL_BATCH = 64
"""Of trunks for 224 px. Those for small pictures take 512: but for the least size, parts are the same."""


Stage = Literal["patches", "extract", "fit-head", "score"]


class StageCost(Settings):
    """A stage as straight lines: start and slope of its seconds, memory and bytes on disk."""

    unit: Literal["picture", "row"] = Field(description="what the slopes of seconds and bytes count")
    startup_s: float = Field(ge=0)
    unit_s: float = Field(ge=0)
    memory_mib: float = Field(gt=0)
    memory_bytes_a_row: float = Field(ge=0)
    disk_bytes: float = Field(ge=0)
    disk_bytes_a_unit: float = Field(ge=0)
    cores: int = Field(ge=1, description="cores that the seconds were measured on")
    width: int | None = Field(None, ge=1, description="columns of the rows, where seconds and memory grow with them")
    measured: str = Field(description="on what, and by which command")


class TrunkCost(Settings):
    """One layer of one trunk."""

    layer: str
    width: int = Field(ge=1)
    operations: int | None = Field(None, ge=1, description="of a row, in multiply-adds; the size of parts follows")
    part_rows: int | None = Field(None, ge=1, description="rows per part, in tables that name no operations")
    bytes_a_row: float = Field(gt=0, description="on disk, compressed, geometry included")
    cut_s: float = Field(ge=0, description="rescaling and cutting of a patch on one core")
    write_s: float = Field(ge=0, description="encoding of a row on one core")
    extra_mib: float = Field(description="peak memory beyond that of alexnet64")
    rates: dict[str, float | None] = Field(description="patches a second of the trunk alone, by arithmetic")
    cores: int = Field(ge=1, description="cores of the CPU's rates")
    measured: str

    def rows_per_part(self, batch: int | None, gpu: bool) -> int:
        """Return the rows per part by the rule of an extraction.

        Parameters
        ----------
        batch : of the settings; None for a trunk's own
        """
        if self.operations is None and self.part_rows is not None:
            return self.part_rows
        return rows_per_part(self.width, self.operations, batch or USUAL_BATCH, "cuda" if gpu else "cpu")


class PictureCost(Settings):
    """What a picture costs besides its patches."""

    decode_s: float = Field(gt=0, description="reading, digest and decoding on one core")
    memory_bytes: float = Field(ge=0, description="of its id, path and annotation")
    measured: str


class Costs(Settings):
    """The table."""

    stages: dict[Stage, StageCost] = Field(min_length=4)
    trunks: dict[str, TrunkCost]
    picture: PictureCost
    price: float | None = Field(None, gt=0, description="assumed dollars a worker and hour")

    def trunk(self, name: str, layer: str) -> TrunkCost:
        """The entry of a trunk; `random` is `alexnet64` with other weights, and costs the same."""
        found = self.trunks.get("alexnet64" if name == "random" else name)
        if found is None:
            known = ", ".join(("random", *self.trunks))
            raise SettingsError(f"trunk {name!r}: not in the table of costs, which has {known}; {MEASURE}")
        if layer != found.layer and not names_layer(name):
            raise SettingsError(f"trunk {name!r}: layer {layer!r} is not in the table of costs; it has {found.layer}")
        return found


def read_costs(path: Path | None = None) -> Costs:
    """The table that is shipped, or another one.

    Raises
    ------
    SettingsError
        It cannot be read, or has mistakes (all are listed).
    """
    source = path or files("pipeline.preflight") / "costs.yaml"
    try:
        return Costs.model_validate(yaml.safe_load(source.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{source}: cannot be read as a table of costs: {error}") from error
    except ValidationError as error:
        problems = enumerate_problems(explain_validation(error))
        raise SettingsError(f"{source}: not a table of costs\n{problems}") from error
