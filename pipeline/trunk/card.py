"""A trunk as data: weights (safetensors), and next to them a card with everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator
from safetensors.torch import save
from torch import Tensor

from pipeline.io.atomic import write_atomic
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.messages import enumerate_problems
from pipeline.io.model import Settings, explain_validation
from pipeline.io.yaml import read_mapping

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocessing(Settings):
    """Preprocessing of a patch between decoding and C1."""

    colour_order: Literal["RGB"] = "RGB"
    mean: tuple[float, float, float] = Field(IMAGENET_MEAN, description="of values in 0..1")
    std: tuple[float, float, float] = Field(IMAGENET_STD, description="of values in 0..1")
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] = Field(
        "bilinear", description="by which Pillow's filter a picture is resized"
    )

    @field_validator("std")
    @classmethod
    def _std_divides(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) < 1e-3:
            raise ValueError(f"must be at least 0.001, got {list(std)}")
        return std


class TrunkCard(Settings):
    """Description that must accompany a trunk's weights."""

    name: str = Field(max_length=100, description="becomes part of file names")
    architecture: str
    input_px: int = Field(ge=8, le=4096)
    layers: dict[str, int] = Field(description="columns of each layer that can be asked for")
    preprocessing: Preprocessing = Preprocessing()
    weights_file: str | None = None
    weights_sha256: str | None = None
    trained: dict[str, Any] = Field(default_factory=dict, description="on what, how, and how well")


def read_card(path: Path) -> TrunkCard:
    """Read a trunk's card.

    Raises
    ------
    MissingDataError, TrunkError
        There is no such file, or it is no card.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such card; a card is a YAML file next to its weights")
    try:
        return TrunkCard.model_validate(read_mapping(path, TrunkError))
    except ValidationError as error:
        raise TrunkError(f"{path}: not a trunk's card\n{enumerate_problems(explain_validation(error))}") from error


def save_trunk(stem: Path, weights: dict[str, Tensor], card: TrunkCard) -> TrunkCard:
    """Write ``<stem>.safetensors``, then ``<stem>.yaml``, each atomically; return the card as written."""
    weights_path = stem.with_name(stem.name + ".safetensors")
    data = save(weights, metadata={"architecture": card.architecture})
    write_atomic(weights_path, data)
    card = card.model_copy(update={"weights_file": weights_path.name, "weights_sha256": sha256_bytes(data)})
    text = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False)
    write_atomic(stem.with_name(stem.name + ".yaml"), text.encode())
    return card
