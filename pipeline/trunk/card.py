"""A trunk as data: weights (safetensors) and the card beside them that says everything else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from pipeline.settings import Settings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocessing(Settings):
    """What happens to a patch between decoding and C1."""

    colour_order: Literal["RGB"] = "RGB"
    mean: tuple[float, float, float] = Field(IMAGENET_MEAN, description="of values in 0..1")
    std: tuple[float, float, float] = Field(IMAGENET_STD, description="of values in 0..1")


class TrunkCard(Settings):
    """All that must travel with a trunk's weights."""

    name: str
    architecture: str
    input_px: int = Field(ge=8)
    layers: dict[str, int] = Field(description="columns of each layer that can be asked for")
    preprocessing: Preprocessing = Preprocessing()
    weights_file: str | None = None
    weights_sha256: str | None = None
    trained: dict[str, Any] = Field(default_factory=dict, description="on what, how, and how well")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_trunk(stem: Path, weights: dict[str, Tensor], card: TrunkCard) -> TrunkCard:
    """Write ``<stem>.safetensors`` and then ``<stem>.yaml``, each whole or not at all."""
    weights_path = stem.with_name(stem.name + ".safetensors")
    card_path = stem.with_name(stem.name + ".yaml")
    partial = weights_path.with_name(weights_path.name + ".partial")
    save_file(weights, partial, metadata={"architecture": card.architecture})
    os.replace(partial, weights_path)
    card = card.model_copy(update={"weights_file": weights_path.name, "weights_sha256": file_sha256(weights_path)})
    partial = card_path.with_name(card_path.name + ".partial")
    partial.write_text(yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    os.replace(partial, card_path)
    return card
