"""Table, fit, score and average precision at 1x, 10x and 100x pictures, the last as many as COCO has.

    python benchmarks/growth.py --json docs/measured/growth.json

Pictures are drawn as objects and sizes alone, rows as numbers: no picture is decoded, no trunk runs. All else is what
the commands run, on real files: the patch table, a sealed store, a head, scores. Each step is a process of its own;
its peak of memory is what the kernel states. The fit has a budget of --memory GiB, so its rows may lie in a file.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import click
from scale import MIB, apart, draw_table, files_below

PICTURES = (1183, 11829, 118287)
ROWS_PER_PICTURE = 509
STEPS = ("patches", "store", "fit-head", "fit-head svm", "score", "evaluate")


def make_table(work: Path, pictures: int, width: int, memory: float) -> None:
    """Draw a table, hash its rows and labels, and write its file."""
    from dataclasses import replace

    from pipeline.patches.table_file import write_table

    table = draw_table(pictures * ROWS_PER_PICTURE)
    table = replace(table, rows_digest=table.compute_rows_digest(), label_hashes=table.compute_label_hashes())
    write_table(table, work / "table.h5")


def make_store(work: Path, pictures: int, width: int, memory: float) -> None:
    """Write a sealed store of drawn rows: a column per class is high where an object of it fills the patch."""
    import numpy as np

    from pipeline.activations.writer import StoreWriter, create_store
    from pipeline.patches.table_file import read_table

    table = read_table(work / "table.h5")
    identity = {
        "seen.pictures": table.pictures_digest(),
        "seen.rows": table.rows_digest,
        "seen.which": "all",
        "seen.n_rows": table.n_rows,
        "seen.skipped": [],
        "how.layer": "fc7",
        "how.dtype": "float16",
        "how.width": width,
        "how.precision": "cpu-fp32",
        "how.part_rows": 32768,
        "how.source": "grid",
    }
    create_store(work / "rows.zarr", identity, table.ids, {})
    writer = StoreWriter(work / "rows.zarr")
    noise = np.random.default_rng(0).normal(0, 0.5, (2 * 32768, width)).astype(np.float16)
    for part in writer.parts:
        rows = table.rows_at(slice(part.start, part.stop))
        values = noise[part.index % 32768 :][: part.n_rows].copy()
        for index in np.unique(rows.picture).tolist():
            filling = table.overlap_of_picture(index).filling_class
            own = np.flatnonzero(rows.picture == index)
            filling = filling[part.start + own - table.first_row[index]]
            filled = filling >= 0
            values[own[filled], filling[filled]] += 2
        geometry = {"picture": rows.picture, "box_xyxy": rows.box_xyxy, "scale": rows.scale}
        writer.write_part(part, {"activations": values, **geometry})
    writer.seal()


def fit_head(work: Path, pictures: int, width: int, memory: float, name: str = "fcb") -> None:
    """Fit a built-in head, the linear one unless told, for three epochs, and save it."""
    from pipeline.activations.store import Store
    from pipeline.head.file import save_head
    from pipeline.head.fit import fit_heads
    from pipeline.head.fit_rows import MemoryBudget
    from pipeline.head.rows import RowReader
    from pipeline.head.settings import HEADS
    from pipeline.patches.settings import LabelSettings
    from pipeline.patches.table_file import read_table

    store, table = Store(work / "rows.zarr"), read_table(work / "table.h5")
    settings = HEADS[name]
    if settings.kind == "strong":
        settings = settings.model_copy(update={"max_epochs": (1, 1, 1)})
    budget = MemoryBudget(int(memory * 2**30), work, lambda line: print(f"    {line}"))
    reader = RowReader(store, budget=budget)
    for _, head in fit_heads(store, table, {name: settings}, LabelSettings(), 0, reader=reader):
        save_head(head, work / f"{name}.safetensors")


def fit_svm(work: Path, pictures: int, width: int, memory: float) -> None:
    """Fit linear SVMs on the labels of pictures."""
    fit_head(work, pictures, width, memory, "svm")


def score(work: Path, pictures: int, width: int, memory: float) -> None:
    """Score all pictures with both heads, with the peaks of their maps."""
    from pipeline.activations.store import Store
    from pipeline.head.file import load_head
    from pipeline.patches.table_file import read_table
    from pipeline.scoring.score import score_split
    from pipeline.scoring.scores_file import save_scores

    store, table = Store(work / "rows.zarr"), read_table(work / "table.h5")
    heads = [load_head(work / f"{name}.safetensors") for name in ("fcb", "svm")]
    for scores in score_split(store, table, heads, (1, 3, 5, 8)):
        save_scores(scores, work / f"{scores.facts.head.name}.h5")


def evaluate(work: Path, pictures: int, width: int, memory: float) -> None:
    """Compute the mean AP of the scores by each aggregation."""
    from pipeline.metrics.average_precision import mean_average_precision
    from pipeline.patches.table_file import read_table
    from pipeline.scoring.scores_file import load_scores

    table = read_table(work / "table.h5")
    for name in ("fcb", "svm"):
        scores = load_scores(work / f"{name}.h5")
        for k in scores.aggregations:
            mean, _ = mean_average_precision(scores.by(k), table.scored_labels, "voc12")
            print(f"    {name}, {k}: mAP {100 * mean:.1f}")


def run_step(step: str, work: Path, pictures: int, width: int, memory: float) -> dict[str, Any]:
    """Run a step in this process, and return its seconds, and the peak of the process's memory."""
    from pipeline.io.memory import peak_memory

    functions = dict(zip(STEPS, (make_table, make_store, fit_head, fit_svm, score, evaluate), strict=True))
    started = time.perf_counter()
    functions[step](work, pictures, width, memory)
    seconds = time.perf_counter() - started
    return {"step": step, "seconds": round(seconds, 1), "peak_mib": round(peak_memory() / MIB)}


@click.command()
@click.option("--pictures", "sizes", multiple=True, type=int, default=PICTURES, show_default=True)
@click.option("--width", default=16, show_default=True, help="Columns of a row.")
@click.option("--memory", default=4.0, show_default=True, help="GiB that a fit may take.")
@click.option("--work", default="build/growth", type=click.Path(path_type=Path), help="A folder that is removed after.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures.")
def main(sizes: tuple[int, ...], width: int, memory: float, work: Path, file: Path | None) -> None:
    """Measure how memory, seconds, files and bytes grow with pictures."""
    found = []
    for pictures in sizes:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        steps = []
        for step in STEPS:
            steps.append(apart(run_step, step, work.absolute(), pictures, width, memory))
            print(f"{pictures:,} pictures: {steps[-1]}", flush=True)
        files = files_below(work)
        found.append({"pictures": pictures, "files": len(files), "bytes": sum(files.values()), "steps": steps})
        print(f"{pictures:,} pictures: {len(files)} files, {sum(files.values()) / MIB:,.0f} MiB", flush=True)
        if file is not None:
            file.write_text(json.dumps({"width": width, "memory_gib": memory, "sizes": found}, indent=2) + "\n")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
