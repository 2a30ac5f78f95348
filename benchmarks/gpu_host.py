"""The host's side of an extraction on a GPU, without one: a device that answers at once gives the host's own limit.

    OMP_NUM_THREADS=1 python benchmarks/gpu_host.py --pictures 34                          # as it is
    OMP_NUM_THREADS=1 python benchmarks/gpu_host.py --pictures 34 --rescale host --batch 64
    OMP_NUM_THREADS=1 python benchmarks/gpu_host.py --pictures 34 --changes --output gpu_host.json

The whole `Extraction` runs, from JPEG files to a sealed store: reading, digests, decoding, rescaling or the copy of the
picture, the loop over batches, the check for finite rows, compression and writing. The device alone is left out:
nothing is cut, launched or copied, and rows are taken from memory. Printed are microseconds of processor time per row:
of the main thread, which is serial, and of all threads, which the cores share. What CUDA's own calls cost the main
thread is not in it.

With ``--changes`` the extraction runs as it is, and with one change undone at a time, each ``--rounds`` times in turn;
medians are printed. Waits are undone on a device that takes ``--device-us`` per row. Three changes are outside of
this loop, and are timed by themselves: windows of boxes in one upload, corners in one upload, and normalising, for
which a table of values is the alternative.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from pipeline.activations import compute, extraction, parts
from pipeline.activations.extraction import WRITING_BESIDE_A_GPU, Extraction
from pipeline.activations.folder import open_folder
from pipeline.dataset.demo.scenes import draw_demo
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.patches.build import make_table
from pipeline.patches.settings import SourceSettings
from pipeline.trunk import runner as runner_module
from pipeline.trunk.alexnet import CONFIGS, AlexNet
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import LayeredNetwork, Trunk
from pipeline.trunk.windows import PlacedWindows, ScaledWindows

TYPICAL_ZEROS = -0.9
"""Mean before the ReLU: about four fifths of the values are 0, as in FC7 of alexnet."""


@dataclass(frozen=True)
class Form:
    """How the host works.

    Attributes
    ----------
    rescale : ``device``: pictures are handed over as they were decoded
    row_by_row : whether rows are checked one by one, as was done before
    across_parts : whether pictures of the next part are decoded while one part is computed
    writing : parts that are written at the same time
    device_us : time that the device takes per row
    spins : whether a wait for the device keeps the core
    """

    batch: int = 512
    rescale: str = "device"
    codec: str = "small"
    row_by_row: bool = False
    across_parts: bool = True
    writing: int = WRITING_BESIDE_A_GPU
    device_us: float = 0.0
    spins: bool = False


UNDONE: dict[str, dict[str, Any]] = {
    "as it is": {},
    "finite check: row by row": {"row_by_row": True},
    "batch: 64 patches": {"batch": 64},
    "decoding: part by part": {"across_parts": False},
    "writing: one part at a time": {"writing": 1},
    "rescaling: Pillow on the CPU": {"rescale": "host"},
    "waits that sleep": {"spins": False},
    "waits that spin": {"spins": True},
}
"""What is undone of `Form`, one at a time; the last two on a device that takes its time."""


class BusyUntil:
    """Stands for a CUDA event that is reached at a time."""

    def __init__(self, moment: float, spins: bool) -> None:
        self._moment, self._spins = moment, spins

    def synchronize(self) -> None:
        while (left := self._moment - time.perf_counter()) > 0:
            if not self._spins:
                time.sleep(left)


class InstantRunner(TrunkRunner):
    """A runner whose device answers at once.

    Parameters
    ----------
    rows : float16 Tensor (batch, width), what each batch gives
    form : how it works
    """

    def __init__(self, trunk: Trunk, rows: torch.Tensor, form: Form) -> None:
        super().__init__(trunk, torch.device("cpu"), "fp32", elsewhere=True)
        self._rows, self._form = rows, form
        self._memory: deque[np.ndarray] = deque()
        self._free_at = 0.0

    def rescales(self, interpolation: str) -> bool:
        return self._form.rescale == "device"

    def rescale_windows(self, picture: np.ndarray, placed: Sequence[PlacedWindows]) -> list[ScaledWindows]:
        pixels = torch.from_numpy(picture.copy())  # into page-locked memory
        return [ScaledWindows(pixels, *map(torch.from_numpy, (windows.x, windows.y))) for windows in placed]

    def load_windows(self, scaled: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[ScaledWindows]:
        copied = torch.from_numpy(np.concatenate([pixels.reshape(-1) for pixels, _, _ in scaled]))
        return [ScaledWindows(copied, *map(torch.from_numpy, (x, y))) for _, x, y in scaled]

    def new_rows(self, n: int, width: int) -> np.ndarray:
        # One part is computed, one waits, others are written: memory is used again, as torch's page-locked memory is.
        if len(self._memory) < 3 + self._form.writing:
            self._memory.append(np.empty((n, width), np.float16))
        self._memory.rotate()
        return self._memory[0][:n]

    def new_batch(self, n: int) -> torch.Tensor:
        return torch.empty(n, 1)

    def launch(self, patches: torch.Tensor, layers: Sequence[str]) -> PendingBatch:
        rows = {self.trunk.layer: self._rows[: len(patches)]}
        if not self._form.device_us:
            return PendingBatch(rows)
        self._free_at = max(self._free_at, time.perf_counter()) + 1e-6 * self._form.device_us * len(patches)
        return PendingBatch(rows, BusyUntil(self._free_at, self._form.spins))  # type: ignore[arg-type]

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


def check_row_by_row(rows: np.ndarray) -> bool:
    return bool(np.isfinite(rows).all(axis=1).all())


class PartByPart:
    """Stands for the queue of pictures over all parts: it asks for one part at a time, and decodes nothing."""

    def __init__(self, plans: Iterator[Any]) -> None:
        self._plans = plans

    def __enter__(self) -> PartByPart:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def fill(self) -> None:
        next(self._plans, None)


@contextlib.contextmanager
def working_as(form: Form) -> Iterator[None]:
    """Undo what a form says."""
    with contextlib.ExitStack() as stack:

        def patch(where: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(where, name, value))

        patch(runner_module, "cut_windows", lambda *of: None)
        local = extraction.InProcessEngine
        patch(extraction, "InProcessEngine", lambda maker, n: local(maker, form.writing))
        if form.row_by_row:
            patch(compute, "all_finite", check_row_by_row)
        if not form.across_parts:
            of_part = parts.compute_layers
            patch(parts, "queue_scales", lambda plans, *of: PartByPart(plans))
            patch(parts, "compute_layers", lambda *of, windows=None, **more: of_part(*of, **more))
        yield


def run(form: Form, trunk: Trunk, scratch: Path) -> dict[str, Any]:
    """Extract the drawn pictures; return the rows, and processor time per row."""
    split = read_split(load_manifest("demo"), "train", str(scratch))
    table = make_table(split, SourceSettings())
    runner = InstantRunner(trunk, typical_rows(form.batch, trunk.width), form)
    with tempfile.TemporaryDirectory(dir=scratch) as stores, working_as(form):
        job = Extraction(table, split.paths_by_id, runner, open_folder(stores), form.batch, codec=form.codec)
        before, started, main_before = time.process_time(), time.perf_counter(), time.thread_time()
        job.run_layers()
        main_s = time.thread_time() - main_before
        spent, wall = time.process_time() - before, time.perf_counter() - started
    per_row = 1e6 / table.n_rows
    return {
        "rows": table.n_rows,
        "main_thread_us_per_row": round(main_s * per_row, 1),
        "all_threads_us_per_row": round(spent * per_row, 1),
        "wall_s": round(wall, 1),
    }


# ---- changes outside of the loop


def best_us(work: Callable[[], object], rounds: int = 7) -> float:
    """Return the least processor time of some calls, in microseconds."""
    spent = []
    for _ in range(rounds):
        started = time.thread_time()
        work()
        spent.append(time.thread_time() - started)
    return 1e6 * min(spent)


def uploads(n: int = 185, px: int = 224, n_scales: int = 9) -> dict[str, float]:
    """Time the host's part of uploads, copies in memory: in one piece per picture, and one by one as before."""
    patches = np.zeros((n, px, px, 3), np.uint8)
    corners = [np.zeros((2, 54), np.int64) for _ in range(n_scales)]
    return {
        "windows of boxes, in one piece": best_us(lambda: torch.from_numpy(patches).clone()) / n,
        "windows of boxes, one by one": best_us(lambda: [torch.from_numpy(patch).clone() for patch in patches]) / n,
        "corners, in one piece": best_us(lambda: torch.from_numpy(np.concatenate(corners, axis=1)).clone()) / 488,
        "corners, scale by scale": best_us(lambda: [torch.from_numpy(xy).clone() for of in corners for xy in of]) / 488,
    }


