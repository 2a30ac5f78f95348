"""Patches, and what an imported trunk makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """Two patches of noise on three different grounds, so that colours cannot be swapped unseen."""
    rng = np.random.default_rng(1)
    ground = np.array([200, 120, 30])
    return np.clip(ground + rng.normal(0, 30, (2, 227, 227, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def rows_of(pixels) -> Callable[[Path], np.ndarray]:
    """FC7 of the trunk of a card, in float32, with the card's preprocessing."""
    from pipeline.trunk.load import load_trunk

    def compute(card: Path) -> np.ndarray:
        trunk = load_trunk(str(card))
        how = trunk.card.preprocessing
        inputs = ((pixels / 255 - np.array(how.mean)) / np.array(how.std)).transpose(0, 3, 1, 2)
        with torch.inference_mode():
            return trunk.network(torch.from_numpy(inputs.copy()).float()).numpy()

    return compute
