"""Our extraction against the loop that a user would write, on the same pictures and trunk, in one run.

    python benchmarks/extract.py --trunk alexnet --pictures-dir DIR
    python benchmarks/extract.py --trunk alexnet64
    python benchmarks/extract.py --trunk torchvision/squeezenet1_0 --weights FILE --forms patches compiled dense

The plain loop: a torch Dataset whose items are patches (the picture opened with PIL, kept while its
patches are asked for, crop, resize, normalise), a DataLoader with the best of 0, 1 and 2 workers, the
network in fp32. Ours: JPEG files to a sealed store, at the precision that the device is best at, in the asked
forms. All go through every patch of the nine scales of the same pictures, and take turns. Prints medians, the
ratio of patches a second to the plain loop's in the same round, and the stages' share; --output writes JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.activations.extraction import extract
from pipeline.dataset.demo.scenes import draw_demo
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.manifest_entries import SplitEntry
from pipeline.dataset.split import Split
from pipeline.patches.build import make_table
from pipeline.patches.settings import SourceSettings
from pipeline.patches.table import PatchTable
from pipeline.trunk.backends import resolve_backend
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner, resolve_precision
from pipeline.trunk.trunk import Trunk
from pipeline.trunk.zoo.torchvision_import import import_torchvision

CPU = torch.device("cpu")


class PatchDataset(torch.utils.data.Dataset):
    """The plain form: one patch an item, cut from the picture and resized by PIL."""

    def __init__(self, table: PatchTable, paths: dict[str, Path], trunk: Trunk) -> None:
        self.table, self.rows, self.px = table, table.rows_at(slice(None)), trunk.card.input_px
        self.paths = [paths[i] for i in table.ids]
        preprocessing = trunk.card.preprocessing
        self.mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
        self.std = torch.tensor(preprocessing.std).view(3, 1, 1)

    @staticmethod
    @lru_cache(maxsize=1)
    def picture(path: Path) -> Image.Image:
        return Image.open(path).convert("RGB")

    def __len__(self) -> int:
        return self.table.n_rows

    def __getitem__(self, row: int) -> torch.Tensor:
        image = self.picture(self.paths[self.rows.picture[row]])
        box = tuple(map(float, self.rows.box_xyxy[row]))
        patch = image.resize((self.px, self.px), Image.Resampling.BILINEAR, box=box)
        pixels = torch.from_numpy(np.array(patch)).permute(2, 0, 1).float() / 255
        return (pixels - self.mean) / self.std


@torch.inference_mode()
def plain_loop(table: PatchTable, paths: dict[str, Path], trunk: Trunk, workers: int, batch: int) -> float:
    """Seconds of the plain loop over all patches."""
    loader = torch.utils.data.DataLoader(PatchDataset(table, paths, trunk), batch_size=batch, num_workers=workers)
    started = time.perf_counter()
    rows = [trunk.network(patches) for patches in loader]
    np.concatenate([item.numpy() for item in rows]).astype(np.float16)
    return time.perf_counter() - started


def our_extraction(table: PatchTable, paths: dict[str, Path], runner: TrunkRunner) -> tuple[float, dict[str, float]]:
    """Seconds from JPEG files to a sealed store, and the seconds of each stage."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        extract(table, paths, runner, Path(cache))
        seconds = time.perf_counter() - started
        log = next(Path(cache).glob("*.log.jsonl")).read_text().splitlines()[-1]
    return seconds, json.loads(log)["stages"]


def make_runner(form: str, trunk: Trunk) -> TrunkRunner:
    """A runner of one of the forms, in the library that an extraction takes; compiled if that is to be."""
    precision = resolve_precision("auto", CPU, trunk.precision)
    compiled, dense = form == "compiled", form == "dense"
    backend = resolve_backend("auto", trunk, CPU, precision, compiled=compiled, dense=dense)
    if dense:
        return DenseRunner(trunk, CPU, precision, compiled, backend)
    runner = TrunkRunner(trunk, CPU, precision, compiled, backend)
    px = trunk.card.input_px
    runner(np.zeros((runner.batch_rows, px, px, 3), np.uint8))
    return runner


