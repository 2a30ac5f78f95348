"""What a GPU gives, from checks of its rows to a fitted head, in one command of less than eight minutes.

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --device cpu --pictures 4 --scenes 4 --batches 8     # tries the script where there is none

Pictures are drawn at VOC's sizes, with boxes, and saved mirrored and at several qualities until there are enough;
weights are random, which costs what trained ones cost. In turn:

1. checks: rows against the CPU's in fp32, within a tolerance; the same rows twice; batches in flight; compiled, each
   of several replays of the graph; a rescaled picture against Pillow's, to the bit;
2. products of matrices at the precision of the trunk: what the device can do at most;
3. the bare trunk on patches that are in the device's memory, at some batch sizes, plain and as --compiled runs it:
   patches per second, and the share of 2. by the trunk's count of operations;
4. JPEG files to a sealed store: patch by patch (also compiled, also with the codec `fast`) and dense, each after a
   short run that is not timed: patches per second, seconds per stage and lane, and the lane that bounds it;
5. heads from a store of the drawn scenes that is in the system's cache: strong, four strong as one stack, weak, SVM;
   the split scored with three of them; and a strong head of one epoch in fp32 twice, against the CPU's.

A lane is what works at the same time as the others: the decoding threads together, the main thread, the device, the
threads that write. Seconds of stages are summed over the threads of a lane, and divided by their number. The exit code
is 1 where a check fails; the figures are written all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extract import load, pictures
from PIL import Image, ImageOps
from torch.utils.flop_counter import FlopCounterMode

from pipeline.activations.extraction import WRITING_BESIDE_A_GPU, Extraction
from pipeline.activations.folder import open_folder
from pipeline.activations.prefetch import MIN_DECODING_THREADS
from pipeline.activations.run_log import RunLog
from pipeline.activations.store import Store
from pipeline.dataset.demo.scenes import draw_demo
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.dataset.split import Split
from pipeline.head.device import HeadDevice
from pipeline.head.fit import fit_heads
from pipeline.head.head import Head
from pipeline.head.settings import HEADS, AnyHead, HeadSettings, SvmSettings
from pipeline.patches.build import make_table
from pipeline.patches.settings import LabelSettings, SourceSettings
from pipeline.scoring.score import score_split
from pipeline.trunk.compiled import CompiledNetwork, find_missing_compiler
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.devices import resolve_device
from pipeline.trunk.resample import resize
from pipeline.trunk.runner import DTYPES, TrunkRunner, resolve_precision
from pipeline.trunk.windows import to_device

ROUNDS = 5
TOLERANCE = {"fp32": 2e-3, "fp16": 2e-2, "bf16": 6e-2}
"""Largest relative error of the rows of a batch, in the Euclidean norm, against fp32 on the CPU."""
HEAD_TOLERANCE = 1e-3
"""Largest relative difference of the weights of a strong head after an epoch in fp32, against the CPU's."""
REPLAYS = 3
LANES = {
    "decoding": ("decode", "rescale"),
    "main thread": ("cut", "trunk", "maps", "rows"),
    "device, beyond the main thread": ("wait for the device",),
    "writing": ("write",),
}
FORMS = {
    "patches": (TrunkRunner, False, "small"),
    "patches, codec fast": (TrunkRunner, False, "fast"),
    "patches, compiled": (TrunkRunner, True, "small"),
    "dense": (DenseRunner, False, "small"),
}


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(work: Callable[[], Any], device: torch.device, warm_up: int = 3) -> float:
    """Return the median of some calls after a warm-up; the device has finished each."""
    for _ in range(warm_up):
        work()
    finish(device)
    spent = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        finish(device)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


# ---- checks


