"""All benchmarks that one machine can run by itself, as one table and one JSON file: `make bench`.

    python benchmarks/bench.py --output build/bench.json
    python benchmarks/bench.py --pictures-dir DIR --config voc12.yaml --dataset voc12 --peer thingsvision/bin/python

Pictures are drawn, and the heads and codecs are those of the demo, unless a folder of photos and a configuration
with finished stores are given. Every figure is a ratio of two things that took turns in the same run, or a median
of seconds; what each side is stands at the top of the script named beside it. Figures of a script that was not run now
are those of its last run, or "not measured".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
FIGURES: list[tuple[str, str, str, Callable[[dict[str, Any]], Any]]] = [
    ("alexnet", "extraction / bare trunk, 224 px", ">= 0.9", lambda f: f["forms"]["patches"]["ratio_to_bare"]),
    ("alexnet", "extraction / plain loop, 224 px", ">= 2.8", lambda f: f["forms"]["patches"]["ratio_to_plain"]),
    ("alexnet", "dense / plain loop, 224 px", ">= 12", lambda f: f["forms"]["dense"]["ratio_to_plain"]),
    ("peer", "extraction / thingsvision, 224 px", ">= 2.5", lambda f: f["ratio"]),
    ("alexnet64", "extraction / bare trunk, 64 px", "", lambda f: f["forms"]["patches"]["ratio_to_bare"]),
    ("alexnet64", "extraction / plain loop, 64 px", "", lambda f: f["forms"]["patches"]["ratio_to_plain"]),
    ("alexnet64", "dense / plain loop, 64 px", "", lambda f: f["forms"]["dense"]["ratio_to_plain"]),
    ("codecs", "size / entropy, float16 small", "<= 1.2", lambda f: of_form(f, "float16, small")["ratio_to_entropy"]),
    ("codecs", "size / entropy, 8 bit", "<= 1.1", lambda f: of_form(f, "8bit, small")["ratio_to_entropy"]),
    ("codecs", "read MB/s, small", "", lambda f: of_form(f, "float16, small")["read_mb_per_s"]),
    ("codecs", "read MB/s, fast", ">= 1000", lambda f: of_form(f, "float16, fast")["read_mb_per_s"]),
    ("heads", "fit strong / rows in memory", ">= 0.9", lambda f: f["fit_strong_rate_to_memory"]),
    ("heads", "epoch weak / pictures in memory", ">= 0.9", lambda f: f["epoch_weak_rate_to_memory"]),
    ("heads", "score / rows in memory", ">= 0.9", lambda f: f["score_rate_to_memory"]),
    ("heads", "eight heads / one, one layer", "<= 2", lambda f: f["eight_heads_of_one_layer_to_one"]),
    ("heads", "eight heads / one, two layers", "", lambda f: f["eight_heads_of_two_layers_to_one"]),
    ("heads", "first run / further head", "", lambda f: f["first_run_to_further_head"]),
    ("startup", "pipeline --help, s", "<= 0.3", lambda f: f["median_seconds"]["pipeline --help"]),
    ("startup", "snakemake, nothing to do, s", "<= 5", lambda f: f["median_seconds"]["snakemake, nothing to do"]),
    ("startup", "10,000 pictures, check, s", "<= 1", lambda f: f["median_seconds"]["the check alone"]),
]


def of_form(figures: dict[str, Any], form: str) -> dict[str, Any]:
    return next(line for line in figures["whole"] if line["form"] == form)


def scripts(options: argparse.Namespace, work: Path) -> dict[str, list[str | Path]]:
    """Command lines by name, without --output."""
    photos = ["--pictures-dir", options.pictures_dir] if options.pictures_dir else []
    both = ["--forms", "patches", "dense"]
    commands: dict[str, list[str | Path]] = {
        "alexnet": ["extract.py", "--trunk", "alexnet", *both, *photos],
        "alexnet64": ["extract.py", "--trunk", "alexnet64", *both, *photos],
        "startup": ["startup.py", "--work", work / "startup"],
    }
    config = ["--config", options.config] if options.config else []
    commands["heads"] = ["heads.py", "--dataset", options.dataset, *config]
    store = largest_store(Path(options.store) if options.store else Path("cache"), options.dataset)
    if store is not None:
        commands["codecs"] = ["codecs.py", store]
    if options.peer:
        commands["peer"] = ["peer_rate.py", "--python", options.peer, *photos]
    return commands


def largest_store(place: Path, dataset: str) -> Path | None:
    """The store that was named, or the largest of the dataset in a cache folder."""
    if place.suffix == ".zarr":
        return place
    stores = list(place.glob(f"{dataset}-*-alexnet64-fc7-*.zarr"))
    return max(stores, key=lambda path: sum(f.stat().st_size for f in path.rglob("*")), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures-dir", type=Path)
    parser.add_argument("--dataset", default="demo", help="of the finished stores that heads are measured on")
    parser.add_argument("--config", type=Path, help="its configuration")
    parser.add_argument("--store", help="store for the codecs, or the cache folder; default: cache")
    parser.add_argument("--peer", type=Path, help="Python of thingsvision's environment, see peers_faults.py")
    names = tuple(dict.fromkeys(figure[0] for figure in FIGURES))
    parser.add_argument("--only", nargs="+", choices=names, help="scripts to run; default: all")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(options.output.read_text())["scripts"] if options.output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, command in scripts(options, options.output.parent).items():
            if options.only and name not in options.only:
                continue
            output = Path(folder) / f"{name}.json"
            line = [sys.executable, HERE / command[0], *command[1:], "--output", output]
            print("$", *map(str, line), flush=True)
            ended = subprocess.run(line, stdout=subprocess.DEVNULL)
            if ended.returncode == 0:
                shown = ["python", f"benchmarks/{command[0]}", *map(str, command[1:])]
                found[name] = {"command": " ".join(shown), "figures": json.loads(output.read_text())}
    table = []
    for script, what, goal, get in FIGURES:
        value = get(found[script]["figures"]) if script in found else "not measured"
        table.append({"what": what, "value": value, "goal": goal, "script": script})
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    machine = f"{cpu}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"
    options.output.write_text(json.dumps({"machine": machine, "table": table, "scripts": found}, indent=2) + "\n")
    print(machine)
    for row in table:
        print(f"{row['what']:36} {row['value']!s:>14}   {row['goal']:8} {row['script']}")


if __name__ == "__main__":
    main()
