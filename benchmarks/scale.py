"""Time, memory, bytes and files of the stages at 1x, 3x and 10x pictures, and the unit costs of `pipeline plan`.

    python benchmarks/scale.py --runs 3 --json docs/measured/scale.json --costs pipeline/preflight/costs.yaml
    python benchmarks/scale.py --rows 10000000

Each stage is the real command in a process of its own, on drawn pictures, trunk alexnet64; seconds are
from start to end, peak memory is what the kernel states of that process. Medians of the runs, which are
interleaved. Time and bytes should grow with the rows; memory of patches, extract and score should not,
once three parts or so have been made (all hold the pictures, fit-head its rows). Costs are
least-squares lines through the sizes, and figures of one core or of the trunk alone from processes of
their own; devices that are not there are null.

With --rows, nothing of this: seconds, and memory beyond that of the table and the libraries, of what goes through
all rows of a patch table, on a table without pictures whose objects are drawn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.dataset.demo.scenes import CLASSES, draw_demo

# The kernel lets a process begin with the peak memory of the one that started it: torch stays out of
# this one, and what needs it runs in processes of its own (`apart`).
STAGES = ("patches", "extract", "fit-head", "score")
TRUNKS = ("alexnet64", "alexnet", "torchvision/squeezenet1_0", "efficientnet_lite0")
PACKAGED = ("alexnet64", "efficientnet_lite0")
"""Trunks whose weights are installed; the others get random ones, which cost the same."""
MIB = 2**20
HEAD = """\
# Unit costs of `pipeline plan`, made by benchmarks/scale.py --costs FILE; see pipeline/preflight/costs.py.
# null: not measured (rates), not assumed (price). Every `measured` says on what, and by which command.
"""


def write_manifests(work: Path, counts: dict[str, int]) -> None:
    """Draw the pictures of the largest size; each size is a dataset of the first so many."""
    draw_demo(work / "pictures", max(counts.values()), 1, seed=1)
    (work / "data_manifests").mkdir(exist_ok=True)
    for name, n in counts.items():
        ids = "".join(f"train_{number:04d}\n" for number in range(1, n + 1))
        (work / "data_manifests" / f"{name}.txt").write_text(ids)
        manifest = {
            "name": name,
            "title": f"{n} drawn pictures",
            "folder": str((work / "pictures").absolute()),
            "classes": list(CLASSES),
            "metric": "voc12",
            "fit": "all",
            "eval": "all",
            "splits": {"all": {"ids": f"{name}.txt"}},
        }
        (work / "data_manifests" / f"{name}.yaml").write_text(yaml.safe_dump(manifest))


def run_command(work: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and peak MiB of one command of the pipeline in a process of its own."""
    command = [sys.executable, "-m", "pipeline.cli.main", *arguments]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=work, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{shlex.join(command)} ended with {process.returncode}\n{output.read().decode()}")
    return seconds, usage.ru_maxrss / 1024  # kilobytes on Linux


def files_below(*folders: Path) -> dict[Path, int]:
    """Bytes of each file."""
    return {path: path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()}


def run_stages(work: Path, name: str, *options: str) -> dict[str, dict[str, Any]]:
    """All stages of one size, from nothing: seconds, peak MiB, bytes and files that each added."""
    places = [Path("cache") / name, Path("results") / name]
    measured = {}
    for place in places:
        shutil.rmtree(work / place, ignore_errors=True)
    before: dict[Path, int] = {}
    for stage in STAGES:
        which = () if stage == "fit-head" else ("--split", "all")
        folders = ("--cache", str(places[0]), "--results", str(places[1]))
        seconds, peak_mib = run_command(work, stage, "--dataset", name, *which, *folders, *options)
        after = files_below(*(work / place for place in places))
        measured[stage] = {
            "seconds": seconds,
            "peak_mib": peak_mib,
            "bytes": sum(after.values()) - sum(before.values()),
            "files": len(after) - len(before),
        }
        before = after
    return measured


def n_rows(work: Path, name: str) -> int:
    """Rows of a size, from the receipt of its store."""
    return json.loads(next((work / "cache" / name / "receipts").glob("*.json")).read_text())["rows"]