def check_rows(name: str, device: torch.device, precisions: list[str], scratch: Path) -> dict[str, Any]:
    """Compare rows of a batch with the CPU's, with a second run's, and with those of batches in flight."""
    px = load(name, None, scratch).card.input_px
    rng = np.random.default_rng(0)
    contents = [rng.integers(0, 256, (8, px, px, 3), np.uint8) for _ in range(REPLAYS)]
    reference = TrunkRunner(load(name, None, scratch), torch.device("cpu"), "fp32")(contents[0]).astype(float)
    found: dict[str, Any] = {}
    for precision in precisions:
        runner = TrunkRunner(load(name, None, scratch), device, precision)
        rows = [runner(content) for content in contents]
        error = np.linalg.norm(rows[0] - reference) / np.linalg.norm(reference)
        found[f"{precision}: relative error"] = float(f"{error:.2e}")
        found[f"{precision}: within tolerance"] = bool(error < TOLERANCE[precision])
        found[f"{precision}: equal twice"] = bool(np.array_equal(runner(contents[0]), rows[0]))
        found[f"{precision}: rows are independent"] = runner.rows_are_independent(64)
        found[f"{precision}: batches in flight"] = in_flight(runner, contents, rows)
    return found


def in_flight(runner: TrunkRunner, contents: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Return whether batches from one buffer, all launched before any is waited for, give their own rows."""
    batch, layer = runner.new_batch(len(contents[0])), runner.trunk.layer
    launched = []
    for content in contents:
        batch.copy_(to_device(content, runner.device))
        launched.append(runner.launch(batch, (layer,)))
    return all(np.array_equal(one.result()[layer], rows) for one, rows in zip(launched, expected, strict=True))


def check_compiled(name: str, device: torch.device, precision: str, scratch: Path) -> dict[str, Any]:
    """Compare each of several replays of the graph with the plain trunk, alone and in flight."""
    plain, compiled = (TrunkRunner(load(name, None, scratch), device, precision, c) for c in (False, True))
    px = plain.trunk.card.input_px
    rng = np.random.default_rng(1)
    contents = [rng.integers(0, 256, (8, px, px, 3), np.uint8) for _ in range(REPLAYS)]
    for content in contents:
        compiled(content)
    rows = [compiled(content) for content in contents]
    errors = []
    for content, of_compiled in zip(contents, rows, strict=True):
        expected = plain(content).astype(float)
        errors.append(np.linalg.norm(of_compiled - expected) / np.linalg.norm(expected))
    return {
        "compiled: relative error": float(f"{max(errors):.2e}"),
        "compiled: within tolerance": bool(max(errors) < TOLERANCE[precision]),
        "compiled: replays in flight": in_flight(compiled, contents, rows),
    }


def check_rescaling(device: torch.device) -> dict[str, bool]:
    """Compare pictures that the device rescaled with Pillow's, to the bit."""
    rng = np.random.default_rng(2)
    found = {}
    for interpolation in ("bilinear", "bicubic", "lanczos"):
        equal = True
        for (width, height), size in (((500, 375), (1195, 896)), ((333, 500), (224, 336)), ((97, 64), (340, 224))):
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            ours = resize(to_device(pixels, device), size, interpolation).cpu().numpy()
            theirs = Image.fromarray(pixels).resize(size, Image.Resampling[interpolation.upper()])
            equal &= np.array_equal(ours, np.asarray(theirs))
        found[f"rescaled as Pillow does: {interpolation}"] = bool(equal)
    return found


# ---- the bare trunk


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a product of square matrices."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / median_seconds(lambda: a @ b, device)


@torch.inference_mode()
def bare_trunk(
    name: str, device: torch.device, precision: str, batches: list[int], forms: list[bool], most: float, scratch: Path
) -> list[dict[str, Any]]:
    """Return the rates of the network alone, on normalised patches in the device's memory."""
    lines = []
    dtype = DTYPES[precision]
    for compiled in forms:
        trunk = load(name, None, scratch)
        px = trunk.card.input_px
        network = trunk.network.to(device, dtype, memory_format=torch.channels_last)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, px, px, device=device, dtype=dtype))
        flops = counter.get_total_flops()
        for batch in batches:
            # A compiled network has one batch size: its largest so far.
            run = CompiledNetwork(network, device) if compiled else network
            patches = torch.randn(batch, 3, px, px, device=device, dtype=dtype)
            patches = patches.contiguous(memory_format=torch.channels_last)
            rate = batch / median_seconds(lambda run=run, patches=patches: run(patches), device)
            share = round(rate * flops / most, 3)
            lines.append(
                {"batch": batch, "compiled": compiled, "patches_per_second": round(rate), "share_of_matrices": share}
            )
            print(lines[-1], flush=True)
    return lines


