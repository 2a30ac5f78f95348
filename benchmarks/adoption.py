"""What one more picture costs: a list that grew at its end or at its front, a changed picture, and a union of splits.

    python benchmarks/adoption.py --pictures-dir VOCdevkit/VOC2012 --pictures 1200 --folder build/adoption

Each step is a whole ``pipeline extract`` in a process of its own, patch table included. The first extraction is kept
in the folder; the later steps work on copies of its cache, and are done `--runs` times each.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import yaml
from PIL import Image

from pipeline.dataset.manifest import load_manifest

PIPELINE = [str(Path(sys.executable).parent / "pipeline")]


def write_dataset(folder: Path, source: Path, lists: dict[str, Sequence[str]]) -> None:
    """Write a manifest and the lists of a dataset whose pictures lie in the VOC folder `source`."""
    root = folder / "data/grown"
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / sub).mkdir(parents=True, exist_ok=True)
    for ids in lists.values():
        for i in ids:
            for name in (f"JPEGImages/{i}.jpg", f"Annotations/{i}.xml"):
                if not (root / name).exists():
                    shutil.copy(source / name, root / name)
    for name, ids in lists.items():
        (root / f"ImageSets/Main/{name}.txt").write_text("\n".join(ids) + "\n")
    manifest = {
        "name": "grown",
        "title": "a list that grows",
        "folder": "grown",
        "metric": "voc12",
        "fit": "train",
        "eval": "val",
        "classes": list(load_manifest("voc12").classes),
        "splits": {name: {} for name in lists},
    }
    (folder / "data_manifests").mkdir(exist_ok=True)
    (folder / "data_manifests/grown.yaml").write_text(yaml.safe_dump(manifest))


def extract(folder: Path, split: str, trunk: str) -> dict[str, float]:
    """Extract a split; return wall and processor seconds, rows computed and rows in all."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [*PIPELINE, "extract", "--dataset", "grown", "--split", split, "--trunk", trunk]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    receipts = (folder / "cache/receipts").glob(f"grown-{split}-*.json")
    receipt = json.loads(max(receipts, key=os.path.getmtime).read_text())
    adopted = sum(receipt.get("adopted", {}).values())
    return {"seconds": seconds, "processor": used, "rows": receipt["rows"], "computed": receipt["rows"] - adopted}


def step(name: str, first: dict[str, float], runs: list[dict[str, float]]) -> dict[str, float | str]:
    """Print the median of some runs of a step, beside the first extraction."""
    seconds, used = (statistics.median(run[key] for run in runs) for key in ("seconds", "processor"))
    line = {
        "step": name,
        "rows": runs[0]["rows"],
        "computed": runs[0]["computed"],
        "seconds": round(seconds, 2),
        "processor_seconds": round(used, 2),
        "of_the_first": round(seconds / first["seconds"], 4),
        "of_the_firsts_processor": round(used / first["processor"], 4),
    }
    click.echo(json.dumps(line))
    return line


@click.command()
@click.option("--pictures-dir", type=click.Path(exists=True, path_type=Path), required=True, help="VOC devkit folder.")
@click.option("--pictures", default=1200, help="Pictures of the first extraction.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build/adoption"), help="Working folder.")
@click.option("--trunk", default="alexnet64")
@click.option("--runs", default=5, help="Runs of each later step.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file for the figures.")
def main(pictures_dir: Path, pictures: int, folder: Path, trunk: str, runs: int, output: Path | None) -> None:
    """Measure what one more picture costs."""
    listed = (pictures_dir / "ImageSets/Main/train.txt").read_text().split()
    listed += (pictures_dir / "ImageSets/Main/val.txt").read_text().split()
    ids = listed[:pictures]
    base = folder / f"first-{trunk}-{pictures}"
    record = base / "first.json"
    if not record.is_file():
        base.mkdir(parents=True, exist_ok=True)
        write_dataset(base, pictures_dir, {"train": ids, "val": listed[pictures : pictures + 1]})
        record.write_text(json.dumps(extract(base, "train", trunk)))
    first = json.loads(record.read_text())
    lines = [step("first extraction", first, [first])]

    def repeat(name: str, lists: dict[str, Sequence[str]], split: str = "train", changed: str | None = None) -> None:
        done = []
        for _ in range(runs):
            work = folder / "work"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(base, work)
            write_dataset(work, pictures_dir, lists)
            if changed is not None:
                path = work / f"data/grown/JPEGImages/{changed}.jpg"
                Image.open(path).convert("L").save(path)
            done.append(extract(work, split, trunk))
        lines.append(step(name, first, done))

    one_more = listed[pictures]
    repeat("one added at the end", {"train": [*ids, one_more], "val": [one_more]})
    repeat("one added at the front", {"train": [one_more, *ids], "val": [one_more]})
    repeat("one changed", {"train": ids, "val": [one_more]}, changed=ids[len(ids) // 2])
    half = len(ids) // 2
    repeat("a half of them, as another split", {"train": ids, "val": ids[:half]}, split="val")
    if output is not None:
        output.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
