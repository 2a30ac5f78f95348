"""Trunks beside one another: patches a second of torch, torch compiled, OpenVINO and the plain loop, all in one run.

    python benchmarks/trunks.py --weights-dir DIR --pictures-dir DIR --output trunks.json
    python benchmarks/trunks.py --trunks efficientnet_lite0 --pictures 1 --rounds 1 --seconds 1

Bare: the runner on patches in memory, in each of the batches; the best batch is printed, and the one that an
extraction takes. End to end: JPEG files to a sealed store, over all patches of the same pictures. The plain loop is
that of `extract.py`: PIL, a DataLoader, the network in fp32. Every form takes its turn in every round; printed are
medians. The share of the matrix rate is the network's multiply-adds against bf16 products of square matrices on the
same threads. Networks whose weights are not at hand (--weights-dir holds NAME.safetensors) get random ones, which
cost the same. --markdown writes the table of docs/recipes/trunks.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extract import CPU, our_extraction, pictures, plain_loop
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.activations.extraction import extract
from pipeline.patches.build import make_table
from pipeline.patches.settings import SourceSettings
from pipeline.trunk.backends import has_openvino
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner, resolve_precision
from pipeline.trunk.trunk import Trunk
from pipeline.trunk.weight_files import packaged_trunks
from pipeline.trunk.zoo.timm import import_timm
from pipeline.trunk.zoo.torchvision_import import import_torchvision

TRUNKS = (
    "alexnet64",
    "alexnet",
    "torchvision/squeezenet1_0",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "torchvision/resnet18",
    "torchvision/mobilenet_v2",
    "timm/vit_small_patch16_224",
)
FORMS = ("torch", "compiled", "openvino")


def load(name: str, weights_dir: Path | None, scratch: Path) -> Trunk:
    """A trunk with the weights at hand, or random ones."""
    if name == "alexnet64" or packaged_trunks().get(name):
        return load_trunk(name)
    stem = name.rpartition("/")[2]
    at_hand = weights_dir / f"{stem}.safetensors" if weights_dir else None
    if at_hand is not None and at_hand.is_file():
        return load_trunk(name, weights=at_hand)
    path = scratch / f"{stem}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        model: nn.Module
        if name.startswith("timm/"):
            model = import_timm().create_model(stem)
        else:
            model = import_torchvision().models.get_model(stem, weights=None)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return load_trunk(name, weights=path)


def make(form: str, trunk: Trunk) -> TrunkRunner:
    """A runner of one form, at the arithmetic that the processor is best at."""
    precision = resolve_precision("auto", CPU, trunk.precision)
    backend = "openvino" if form == "openvino" else "torch"
    return TrunkRunner(trunk, CPU, precision, form == "compiled", backend)


def rate_of(work: Callable[[], Any], n_rows: int, seconds: float) -> float:
    """Rows a second of calls that compute `n_rows` each."""
    done, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        work()
        done += n_rows
    return done / spent


def matrix_rate(dtype: torch.dtype, seconds: float) -> float:
    """Multiply-adds a second of products of square matrices."""
    n = 2048
    a, b = (torch.randn(n, n, dtype=dtype) for _ in range(2))
    a @ b
    return n**3 * rate_of(lambda: a @ b, 1, seconds)


@torch.inference_mode()
def multiply_adds(trunk: Trunk) -> int:
    """Of one patch, by torch's table of operations."""
    px = trunk.card.input_px
    # Fused attention tells no number of operations.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trunk.network(torch.zeros(1, 3, px, px))
    return counter.get_total_flops() // 2


def bytes_per_row(runner: TrunkRunner, table: Any, paths: dict[str, Path]) -> float:
    """On disk, compressed, of a sealed store."""
    with tempfile.TemporaryDirectory() as cache:
        store = extract(table, paths, runner, Path(cache))
        return store.n_bytes / store.n_rows