def bare_trunk(runner: TrunkRunner, n: int, batch: int) -> float:
    """Seconds of the trunk alone on `n` patches that are in memory."""
    px = runner.trunk.card.input_px
    patches = np.random.default_rng(0).integers(0, 256, (batch, px, px, 3), np.uint8)
    runner(patches)
    started = time.perf_counter()
    for _ in range(max(1, n // batch)):
        runner(patches)
    return (time.perf_counter() - started) * n / (max(1, n // batch) * batch)


def load(name: str, weights: Path | None, folder: Path) -> Trunk:
    """The trunk; `alexnet` without weights gets random ones, which cost what trained ones cost."""
    if name == "alexnet" and weights is None:
        torch.manual_seed(0)
        model = import_torchvision().models.alexnet(weights=None)
        weights = folder / "alexnet.safetensors"
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    return load_trunk(name, weights=weights)


def pictures(folder: Path | None, n: int, scratch: Path) -> Split:
    """`n` pictures of a folder, or drawn ones."""
    if folder is None:
        draw_demo(scratch / "demo", n, 2, seed=1)
        folder = scratch / "demo" / "JPEGImages"
    paths = sorted(folder.glob("*.jpg"))[:n]
    manifest = Manifest(
        name="bench",
        title="benchmark",
        folder="bench",
        classes=("none",),
        metric="voc12",
        fit="all",
        eval="all",
        splits={"all": SplitEntry()},
    )
    return Split.of_files(manifest, paths, name="all")


def compare(rates: dict[str, list[float]], form: str, stages: dict[str, float]) -> dict[str, Any]:
    """Ratios of one form, round by round, and its stages in the last."""
    ratios = {to: [a / b for a, b in zip(rates[form], rates[to], strict=True)] for to in ("plain", "bare")}
    total = sum(stages.values())
    return {
        "ratio_to_plain": round(statistics.median(ratios["plain"]), 2),
        "ratio_range": [round(min(ratios["plain"]), 2), round(max(ratios["plain"]), 2)],
        "ratio_to_bare": round(statistics.median(ratios["bare"]), 2),
        "stage_share": {name: round(s / total, 3) for name, s in stages.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", default="alexnet64")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--forms", nargs="+", choices=("patches", "compiled", "dense"), default=["patches"])
    parser.add_argument("--pictures-dir", type=Path, help="folder of JPEG files; drawn scenes without it")
    parser.add_argument("--pictures", type=int, help="how many; default 10 at 224 px, 40 at 64 px")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        trunk = load(options.trunk, options.weights, scratch)
        px = trunk.card.input_px
        split = pictures(options.pictures_dir, options.pictures or (10 if px > 100 else 40), scratch)
        table = make_table(split, SourceSettings())
        paths = split.paths_by_id
        batch = 64 if px > 100 else 256
        one = make_table(pictures(options.pictures_dir, 1, scratch), SourceSettings())
        trial = {workers: plain_loop(one, paths, trunk, workers, batch) for workers in (0, 1, 2)}
        workers = min(trial, key=trial.get)
        runners = {form: make_runner(form, load(options.trunk, options.weights, scratch)) for form in options.forms}
        bare = make_runner("patches", load(options.trunk, options.weights, scratch))
        rates: dict[str, list[float]] = {name: [] for name in ("plain", "bare", *runners)}
        stages: dict[str, dict[str, float]] = {}
        # Interleaved, so that a slow minute of the machine slows all of them.
        for _ in range(options.repeat):
            rates["plain"].append(table.n_rows / plain_loop(table, paths, trunk, workers, batch))
            rates["bare"].append(table.n_rows / bare_trunk(bare, table.n_rows, bare.batch_rows))
            for form, runner in runners.items():
                seconds, stages[form] = our_extraction(table, paths, runner)
                rates[form].append(table.n_rows / seconds)
    figures = {
        "trunk": options.trunk,
        "patches": table.n_rows,
        "pictures": len(split.ids),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "precision": bare.precision_name,
        "plain_workers": workers,
        "plain_trial_seconds": {str(w): round(s, 2) for w, s in trial.items()},
        "patches_per_second": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "repeat": options.repeat,
        "forms": {form: compare(rates, form, stages[form]) for form in runners},
    }
    print(json.dumps(figures, indent=2))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