# ---- extraction


def make_pictures(scenes: Path, folder: Path, n: int, scratch: Path) -> Split:
    """Save drawn scenes mirrored and at several qualities, until there are `n` pictures."""
    folder.mkdir()
    drawn = sorted(scenes.glob("*.jpg"))
    for index in range(n):
        with Image.open(drawn[index % len(drawn)]) as scene:
            turn = index // len(drawn)
            picture = ImageOps.mirror(scene) if turn % 2 else scene
            picture.save(folder / f"{index:05d}.jpg", quality=95 - turn // 2 % 20)
    return pictures(folder, n, scratch)


def extract_form(
    form: str, trunk: str, device: torch.device, precision: str, split: Split, short: Split, scratch: Path, batch: int
) -> tuple[dict[str, Any], Store]:
    """Extract the pictures in one form, after a short run that is not timed."""
    kind, compiled, codec = FORMS[form]
    runner = kind(load(trunk, None, scratch), device, precision, compiled)
    for content in (short, split):
        folder = scratch / "stores"
        shutil.rmtree(folder, ignore_errors=True)
        table = make_table(content, SourceSettings())
        extraction = Extraction(
            table, content.paths_by_id, runner, open_folder(folder), batch, log_folder=folder, codec=codec
        )
        started = time.perf_counter()
        (store,) = extraction.run_layers()
        spent = time.perf_counter() - started
    stages = dict(RunLog.of_store(folder, store.folder.name).read()[-1].stages)
    n_threads = max(MIN_DECODING_THREADS, torch.get_num_threads())
    shared_by = {"decoding": n_threads, "writing": WRITING_BESIDE_A_GPU if device.type == "cuda" else 1}
    lanes = {lane: sum(stages.get(s, 0.0) for s in of) / shared_by.get(lane, 1) for lane, of in LANES.items()}
    figures = {
        "patches": table.n_rows,
        "seconds": round(spent, 2),
        "patches_per_second": round(table.n_rows / spent),
        "stage_seconds": stages,
        "lane_seconds": {lane: round(seconds, 2) for lane, seconds in lanes.items()},
        "bound_by": max(lanes, key=lanes.__getitem__),
    }
    print(form, figures, flush=True)
    return figures, store


def time_heads(store: Store, split: Split, device: torch.device) -> tuple[dict[str, Any], dict[str, bool]]:
    """Fit heads on a sealed store of the drawn scenes, score it, and compare a strong head with the CPU's.

    The store is read once before, so that its files are in the system's cache.
    """
    table = make_table(split, SourceSettings())
    for _ in store.iter_parts():
        pass
    on = HeadDevice("cuda" if device.type == "cuda" else "cpu", print)

    def fit(what: str, settings: dict[str, AnyHead], on: HeadDevice = on) -> list[Head]:
        started = time.perf_counter()
        heads = [head for _, head in fit_heads(store, table, settings, LabelSettings(), 0, device=on)]
        figures[f"{what}: fit_s"] = round(time.perf_counter() - started, 2)
        return heads

    figures: dict[str, Any] = {"patches": table.n_rows, "device": on.setting}
    short = HeadSettings(max_epochs=(1, 0, 0), precision="fp32")
    fit("strong, one epoch, warm-up", {"short": short})
    (strong,) = fit("strong (FCa of 2,048)", {"strong": HeadSettings()})
    fit(
        "four strong, one stack", {f"s{i}": HeadSettings(dropout=share) for i, share in enumerate((0.3, 0.4, 0.5, 0.6))}
    )
    (weak,) = fit("weak (FCa of 1,024)", {"weak": HEADS["weak-fca"]})
    (svm,) = fit("svm", {"svm": SvmSettings(kind="svm")})
    started = time.perf_counter()
    score_split(store, table, [strong, weak, svm], (1.0, 5.0, "max"), device=on)
    figures["three heads: score_s"] = round(time.perf_counter() - started, 2)
    (here,), (again,), (of_cpu,) = (fit("checked", {"short": short}, each) for each in (on, on, HeadDevice()))
    weights = [torch.cat([p.flatten() for p in head.network.state_dict().values()]) for head in (here, again, of_cpu)]
    error = float((weights[0] - weights[2]).norm() / weights[2].norm())
    figures["strong, one epoch: relative difference from the CPU's"] = float(f"{error:.2e}")
    return figures, {
        "head: equal twice": bool(torch.equal(weights[0], weights[1])),
        "head: within tolerance of the CPU's": error < HEAD_TOLERANCE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--trunk", default="alexnet")
    parser.add_argument("--pictures", type=int, default=2000, help="of a timed extraction")
    parser.add_argument("--scenes", type=int, default=64, help="that are drawn")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 512, 1024])
    parser.add_argument("--scratch", type=Path, help="folder for pictures and stores; default: the system's")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = resolve_device(options.device, print)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    began = time.perf_counter()
    compiles = find_missing_compiler(device.type) is None
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        precision = resolve_precision("auto", device, load(options.trunk, None, scratch).precision)
        checks = check_rescaling(device)
        checks |= check_rows(options.trunk, device, list(dict.fromkeys(["fp32", precision])), scratch)
        if compiles:
            checks |= check_compiled(options.trunk, device, precision, scratch)
        print(json.dumps(checks, indent=2), flush=True)

        most = matrix_rate(device, DTYPES[precision])
        forms = [False, True] if compiles else [False]
        lines = bare_trunk(options.trunk, device, precision, options.batches, forms, most, scratch)

        draw_demo(scratch / "demo", options.scenes, 1, seed=0)
        split = make_pictures(scratch / "demo/JPEGImages", scratch / "pictures", options.pictures, scratch)
        short = make_pictures(scratch / "demo/JPEGImages", scratch / "short", max(2, options.pictures // 20), scratch)
        print(f"pictures drawn {time.perf_counter() - began:.0f} s after the start", flush=True)
        batch = TrunkRunner(load(options.trunk, None, scratch), device, precision).batch_rows
        extractions: dict[str, Any] = {}
        digests = {}
        for form in FORMS:
            if compiles or form != "patches, compiled":
                extractions[form], store = extract_form(
                    form, options.trunk, device, precision, split, short, scratch, batch
                )
                digests[form] = [store.read_rows(np.arange(min(2000, store.n_rows))).tobytes()]
        checks["stores of two runs are equal"] = digests["patches"] == digests["patches, codec fast"]
        runner = TrunkRunner(load(options.trunk, None, scratch), device, precision)
        scenes = read_split(load_manifest("demo"), "train", str(scratch))
        of_scenes = make_table(scenes, SourceSettings())
        (store,) = Extraction(
            of_scenes, scenes.paths_by_id, runner, open_folder(scratch / "for-the-heads")
        ).run_layers()
        heads, of_heads = time_heads(store, scenes, device)
        checks |= of_heads
    failed = [what for what, value in checks.items() if value is False]
    figures = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {platform.processor()}",
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "precision": precision,
        "checks": checks,
        "failed": failed,
        "matrix_tflops": round(most / 1e12, 2),
        "trunk": lines,
        "extraction": extractions,
        "heads": heads,
        "seconds_in_all": round(time.perf_counter() - began),
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
