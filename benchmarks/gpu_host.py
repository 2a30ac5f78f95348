"""The host's side of an extraction on a GPU, without one: a device that answers at once gives the host's own limit.

    OMP_NUM_THREADS=1 python benchmarks/gpu_host.py --pictures 34
    OMP_NUM_THREADS=1 python benchmarks/gpu_host.py --pictures 34 --rescale host --batch 64

The whole `Extraction` runs, from JPEG files to a sealed store: reading, digests, decoding, rescaling or the copy of the
picture, the loop over batches, the check for finite rows, compression and writing. The device alone is left out:
nothing is cut, launched or copied, and rows are taken from memory. Printed are microseconds of processor time per row:
of the main thread, which is serial, and of all threads, which the cores share. What CUDA's own calls cost the main
thread is not in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import open_folder
from pipeline.dataset.demo.scenes import draw_demo
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.patches.build import make_table
from pipeline.patches.settings import SourceSettings
from pipeline.trunk import runner as runner_module
from pipeline.trunk.architectures import CONFIGS, AlexNet
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import LayeredNetwork, Trunk
from pipeline.trunk.windows import PlacedWindows, ScaledWindows

TYPICAL_ZEROS = -0.9
"""Mean before the ReLU: about four fifths of the values are 0, as in FC7 of alexnet."""


class InstantRunner(TrunkRunner):
    """A runner whose device answers at once.

    Parameters
    ----------
    rows : float16 Tensor (batch, width), what each batch gives
    rescales_itself : whether pictures are handed over as they were decoded
    """

    def __init__(self, trunk: Trunk, rows: torch.Tensor, rescales_itself: bool) -> None:
        super().__init__(trunk, torch.device("cpu"), "fp32", elsewhere=True)
        self._rows, self._rescales_itself = rows, rescales_itself
        self._memory: deque[np.ndarray] = deque()

    def rescales(self, interpolation: str) -> bool:
        return self._rescales_itself

    def rescale_windows(self, picture: np.ndarray, placed: Sequence[PlacedWindows]) -> list[ScaledWindows]:
        pixels = torch.from_numpy(picture.copy())  # into page-locked memory
        return [ScaledWindows(pixels, *map(torch.from_numpy, (windows.x, windows.y))) for windows in placed]

    def load_windows(self, scaled: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[ScaledWindows]:
        copied = torch.from_numpy(np.concatenate([pixels.reshape(-1) for pixels, _, _ in scaled]))
        return [ScaledWindows(copied, *map(torch.from_numpy, (x, y))) for _, x, y in scaled]

    def new_rows(self, n: int, width: int) -> np.ndarray:
        # One part is computed, one waits, one is written: memory is used again, as torch does with page-locked memory.
        if len(self._memory) < 4:
            self._memory.append(np.empty((n, width), np.float16))
        self._memory.rotate()
        return self._memory[0][:n]

    def new_batch(self, n: int) -> torch.Tensor:
        return torch.empty(n, 1)

    def launch(self, patches: torch.Tensor, layers: Sequence[str]) -> PendingBatch:
        return PendingBatch({self.trunk.layer: self._rows[: len(patches)]})

    def measure_rate(self, n_rows: int) -> None:
        return None


def typical_rows(n: int, width: int) -> torch.Tensor:
    """Draw rows that compress about as FC7 of alexnet does: float16 Tensor (n, width)."""
    rng = np.random.default_rng(0)
    shift, scale = rng.normal(TYPICAL_ZEROS, 0.5, width), rng.lognormal(0, 0.4, width)
    values = (rng.standard_normal((n, width), np.float32) + shift) * scale
    return torch.from_numpy(np.maximum(values, 0).astype(np.float16))


def make_trunk() -> Trunk:
    """Make alexnet without weights."""
    config = CONFIGS["alexnet"]
    with torch.device("meta"):
        network = LayeredNetwork(AlexNet(config), "fc7").eval()
    card = TrunkCard(name="alexnet", architecture="alexnet", input_px=config.input_px, layers=config.widths)
    return Trunk(card, "fc7", config.widths["fc7"], "0" * 64, network)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=34)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rescale", choices=("device", "host"), default="device")
    parser.add_argument("--codec", choices=("small", "fast", "zstd"), default="small")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trunk = make_trunk()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        draw_demo(scratch / "demo", options.pictures, 1, seed=0)
        split = read_split(load_manifest("demo"), "train", str(scratch))
        table = make_table(split, SourceSettings())
        runner = InstantRunner(trunk, typical_rows(options.batch, trunk.width), options.rescale == "device")
        extraction = Extraction(
            table, split.paths_by_id, runner, open_folder(scratch / "stores"), options.batch, codec=options.codec
        )
        with mock.patch.object(runner_module, "cut_windows"):
            before, started, main_before = time.process_time(), time.perf_counter(), time.thread_time()
            extraction.run_layers()
            main_s = time.thread_time() - main_before
            spent, wall = time.process_time() - before, time.perf_counter() - started
    per_row = 1e6 / table.n_rows
    print(
        json.dumps(
            {
                **vars(options),
                "rows": table.n_rows,
                "main_thread_us_per_row": round(main_s * per_row, 1),
                "all_threads_us_per_row": round(spent * per_row, 1),
                "wall_s": round(wall, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
