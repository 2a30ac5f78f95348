"""How long the commands take that have nothing to do, in one run.

    python benchmarks/startup.py --work WORK

WORK is made if it is empty: a copy of the workflow, the demo set, and one finished `results/demo_map.json`; and a
dataset of 10,000 small pictures, whose patch table is made once. Then, in turn, medians of wall seconds of:

    pipeline --help
    snakemake results/demo_map.json          nothing to be done
    pipeline patches over 10,000 pictures    the table is there and its digests are known
    python -c "import torch"                 what the second and third of these cannot go below

--output writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.patches import current_table
from pipeline.stages.workspace import Workspace

HERE = Path(__file__).resolve().parent.parent
N_PICTURES = 10_000


def run(command: str, folder: Path) -> float:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    started = time.perf_counter()
    ended = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    spent = time.perf_counter() - started
    if ended.returncode:
        sys.exit(f"{command}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return spent


def prepare(work: Path) -> None:
    """The finished demo, and ten thousand pictures with their table."""
    if not (work / "Snakefile").exists():
        work.mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "stages", "profiles", "data_manifests", "envs"):
            source = HERE / name
            shutil.copytree(source, work / name) if source.is_dir() else shutil.copy(source, work / name)
    run("pipeline data fetch demo && snakemake --cores 2 results/demo_map.json", work)
    pictures = work / "many"
    if not pictures.exists():
        rng = np.random.default_rng(0)
        for index in range(N_PICTURES):
            folder = pictures / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:05d}.jpg", quality=80)
    if not (work / "data_manifests/many.yaml").exists():
        run("pipeline data new --root many --name many", work)
    run("pipeline patches --dataset many --split train", work)


def check_alone(work: Path) -> float:
    """The check of a finished table within a running process, without the start of Python and its imports."""
    os.chdir(work)
    ws = Workspace(parse_run_settings({}))
    started = time.perf_counter()
    current_table(RunContext(ws, "many"), "train")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    work, output = options.work.absolute(), options.output and options.output.absolute()
    prepare(work)
    commands = {
        "pipeline --help": "pipeline --help",
        "snakemake, nothing to do": "snakemake --cores 2 results/demo_map.json",
        "pipeline patches, 10,000 pictures known": "pipeline patches --dataset many --split train",
        "import torch": f"{sys.executable} -c 'import torch'",
    }
    spent: dict[str, list[float]] = {name: [] for name in (*commands, "the check alone")}
    for _ in range(options.rounds):
        for name, command in commands.items():
            spent[name].append(run(command, work))
        spent["the check alone"].append(check_alone(work))
    figures = {
        "pictures": N_PICTURES,
        "rounds": options.rounds,
        "median_seconds": {name: round(statistics.median(values), 3) for name, values in spent.items()},
    }
    print(json.dumps(figures, indent=2))
    if output:
        output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
