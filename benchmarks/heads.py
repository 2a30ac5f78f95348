"""What keeping activations costs a head: reading against the same arithmetic on rows in memory, in one run.

    python benchmarks/heads.py --dataset voc12 --config voc12.yaml
    python benchmarks/heads.py --dataset demo

The stores of both splits must be there (`pipeline extract`). Each figure is a ratio, the median over rounds in which
both sides take their turn:

    fit strong       a head of two layers from the store, against the fit alone on its rows in memory
    epoch weak       an epoch of a weak head that reads every part, against one on pictures held in memory
    score            a split from the store, against the same scores of its rows in memory
    eight heads      seconds of eight heads that are fitted together, over those of one: of one layer, where reading
                     decides, and (one round) of two, where arithmetic does
    further head     seconds from JPEG files to scores, extraction as the run logs have it, over those of a further head

--output writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.activations.run_log import log_name
from pipeline.dataset.manifest import load_manifest
from pipeline.head import strong, weak
from pipeline.head.bags import PictureBags
from pipeline.head.fit import fit_heads
from pipeline.head.fitting import make_optimizer
from pipeline.head.head import Head
from pipeline.head.joint_fit import JointFit
from pipeline.head.rows import RowReader
from pipeline.head.settings import HeadSettings, WeakSettings
from pipeline.head.task import FitTask
from pipeline.io.yaml import read_mapping
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.score import make_accumulator, score_split
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import open_rows
from pipeline.stages.workspace import Workspace

STRONG = HeadSettings()
WEAK = WeakSettings(kind="weak", top=20)
LABELS = LabelSettings()
AGGREGATIONS = (1.0, 5.0, "max", "top:20")
EIGHT_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Data:
    """A split: its table, its sealed store, and all of its rows in memory."""

    def __init__(self, ws: Workspace, dataset: str, split: str) -> None:
        run = RunContext(ws, dataset)
        self.table, self.store = open_rows(run, split)
        log = ws.cache / log_name(self.store.folder.name)
        self.extraction_s = sum(json.loads(line)["seconds"] for line in log.read_text().splitlines())
        self.rows = np.concatenate([rows for _, rows in self.store.iter_parts()])


def fit_strong_in_memory(rows: np.ndarray, targets: np.ndarray, loss: Any, width: int, n_classes: int) -> None:
    joint = JointFit(0, loss)
    joint.add(strong.make_network(width, n_classes, STRONG), STRONG, "bench")
    joint.run(rows, targets)


def weak_epoch(data: Data, pictures: PictureBags) -> None:
    """One epoch of a weak head, with the steps and batches of a fit."""
    network = weak.make_network(data.store.width, len(data.table.classes), WEAK)
    generator = torch.Generator().manual_seed(0)
    network.initialise(generator)
    network.train()
    optimizer = make_optimizer(network, WEAK)
    labels = torch.from_numpy(data.table.picture_labels)
    for batch in pictures.in_batches(WEAK.batch, generator):
        weak.take_step(network, optimizer, batch, labels[[picture for picture, _ in batch]], WEAK.top)


def score_in_memory(data: Data, heads: Sequence[Head]) -> None:
    accumulators = [make_accumulator(head, range(len(data.table.ids)), AGGREGATIONS, data.table) for head in heads]
    for part in data.store.parts:
        rows = slice(part.start, part.stop)
        for accumulator in accumulators:
            accumulator.add(data.rows[rows], data.table.picture_of(rows))
    for accumulator in accumulators:
        accumulator.columns()


def fit_together(data: Data, settings: Sequence[HeadSettings]) -> list[Head]:
    named = {f"bench {n}": its for n, its in enumerate(settings)}
    return [head for _, head in fit_heads(data.store, data.table, named, LABELS, 0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    ws = Workspace(parse_run_settings(read_mapping(options.config) if options.config else {}))
    set_threads(ws.settings.threads)
    manifest = load_manifest(options.dataset)
    fit, eval_ = (Data(ws, options.dataset, split) for split in (manifest.fit, manifest.eval))
    width, n_classes = fit.store.width, len(fit.table.classes)

    none_held_out = np.zeros(len(fit.table.ids), bool)
    task = FitTask(fit.store, fit.table, "bench", LABELS, 0, none_held_out, None, RowReader(fit.store))
    chosen = strong.choose_training_patches(task, STRONG)
    rows = task.reader.activations_at(chosen.row_index, "bench", 0)
    held = PictureBags(fit.store, fit.table.first_row, ~none_held_out, cache_bytes=2**62)
    list(held.in_order())
    (head,) = fit_together(fit, [STRONG])
    one_layer = [HeadSettings(hidden=(), rates=(rate, rate / 10, rate / 100)) for rate in EIGHT_RATES]
    two_layers = [STRONG.model_copy(update={"rates": (r, r / 10, r / 100)}) for r in EIGHT_RATES]

    sides: dict[str, Callable[[], Any]] = {
        "strong from the store": lambda: fit_together(fit, [STRONG]),
        "strong in memory": lambda: fit_strong_in_memory(rows, chosen.targets, chosen.loss, width, n_classes),
        "weak from the store": lambda: weak_epoch(
            fit, PictureBags(fit.store, fit.table.first_row, ~none_held_out, cache_bytes=256 * 2**20)
        ),
        "weak in memory": lambda: weak_epoch(fit, held),
        "score from the store": lambda: score_split(eval_.store, eval_.table, [head], AGGREGATIONS),
        "score in memory": lambda: score_in_memory(eval_, [head]),
        "read alone": lambda: [None for _ in eval_.store.iter_parts()],
        "one head of one layer": lambda: fit_together(fit, one_layer[3:4]),
        "eight heads of one layer": lambda: fit_together(fit, one_layer),
    }
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for name, work in sides.items():
            spent[name].append(seconds(work))
            print(f"round {number + 1}: {name} {spent[name][-1]:.2f} s", flush=True)
    eight = seconds(lambda: fit_together(fit, two_layers))

    def ratio(above: str, below: str) -> float:
        return round(statistics.median(a / b for a, b in zip(spent[above], spent[below], strict=True)), 3)

    medians = {name: round(statistics.median(values), 3) for name, values in spent.items()}
    further = medians["strong from the store"] + medians["score from the store"]
    first = fit.extraction_s + eval_.extraction_s
    figures = {
        "dataset": options.dataset,
        "trunk": ws.settings.trunk,
        "layer": ws.settings.layer,
        "width": width,
        "rows": {"fit": fit.table.n_rows, "of them for a strong head": len(rows), "eval": eval_.table.n_rows},
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "median_seconds": medians,
        "read_mb_per_s": round(eval_.rows.nbytes / medians["read alone"] / 1e6),
        "fit_strong_rate_to_memory": ratio("strong in memory", "strong from the store"),
        "epoch_weak_rate_to_memory": ratio("weak in memory", "weak from the store"),
        "score_rate_to_memory": ratio("score in memory", "score from the store"),
        "eight_heads_of_one_layer_to_one": ratio("eight heads of one layer", "one head of one layer"),
        "eight_heads_of_two_layers_to_one": round(eight / medians["strong from the store"], 2),
        "extraction_s": round(first, 1),
        "further_head_s": round(further, 1),
        "first_run_to_further_head": round((first + further) / further, 1),
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
