"""The bare trunk on tensors in memory: batch sizes, plain and compiled, in one run.

    python benchmarks/trunk_rate.py --trunk torchvision/squeezenet1_0 --weights squeezenet1_0.safetensors
    python benchmarks/trunk_rate.py --trunk alexnet64 --batches 128 512

Every form takes its turn in each of the rounds; printed are medians of patches a second, the ratio to the form
that an extraction takes of itself, and how far its rows are from those of that form. --output writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.trunk.devices import resolve_device
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner, resolve_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", default="alexnet64")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each form in each round")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    device = resolve_device("auto")
    trunk = load_trunk(options.trunk, weights=options.weights)
    px = trunk.card.input_px
    usual = TrunkRunner(trunk, device, resolve_precision("auto", device, trunk.precision)).batch_rows
    batches = sorted({*options.batches, usual})
    patches = np.random.default_rng(0).integers(0, 256, (max(batches), px, px, 3), np.uint8)
    forms: dict[tuple[int, bool], TrunkRunner] = {}
    for batch in batches:
        for compiled in (False, True):
            trunk = load_trunk(options.trunk, weights=options.weights)
            runner = TrunkRunner(trunk, device, resolve_precision("auto", device, trunk.precision), compiled)
            forms[batch, compiled] = runner
    rows, rates = {}, {form: [] for form in forms}
    for (batch, compiled), runner in forms.items():
        rows[batch, compiled] = runner(patches[:batch]).astype(np.float32)
    for _ in range(options.rounds):
        for (batch, compiled), runner in forms.items():
            n_rows, started = 0, time.perf_counter()
            while (spent := time.perf_counter() - started) < options.seconds:
                runner(patches[:batch])
                n_rows += batch
            rates[batch, compiled].append(n_rows / spent)

    medians = {form: statistics.median(of_form) for form, of_form in rates.items()}
    table = []
    for (batch, compiled), rate in medians.items():
        both = min(batch, usual)
        got, expected = rows[batch, compiled][:both], rows[usual, False][:both]
        difference = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
        table.append(
            {
                "batch": batch,
                "compiled": compiled,
                "patches_per_second": round(rate, 1),
                "ratio": round(rate / medians[usual, False], 2),
                "largest_difference_of_norm": float(f"{difference.max():.2g}"),
            }
        )
        print(table[-1], flush=True)
    if options.output:
        about = {"trunk": options.trunk, "arithmetic": runner.precision_name, "threads": torch.get_num_threads()}
        options.output.write_text(json.dumps({**about, "usual_batch": usual, "forms": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