def measure_stages(work: Path, counts: dict[str, int], runs: int) -> list[dict[str, Any]]:
    """One entry a stage and size: medians over the runs."""
    found = [{name: run_stages(work, name) for name in counts} for _ in range(runs)]
    entries = []
    for stage in STAGES:
        for name, n in counts.items():
            values = {key: [run[name][stage][key] for run in found] for key in found[0][name][stage]}
            medians = {key: statistics.median(some) for key, some in values.items()}
            first = next((e["seconds"] for e in entries if e["stage"] == stage), medians["seconds"])
            entries.append(
                {
                    "stage": stage,
                    "size": name,
                    "pictures": n,
                    "rows": n_rows(work, name),
                    "seconds": round(medians["seconds"], 2),
                    "to_1x": round(medians["seconds"] / first, 2),
                    "peak_mib": round(medians["peak_mib"]),
                    "bytes": int(medians["bytes"]),
                    "files": int(medians["files"]),
                    "seconds_of_runs": [round(s, 2) for s in values["seconds"]],
                }
            )
    return entries


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that was called in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def random_weights(trunk: str, path: Path) -> None:
    """Weights that cost what trained ones cost, for trunks that have none of their own."""
    import torch
    from safetensors.torch import save_file

    from pipeline.trunk.zoo.torchvision_import import import_torchvision

    torch.manual_seed(0)
    model = import_torchvision().models.get_model(trunk.removeprefix("torchvision/"), weights=None)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)


