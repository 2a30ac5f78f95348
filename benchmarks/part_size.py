"""How near to a minute the parts come that the rule gives: counted operations, and the trunk alone on this machine.

    python benchmarks/part_size.py
    python benchmarks/part_size.py --batch 16 --output part_size.json torchvision/resnet18

Weights are random. Printed are operations per row in 10^9, rows per part, and the processor seconds of a part on one
core, in fp32 and in bf16: processor time, so that other work on the machine counts little. Two cores take about half.
Decoding, cutting and writing are not in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.activations.part_size import rows_per_part
from pipeline.trunk.load import load_trunk, outline_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import Trunk
from pipeline.trunk.zoo.timm import import_timm
from pipeline.trunk.zoo.torchvision_import import import_torchvision

USUAL = (
    "alexnet64",
    *(f"torchvision/{name}" for name in ("alexnet", "squeezenet1_0", "resnet18", "mobilenet_v3_large")),
    *(f"torchvision/{name}" for name in ("efficientnet_b0", "densenet121", "convnext_tiny", "swin_t")),
    *(f"torchvision/{name}" for name in ("vgg11", "vit_b_16")),
    "timm/tf_efficientnet_lite0",
)


def make_trunk(name: str) -> Trunk:
    """A trunk with random weights; its last layer, which no row has, is run as well."""
    library, _, model = name.partition("/")
    if not model:
        return load_trunk(name)
    torch.manual_seed(0)
    outline = outline_trunk(name)
    assert outline is not None
    if library == "timm":
        network = import_timm().create_model(model)
    else:
        network = import_torchvision().models.get_model(model, weights=None)
    return Trunk(outline.card, outline.layer, outline.width, "0" * 64, network.eval())


def seconds_per_row(runner: TrunkRunner, batch: int, runs: int) -> float:
    """Median processor seconds of a row, after a first batch for set-up."""
    px = runner.trunk.card.input_px
    patches = np.full((batch, px, px, 3), 128, np.uint8)
    runner(patches)
    seconds = []
    for _ in range(runs):
        started = time.process_time()
        runner(patches)
        seconds.append((time.process_time() - started) / batch)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trunks", nargs="*", default=USUAL)
    parser.add_argument("--batch", type=int, help="rows per batch that is measured; default: each trunk's own")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    print(f"{'trunk':32} {'10^9':>7} {'rows':>7} {'fp32 s':>8} {'bf16 s':>8}")
    for name in options.trunks:
        seconds, operations, rows = {}, 0, 0
        for precision in ("fp32", "bf16"):
            runner = TrunkRunner(make_trunk(name), torch.device("cpu"), precision)
            operations = runner.operations_per_row(runner.trunk) or 0
            rows = rows_per_part(runner.trunk.width, operations, runner.batch_rows)
            a_row = seconds_per_row(runner, options.batch or runner.batch_rows, options.runs)
            seconds[precision] = round(rows * a_row, 1)
        table.append({"trunk": name, "operations": operations, "part_rows": rows, "core_seconds": seconds})
        print(f"{name:32} {operations / 1e9:7.2f} {rows:7,} {seconds['fp32']:8.1f} {seconds['bf16']:8.1f}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
