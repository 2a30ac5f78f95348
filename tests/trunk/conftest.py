"""Weights that the tests make themselves; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.threads import one_thread  # noqa: F401

from pipeline.trunk.alexnet import ALEXNET64, AlexNet
from pipeline.trunk.card import TrunkCard, save_trunk


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Weights of an ``alexnet64`` from seed 3, with an FC8 of 7 classes."""
    torch.manual_seed(3)
    weights = AlexNet(ALEXNET64).state_dict()
    return {**weights, "fc8.weight": torch.randn(7, 1024), "fc8.bias": torch.randn(7)}


@pytest.fixture
def save_card(tmp_path) -> Callable[..., Path]:
    """Save weights with a card, as pre-training does; path of the card."""

    def save(weights: dict[str, torch.Tensor], **changes: object) -> Path:
        fields = {"name": "mine", "architecture": "alexnet64", "input_px": 64, "layers": ALEXNET64.widths}
        save_trunk(tmp_path / "mine", weights, TrunkCard(**{**fields, **changes}))
        return tmp_path / "mine.yaml"

    return save


@pytest.fixture(scope="session")
def torchvision_weights(tmp_path_factory) -> Callable[[str], Path]:
    """A safetensors file with random weights of a torchvision model, by the model's name."""
    from pipeline.trunk.zoo.torchvision_import import import_torchvision

    folder = tmp_path_factory.mktemp("torchvision")

    def save(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            save_file(import_torchvision().models.get_model(name, weights=None).state_dict(), path)
        return path

    return save