def time_per(n: int, function: Callable[[], Any], runs: int) -> float:
    """Median seconds of a call, divided by `n`."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) / n


def traced_bytes(function: Callable[[], Any]) -> tuple[Any, int, int]:
    """What a function returns, the memory that it keeps, and its peak on the way."""
    tracemalloc.start()
    result = function()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return result, kept, peak


def table_row_bytes(work: Path, name: str) -> float:
    """Memory that reading a patch table takes, a row."""
    from pipeline.patches.table_file import read_table

    (path,) = (work / "cache" / name / "patches").glob("*.h5")
    table, _, peak = traced_bytes(lambda: read_table(path))
    return peak / table.n_rows


SIZES_WH = ((500, 375), (375, 500), (640, 480), (500, 333))


def draw_table(n_rows: int) -> Any:
    """A patch table of about so many rows: pictures of some sizes with three objects each, of eight classes."""
    import numpy as np

    from pipeline.patches.rows import Objects
    from pipeline.patches.settings import GridSettings, SourceSettings
    from pipeline.patches.sources import count_windows
    from pipeline.patches.table import PatchTable

    rng = np.random.default_rng(0)
    counts = np.array([count_windows(width, height, SourceSettings()) for width, height in SIZES_WH])
    n = round(n_rows / counts.mean())
    drawn = rng.integers(0, len(SIZES_WH), n)
    size_wh = np.array(SIZES_WH, np.int32)[drawn]
    corners = np.sort(rng.random((n, 3, 2, 2)), axis=2) * size_wh[:, None, None]
    return PatchTable(
        dataset="drawn",
        split="all",
        classes=tuple("abcdefgh"),
        source="grid",
        grid=GridSettings(),
        ids=tuple(f"{index:012d}" for index in range(n)),
        size_wh=size_wh,
        first_row=np.cumsum([0, *counts[drawn]]),
        objects=Objects(
            np.arange(0, 3 * n + 1, 3),
            corners.reshape(-1, 4),
            rng.integers(0, 8, 3 * n).astype(np.int16),
            rng.random(3 * n) < 0.1,
        ),
        apply_exif=np.zeros(n, bool),
        picture_sha256=tuple(f"{index:064x}" for index in range(n)),
        picture_labels=np.where(rng.random((n, 8)) < 0.3, 1, -1).astype(np.int8),
        skipped=(),
        annotation_digest="",
    )


def table_step(n_rows: int, step: str) -> dict[str, Any]:
    """Seconds and further peak memory of one thing that is done with all rows of a table."""
    from pipeline.activations.row_plan import plan_rows
    from pipeline.head.settings import HEADS
    from pipeline.head.strong import rows_to_learn
    from pipeline.io.memory import peak_memory
    from pipeline.patches.settings import LabelSettings

    def do(table: Any) -> None:
        paths = dict.fromkeys(table.ids, Path("x.jpg"))
        if step == "rows digest":
            table.compute_rows_digest()
        elif step == "label hashes":
            table.compute_label_hashes()
        elif step == "extraction plan":
            for start in range(0, table.n_rows, 32768):
                plan_rows(table, paths, slice(start, start + 32768))
        elif step == "strong sampling":
            rows_to_learn(table, HEADS["fca"], LabelSettings(), [0])

    do(draw_table(100_000))  # what is imported and allocated once
    before = peak_memory()
    table = draw_table(n_rows)
    held = peak_memory()
    started = time.perf_counter()
    do(table)
    return {
        "step": step,
        "rows": table.n_rows,
        "table_mib": round((held - before) / MIB, 1),
        "step_mib": round((peak_memory() - held) / MIB, 1),
        "bytes_per_row": round((peak_memory() - before) / table.n_rows, 2),
        "seconds": round(time.perf_counter() - started, 1),
    }


def picture_costs(work: Path, name: str, runs: int) -> dict[str, float]:
    """Decoding of one picture on one core, and the memory of its entry in a split."""
    from pipeline.dataset.manifest import load_manifest
    from pipeline.dataset.picture import decode_picture
    from pipeline.dataset.read import read_split
    from pipeline.io.digests import sha256_bytes

    manifest = load_manifest(name, work / "data_manifests")
    split, kept, _ = traced_bytes(lambda: read_split(manifest, "all"))
    paths = split.paths[:20]

    def decode() -> None:
        for data in (path.read_bytes() for path in paths):
            sha256_bytes(data)
            decode_picture(data, apply_exif=False)

    return {"decode_s": time_per(len(paths), decode, runs), "memory_bytes": kept / len(split.ids)}


def trunk_costs(work: Path, trunk: str, weights: Path | None, runs: int) -> dict[str, Any]:
    """Rates of a trunk alone by arithmetic, cutting and writing on one core, bytes a row on disk."""
    import numpy as np
    import torch

    from pipeline.activations.cutting import cut_patches
    from pipeline.activations.layout import encode_part, make_metadata
    from pipeline.activations.partition import parts_of
    from pipeline.activations.request import identity_of
    from pipeline.dataset.manifest import load_manifest
    from pipeline.dataset.picture import decode_picture
    from pipeline.dataset.read import read_split
    from pipeline.patches.build import make_table
    from pipeline.patches.settings import SourceSettings
    from pipeline.trunk.backends import resolve_backend
    from pipeline.trunk.load import load_trunk
    from pipeline.trunk.runner import TrunkRunner, resolve_precision

    split = read_split(load_manifest("few", work / "data_manifests"), "all")
    table = make_table(split, SourceSettings())
    rates: dict[str, float | None] = {"cuda-fp16": None}
    cpu = torch.device("cpu")
    kinds = [(cpu, "fp32"), (cpu, "bf16")]
    kinds += [(torch.device("cuda"), "fp16")] if torch.cuda.is_available() else []
    for device, precision in kinds:
        if (device, precision) == (cpu, "bf16") and resolve_precision("auto", cpu) != "bf16":
            rates["cpu-bf16"] = None
            continue
        here = load_trunk(trunk, weights=weights)
        # OpenVINO where `backend: auto` would take it.
        for backend in dict.fromkeys((resolve_backend("auto", here, device, precision), "torch")):
            runner = TrunkRunner(load_trunk(trunk, weights=weights), device, precision, backend=backend)
            batch = runner.batch_rows
            rates[runner.precision_name] = round(statistics.median(runner.measure_rate(batch) for _ in range(runs)), 1)
    # What follows is of the last runner.
    px, cores = runner.trunk.card.input_px, torch.get_num_threads()
    pixels = [decode_picture(path.read_bytes(), apply_exif=False) for path in split.paths]

    def cut() -> np.ndarray:
        pairs = [(p, table.windows_of_picture(index)) for index, p in enumerate(pixels)]
        return np.concatenate([cut_patches(p, w.box_xyxy, w.scale, "grid", px) for p, w in pairs])

    patches = cut()
    cut_s = time_per(len(patches), cut, runs)
    identity, rows = identity_of(table, runner), table.rows_at(slice(None))
    columns = {
        "activations": np.concatenate([runner(patches[i : i + batch]) for i in range(0, len(patches), batch)]),
        **{name: getattr(rows, name) for name in ("picture", "box_xyxy", "scale")},
    }
    metadata = make_metadata(identity, table.ids, {})
    parts = parts_of(identity)

    def encode() -> list[bytes]:
        each = [(part, {name: values[part.start : part.stop] for name, values in columns.items()}) for part in parts]
        return [data for part, of_part in each for data in encode_part(metadata, part, of_part).values()]

    return {
        "layer": runner.trunk.layer,
        "width": runner.trunk.width,
        "operations": runner.operations_per_row(runner.trunk),
        "bytes_a_row": round(sum(map(len, encode())) / table.n_rows, 1),
        "cut_s": cut_s,
        "write_s": time_per(table.n_rows, encode, runs),
        "rates": dict(sorted(rates.items())),
        "cores": cores,
    }


def line(entries: list[dict[str, Any]], unit: str, value: str) -> tuple[float, float]:
    """Least-squares start and slope of a value over a unit, neither below zero."""
    slope, start = statistics.linear_regression([e[unit] for e in entries], [e[value] for e in entries])
    return max(0.0, start), max(0.0, slope)


def stage_costs(
    entries: list[dict[str, Any]], unit: str, row_bytes: float | None, machine: dict[str, Any]
) -> dict[str, Any]:
    """The entry of one stage in the table of costs; memory a row is `row_bytes`, or by a line like the rest."""
    startup_s, unit_s = line(entries, unit, "seconds")
    if not unit_s:  # noise hid the slope: nothing is free, so all of the largest counts as slope
        startup_s, unit_s = 0.0, entries[-1]["seconds"] / entries[-1][unit]
    mib_a_row = line(entries, "rows", "peak_mib")[1] if row_bytes is None else row_bytes / MIB
    # The largest start: peaks rise until some parts have been made, by more than the rows.
    memory_mib = max(e["peak_mib"] - e["rows"] * mib_a_row for e in entries)
    disk_bytes, disk_bytes_a_unit = line(entries, unit, "bytes")
    return {
        "unit": unit.removesuffix("s"),
        "startup_s": startup_s,
        "unit_s": unit_s,
        "memory_mib": memory_mib,
        "memory_bytes_a_row": mib_a_row * MIB,
        "disk_bytes": disk_bytes,
        "disk_bytes_a_unit": disk_bytes_a_unit,
        "cores": machine["cores"],
    }


def measure_costs(
    work: Path, entries: list[dict[str, Any]], trunks: list[str], machine: dict[str, Any], runs: int
) -> dict[str, Any]:
    """The table of costs; every entry says what it was measured on."""
    of = {stage: [e for e in entries if e["stage"] == stage] for stage in STAGES}
    longest = max(of["extract"], key=lambda e: e["rows"])
    largest = longest["size"]
    table: dict[str, Any] = {"stages": {}, "trunks": {}}
    peaks = {}
    write_manifests(work, {"few": 4})
    for trunk in trunks:
        weights = None if trunk in PACKAGED else work / f"{trunk.rpartition('/')[2]}.safetensors"
        options = ["--trunk", trunk]
        if weights is not None:
            apart(random_weights, trunk, weights)
            options += ["--weights", str(weights)]
        shutil.rmtree(work / "cache" / "few", ignore_errors=True)
        extract = ("extract", "--dataset", "few", "--split", "all", "--cache", "cache/few")
        peaks[trunk] = run_command(work, *extract, *options)[1]
        found = apart(trunk_costs, work, trunk, weights, runs)
        found["extra_mib"] = round(peaks[trunk] - peaks["alexnet64"])  # it comes first
        source = "weights as shipped" if weights is None else "random weights"
        table["trunks"][trunk] = {**found, "measured": f"{source}, four drawn pictures; {machine['words']}"}
    drawn = f"drawn pictures ({', '.join(str(e['pictures']) for e in of['patches'])}); {machine['words']}"
    width, table_bytes = table["trunks"]["alexnet64"]["width"], apart(table_row_bytes, work, largest)
    # A whole store says it better than four pictures.
    table["trunks"]["alexnet64"]["bytes_a_row"] = longest["bytes"] / longest["rows"]
    for stage, some in of.items():
        unit = "pictures" if stage == "patches" else "rows"
        # All hold the patch table; fit-head its rows, too. Fitting and scoring do work a column.
        row_bytes = None if stage == "fit-head" else table_bytes
        found = stage_costs(some, unit, row_bytes, machine)
        by_column = {"width": width if stage in ("fit-head", "score") else None}
        table["stages"][stage] = {**found, **by_column, "measured": f"alexnet64, {drawn}"}
    table["picture"] = {**apart(picture_costs, work, largest, runs), "measured": f"one core, {drawn}"}
    return rounded({**table, "price": None})


def rounded(value: Any) -> Any:
    """Four digits of every number."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def compare_with_plan(costs: dict[str, Any], entry: dict[str, Any], cores: int) -> dict[str, float]:
    """Seconds of an extraction by the plan, which knows trunk, cutting and writing each alone, and as measured."""
    from pipeline.preflight.costs import Costs
    from pipeline.preflight.plan import Counts, Workers, make_plan, trunk_rate

    table, workers = Costs.model_validate(costs), Workers(1, cores)
    trunk = table.trunk("alexnet64", "fc7")
    _, rate = trunk_rate(trunk, workers, "auto")
    plan = make_plan([Counts(entry["pictures"], entry["rows"])], trunk, rate, workers, table)
    return {"planned": round(plan.stages["extract"].hours * 3600, 1), "measured": entry["seconds"]}