def normalising(n: int = 16, px: int = 224) -> dict[str, float]:
    """Time normalising on the CPU by arithmetic and by a table of 256 x 3 values, which give the same bits."""
    patches = torch.randint(0, 256, (n, px, px, 3), dtype=torch.uint8)
    mean, inv_std = 255 * torch.tensor([0.485, 0.456, 0.406]), 1 / (255 * torch.tensor([0.229, 0.224, 0.225]))
    lines, channel = patches.flatten(0, 1), torch.arange(3, dtype=torch.int32)
    block = max(1, runner_module.CACHED_VALUES // lines[0].numel())
    found = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        levels = torch.arange(256).float()[:, None].expand(256, 3)
        table = levels.sub(mean).mul(inv_std).to(dtype).flatten()
        by_table, by_arithmetic = torch.empty(lines.shape, dtype=dtype), torch.empty(lines.shape, dtype=dtype)

        def look_up(table: torch.Tensor = table, out: torch.Tensor = by_table) -> None:
            for pixels, values in zip(lines.split(block), out.split(block), strict=True):
                index = (pixels.int() * 3 + channel).flatten()
                torch.index_select(table, 0, index, out=values.view(-1))

        def compute_values(out: torch.Tensor = by_arithmetic) -> None:
            for pixels, values in zip(lines.split(block), out.split(block), strict=True):
                values.copy_(pixels.float().sub_(mean).mul_(inv_std))

        name = str(dtype).removeprefix("torch.")
        found[f"normalising to {name}, arithmetic"] = best_us(compute_values) / n
        found[f"normalising to {name}, table"] = best_us(look_up) / n
        assert torch.equal(by_table, by_arithmetic), name
    return found


def compare_changes(options: argparse.Namespace, trunk: Trunk, scratch: Path) -> dict[str, Any]:
    """Run each form in turn, several times; return medians and the changes outside of the loop."""
    base = Form(options.batch, options.rescale, options.codec)
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in UNDONE}
    for number in range(options.rounds + 1):  # the first round warms up
        for name, undone in UNDONE.items():
            device_us = options.device_us if name.startswith("waits") else 0.0
            figures = run(replace(base, **undone, device_us=device_us), trunk, scratch)
            if number:
                made[name].append(figures)
    medians = {
        name: {key: statistics.median(figures[key] for figures in several) for key in several[0]}
        for name, several in made.items()
    }
    print(f"{'form':34} {'main thread':>12} {'all threads':>12} {'wall':>8}   us per row, s")
    for name, of in medians.items():
        values = of["main_thread_us_per_row"], of["all_threads_us_per_row"], of["wall_s"]
        print(f"{name:34} {values[0]:12.1f} {values[1]:12.1f} {values[2]:8.1f}")
    others = {name: round(us, 2) for name, us in {**uploads(), **normalising()}.items()}
    print("\nmicroseconds per patch, one thread")
    for name, us in others.items():
        print(f"{name:46} {us:10.2f}")
    return {"changes": medians, "others_us_per_patch": others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=34)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rescale", choices=("device", "host"), default="device")
    parser.add_argument("--codec", choices=("small", "fast", "zstd"), default="small")
    parser.add_argument("--changes", action="store_true", help="undo each change in turn")
    parser.add_argument("--rounds", type=int, default=3, help="of --changes")
    parser.add_argument("--device-us", type=float, default=50.0, help="per row, of a device that is waited for")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trunk = make_trunk()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        draw_demo(scratch / "demo", options.pictures, 1, seed=0)
        if options.changes:
            figures = compare_changes(options, trunk, scratch)
        else:
            form = Form(options.batch, options.rescale, options.codec)
            figures = {"pictures": options.pictures, **vars(form), **run(form, trunk, scratch)}
            print(json.dumps(figures))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
