"""Patch by patch against dense, by torch and by OpenVINO: patches a second from JPEG files to a sealed store.

    python benchmarks/dense.py --pictures-dir DIR --trunk efficientnet_lite0 torchvision/resnet18 --pictures 20
    python benchmarks/dense.py --pictures-dir DIR --trunk torchvision/squeezenet1_0 --weights FILE --output dense.json

All forms of a trunk take turns in one process, each after a run that is not counted, in which libraries prepare what
they keep per size of a picture. Prints medians of the rates, the ratio of dense to patch by patch in the same round,
and how near dense rows are to patch rows: the median cosine. Networks without weights at hand get random ones, for
which only the rates say something.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from pipeline.activations.extraction import extract
from pipeline.activations.store import Store
from pipeline.dataset.manifest import Manifest, SplitEntry
from pipeline.dataset.split import Split
from pipeline.io.errors import PipelineError
from pipeline.patches.build import make_table
from pipeline.patches.settings import GridSettings, SourceSettings
from pipeline.patches.table import PatchTable
from pipeline.trunk.backends import has_openvino
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner, resolve_precision
from pipeline.trunk.trunk import Trunk
from pipeline.trunk.zoo.timm import import_timm
from pipeline.trunk.zoo.torchvision_import import import_torchvision

CPU = torch.device("cpu")
SIX_SCALES = (1.0, 1.3, 1.6, 2.0, 2.4, 2.8)


def load(name: str, weights: Path | None, folder: Path) -> Trunk:
    """The trunk; one of a library, without weights at hand, gets random ones, which cost what trained ones cost."""
    library, slash, model = name.partition("/")
    if slash and weights is None:
        model = model.partition("@")[0]
        torch.manual_seed(0)
        made = (
            import_timm().create_model(model)
            if library == "timm"
            else import_torchvision().models.get_model(model.partition(".")[0], weights=None)
        )
        weights = folder / f"{library}-{model}.safetensors"
        save_file({key: value.contiguous() for key, value in made.state_dict().items()}, weights)
    return load_trunk(name, weights=weights)


def table_of(paths: list[Path], scales: tuple[float, ...]) -> PatchTable:
    manifest = Manifest(
        name="bench",
        title="benchmark",
        folder="bench",
        classes=("none",),
        metric="voc12",
        fit="all",
        eval="all",
        splits={"all": SplitEntry()},
    )
    sources = SourceSettings(grid=GridSettings(scales=scales))
    return make_table(Split.of_files(manifest, paths, name="all"), sources)


def run(table: PatchTable, paths: dict[str, Path], runner: TrunkRunner) -> tuple[float, np.ndarray, dict[str, float]]:
    """Seconds from JPEG files to a sealed store, its rows, and the seconds of each stage."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        store: Store = extract(table, paths, runner, Path(cache))
        seconds = time.perf_counter() - started
        log = next(Path(cache).glob("*.log.jsonl")).read_text().splitlines()[-1]
        return seconds, store.read_rows(np.arange(table.n_rows)).astype(np.float32), json.loads(log)["stages"]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The median cosine between rows of two forms."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.median((a * b).sum(1) / np.maximum(norms, 1e-12)))


def measure(name: str, table: PatchTable, paths: dict[str, Path], make: Any, rounds: int) -> dict[str, Any]:
    """Rates of all forms of one trunk that can be had."""
    runners: dict[str, TrunkRunner] = {}
    precision = resolve_precision("auto", CPU, None)
    refused = {}
    for backend in ("torch", "openvino") if has_openvino() else ("torch",):
        for form, kind in (("patches", TrunkRunner), ("dense", DenseRunner)):
            try:
                runners[f"{form}, {backend}"] = kind(make(), CPU, precision, backend=backend)
            except PipelineError as error:
                refused[f"{form}, {backend}"] = str(error)
    rows = {form: run(table, paths, runner)[1] for form, runner in runners.items()}
    rates: dict[str, list[float]] = {form: [] for form in runners}
    stages = {}
    for _ in range(rounds):
        for form, runner in runners.items():
            seconds, _, stages[form] = run(table, paths, runner)
            rates[form].append(table.n_rows / seconds)
    found: dict[str, Any] = {"trunk": name, "precision": precision, "rows": table.n_rows, "refused": refused}
    for form in runners:
        best = rates[form.replace("dense", "patches")]
        found[form] = {
            "patches_per_second": round(statistics.median(rates[form]), 1),
            "ratio_to_patches": round(statistics.median(a / b for a, b in zip(rates[form], best, strict=True)), 2),
            "cosine_to_patches": round(cosine(rows[form], rows["patches, torch"]), 4),
            "stages": {stage: round(s, 2) for stage, s in stages[form].items()},
        }
        print(name, form, json.dumps(found[form]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", nargs="+", default=["efficientnet_lite0"])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pictures-dir", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--scales", type=float, nargs="+", default=SIX_SCALES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    files = sorted(given.pictures_dir.rglob("*.jpg"))
    files = files[:: max(1, len(files) // given.pictures)][: given.pictures]
    with tempfile.TemporaryDirectory() as scratch:
        table = table_of(files, tuple(given.scales))
        paths = {path.stem: path for path in files}
        found = [
            measure(name, table, paths, lambda name=name: load(name, given.weights, Path(scratch)), given.rounds)
            for name in given.trunk
        ]
    result = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "runs": found}
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