def print_entries(entries: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from pipeline.cli.show import print_table

    table = Table()
    for column in ("stage", "size", "pictures", "rows", "seconds", "to 1x", "peak MiB", "MiB on disk", "files"):
        table.add_column(column, justify="left" if column in ("stage", "size") else "right")
    for e in entries:
        table.add_row(
            e["stage"],
            e["size"],
            f"{e['pictures']:,}",
            f"{e['rows']:,}",
            f"{e['seconds']:.1f}",
            f"{e['to_1x']:.2f}",
            f"{e['peak_mib']:,}",
            f"{e['bytes'] / MIB:,.2f}",
            str(e["files"]),
        )
    print_table(table)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {text}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=positive, default=80, help="of 1x; about 64 fill a part (default: 80)")
    parser.add_argument("--sizes", type=positive, nargs="+", default=[1, 3, 10], help="two or more, rising")
    parser.add_argument("--runs", type=positive, default=1, help="medians of so many (default: 1)")
    parser.add_argument("--trunks", nargs="+", choices=TRUNKS, default=list(TRUNKS), help="of the table of costs")
    parser.add_argument("--work", type=Path, help="folder to work in, kept; default: a temporary one")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--costs", type=Path, help="file for the table of unit costs")
    parser.add_argument("--rows", type=positive, help="only what goes through a table of so many drawn rows")
    options = parser.parse_args()
    if options.rows is not None:
        for step in ("rows digest", "label hashes", "extraction plan", "strong sampling"):
            print(json.dumps(apart(table_step, options.rows, step)))
        return
    if len(options.sizes) < 2 or sorted(set(options.sizes)) != options.sizes:
        parser.error(f"--sizes: two or more, rising, got {options.sizes}")
    if "alexnet64" not in options.trunks:
        parser.error("--trunks: alexnet64 must be one of them")
    options.trunks.sort(key=TRUNKS.index)
    command = f"python benchmarks/scale.py --pictures {options.pictures} --runs {options.runs}"
    cores = len(os.sched_getaffinity(0))
    words = f"{platform.machine()}, {cores} cores; {command}"
    machine = {"cores": cores, "words": words}
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).absolute()
        counts = {f"x{size}": size * options.pictures for size in options.sizes}
        write_manifests(work, counts)
        entries = measure_stages(work, counts, options.runs)
        print_entries(entries)
        figures: dict[str, Any] = {"measured": words, "runs": options.runs, "stages": entries}
        if options.costs is not None:
            costs = measure_costs(work, entries, options.trunks, machine, options.runs)
            write_text(options.costs, HEAD + yaml.safe_dump(costs, sort_keys=False, width=120))
            largest = max((e for e in entries if e["stage"] == "extract"), key=lambda e: e["rows"])
            figures["extract_seconds"] = compare_with_plan(costs, largest, cores)
            print(f"extract {largest['size']}, seconds: {figures['extract_seconds']}")
        if options.json is not None:
            write_text(options.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
