"""Pictures of coloured noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw_noise(path: Path, size_wh: tuple[int, int], seed: int) -> None:
    """Coarse coloured noise: every window looks different."""
    rng = np.random.default_rng(seed)
    cells = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    cells.resize(size_wh, Image.Resampling.BICUBIC).save(path)
