"""What a GPU gives, from the bare trunk to a fitted head, in one command of less than eight minutes.

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --device cpu --pictures 4 --batches 64     # tries the script where there is none

Pictures are drawn at VOC's sizes, with boxes; weights are random, which costs what trained ones cost. In turn:

1. products of matrices at the precision of the trunk: what the device can do at most;
2. the bare trunk (alexnet, 224 px) on patches that are in the device's memory, at some batch sizes, plain and
   compiled: patches a second, and the share of 1. by the trunk's count of operations;
3. JPEG files to a sealed store, patch by patch and dense: patches a second, seconds a stage, and what bounds it;
4. a head from that store, and the split scored with it.

Medians of five where it says so; extraction runs twice, and the second counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extract import load
from torch.utils.flop_counter import FlopCounterMode

from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import open_folder
from pipeline.dataset.demo.scenes import draw_demo
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.head.fit import fit_heads
from pipeline.head.settings import HeadSettings
from pipeline.patches.build import make_table
from pipeline.patches.settings import LabelSettings, SourceSettings
from pipeline.scoring.score import score_split
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.devices import resolve_device
from pipeline.trunk.runner import DTYPES, TrunkRunner, resolve_precision

ROUNDS = 5


def median_seconds(work: Callable[[], Any], device: torch.device, rounds: int = ROUNDS) -> float:
    """Of some calls after a first one that is not counted; the device has finished each."""

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    finish()
    spent = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        finish()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the largest product of square matrices that takes no longer than a second or so."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / median_seconds(lambda: a @ b, device)


@torch.inference_mode()
def bare_trunk(name: str, device: torch.device, batches: list[int], scratch: Path, most: float) -> list[dict[str, Any]]:
    """Patches a second of the network alone, on normalised patches in the device's memory."""
    lines = []
    for compiled in (False, True):
        trunk = load(name, None, scratch)
        precision = resolve_precision("auto", device, trunk.precision)
        dtype = DTYPES[precision]
        network = trunk.network.to(device, dtype, memory_format=torch.channels_last)
        if compiled:
            network = torch.compile(network, dynamic=False)
        px = trunk.card.input_px
        with FlopCounterMode(display=False) as counter:
            trunk.network(torch.zeros(1, 3, px, px, device=device, dtype=dtype))
        flops = counter.get_total_flops()
        for batch in batches:
            patches = torch.randn(batch, 3, px, px, device=device, dtype=dtype)
            patches = patches.contiguous(memory_format=torch.channels_last)
            rate = batch / median_seconds(lambda network=network, patches=patches: network(patches), device)
            lines.append(
                {
                    "batch": batch,
                    "compiled": compiled,
                    "patches_per_second": round(rate),
                    "share_of_matrix_rate": round(rate * flops / most, 3),
                }
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--trunk", default="alexnet")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = resolve_device(options.device)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        draw_demo(scratch / "demo", options.pictures, 1, seed=0)
        print(f"{options.pictures} pictures drawn in {time.perf_counter() - began:.0f} s", flush=True)
        split = read_split(load_manifest("demo"), "train", str(scratch))
        table = make_table(split, SourceSettings())
        paths = split.paths_by_id

        trunk = load(options.trunk, None, scratch)
        precision = resolve_precision("auto", device, trunk.precision)
        most = matrix_rate(device, DTYPES[precision])
        trunk_lines = bare_trunk(options.trunk, device, options.batches, scratch, most)
        best = max(trunk_lines, key=lambda line: line["patches_per_second"])

        extractions: dict[str, Any] = {}
        for method, kind in (("patches", TrunkRunner), ("dense", DenseRunner)):
            runner = kind(load(options.trunk, None, scratch), device, precision)
            for attempt in range(2):
                folder = scratch / f"{method}-{attempt}"
                started = time.perf_counter()
                batch = best["batch"]
                store = Extraction(table, paths, runner, open_folder(folder), batch, log_folder=folder).run()
                spent = time.perf_counter() - started
                log = next(folder.glob("*.log.jsonl"))
                stages = json.loads(log.read_text().splitlines()[-1])["stages"]
            extractions[method] = {
                "patches_per_second": round(table.n_rows / spent),
                "stage_seconds": stages,
                "bound_by": max(stages, key=stages.get),
            }
            print(method, extractions[method], flush=True)

        started = time.perf_counter()
        ((_, head),) = fit_heads(store, table, {"bench": HeadSettings()}, LabelSettings(), 0)
        fit_s = time.perf_counter() - started
        score_split(store, table, [head], (1.0, 5.0, "max"))
        score_s = time.perf_counter() - started - fit_s
    figures = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {platform.processor()}",
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "precision": precision,
        "matrix_tflops": round(most / 1e12, 2),
        "trunk": trunk_lines,
        "patches": table.n_rows,
        "extraction": extractions,
        "head_s": {"fit": round(fit_s, 2), "score": round(score_s, 2)},
        "seconds_in_all": round(time.perf_counter() - began),
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