def measure(name: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All forms of one trunk."""
    forms = [form for form in options.forms if form != "openvino" or has_openvino()]
    trunk = load(name, options.weights_dir, scratch)
    px, work = trunk.card.input_px, multiply_adds(trunk)
    split = pictures(options.pictures_dir, options.pictures or (4 if px > 100 else 40), scratch)
    table = make_table(split, SourceSettings())
    paths = split.paths_by_id
    one = make_table(pictures(options.pictures_dir, 1, scratch), SourceSettings())
    plain = trunk if options.plain else None
    trial = {workers: plain_loop(one, paths, plain, workers, 64) for workers in (0, 1, 2)} if plain else {}
    workers = min(trial, key=trial.__getitem__) if trial else 0

    runners = {form: make(form, load(name, options.weights_dir, scratch)) for form in forms}
    usual = {form: runner.batch_rows for form, runner in runners.items()}
    batches = {form: sorted({*(() if form == "compiled" else options.batches), usual[form]}) for form in forms}
    most = max(max(sizes) for sizes in batches.values())
    patches = np.random.default_rng(0).integers(0, 256, (most, px, px, 3), np.uint8)
    bare: dict[tuple[str, int], list[float]] = {(form, n): [] for form in forms for n in batches[form]}
    whole: dict[str, list[float]] = {form: [] for form in (*forms, *(("plain",) if plain else ()))}
    for _ in range(options.rounds):
        for (form, n), rates in bare.items():
            runners[form](patches[:n])
            rates.append(rate_of(lambda f=form, n=n: runners[f](patches[:n]), n, options.seconds))
        for form, rates in whole.items():
            if form == "plain":
                rates.append(table.n_rows / plain_loop(table, paths, trunk, workers, 64))
            else:
                rates.append(table.n_rows / our_extraction(table, paths, runners[form])[0])
    dtype = runners[forms[0]].dtype
    limit = matrix_rate(dtype, options.seconds) / work
    medians = {key: statistics.median(rates) for key, rates in bare.items()}
    of_form: dict[str, Any] = {}
    for form in forms:
        best = max(batches[form], key=lambda n, form=form: medians[form, n])
        of_form[form] = {
            "batch": usual[form],
            "bare": round(medians[form, usual[form]], 1),
            "best_batch": best,
            "bare_at_best": round(medians[form, best], 1),
            "end_to_end": round(statistics.median(whole[form]), 1),
            "share_of_matrix_rate": round(medians[form, usual[form]] / limit, 3),
        }
    return {
        "trunk": name,
        "input_px": px,
        "width": trunk.width,
        "multiply_adds": work,
        "bytes_per_row": round(bytes_per_row(runners[forms[0]], table, paths)),
        "patches": table.n_rows,
        "precision": runners[forms[0]].precision,
        "forms": of_form,
        "plain": round(statistics.median(whole["plain"]), 1) if plain else None,
    }


def table_of(lines: list[dict[str, Any]]) -> str:
    """The figures as a table in Markdown: of each form bare, end to end, and the batch."""
    head = ["trunk", "px", "columns", "bytes per row", *FORMS, "share of matrix rate", "plain loop"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        cells = [f"`{line['trunk']}`", str(line["input_px"]), f"{line['width']:,}", f"{line['bytes_per_row']:,}"]
        for form in FORMS:
            found = line["forms"].get(form)
            cells.append(f"{found['bare']:,.0f}; {found['end_to_end']:,.0f} ({found['batch']})" if found else "")
        cells.append(f"{max(form['share_of_matrix_rate'] for form in line['forms'].values()):.0%}")
        cells.append("" if line["plain"] is None else f"{line['plain']:,.0f}")
        rows.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunks", nargs="+", default=TRUNKS)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="leave the plain loop out")
    parser.add_argument("--weights-dir", type=Path, help="folder with NAME.safetensors of networks")
    parser.add_argument("--pictures-dir", type=Path, help="folder of JPEG files; drawn scenes without it")
    parser.add_argument("--pictures", type=int, help="how many; default 4 at 224 px, 40 at 64 px")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each bare form in each round")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.trunks:
            lines.append(measure(name, options, Path(scratch)))
            print(json.dumps(lines[-1]), flush=True)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    figures = {"machine": machine, "rounds": options.rounds, "seconds": options.seconds, "trunks": lines}
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(table_of(lines) + "\n")
    print(table_of(lines))


if __name__ == "__main__":
    main()
