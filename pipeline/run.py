"""The stages of a run, from files to files: what the commands and the workflow's rules call.

Each function takes a `Workspace`, so that all agree on names. Tables, stores and heads that are there
and current are left alone; scores and results, which take seconds, are made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.activations.extract import Extraction, PartMaker, log_name
from pipeline.activations.folder import LocalFolder
from pipeline.activations.identity import Identity, explain_differences, trunk_fields
from pipeline.activations.store import Store
from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.dataset.voc import Split, read_split
from pipeline.errors import HeadError, MissingDataError, PipelineError, StoreError, enumerate_problems
from pipeline.files import (
    DigestMemory,
    read_json,
    read_signed_json,
    signed_json,
    sweep_partials,
    write_json,
    write_whole,
)
from pipeline.head.head import fit_head, load_head, save_head
from pipeline.patches.table import PatchTable, make_table, read_table, why_stale, write_table
from pipeline.scoring.results import evaluate_scores, join_heads, unlabelled_result, versions, write_devkit_files
from pipeline.scoring.scores import load_scores, save_scores, score_split
from pipeline.scoring.sweep import sweep_settings
from pipeline.settings import RunSettings
from pipeline.trunk.devices import resolve_device
from pipeline.trunk.registry import load_trunk
from pipeline.trunk.runner import TrunkRunner, resolve_precision
from pipeline.trunk.trunk import Trunk
from pipeline.workspace import Workspace

Say = Callable[[str], None]


def set_threads(n: int) -> int:
    """Give torch `n` threads, or one a usable core for 0; the number given."""
    n = n or len(os.sched_getaffinity(0))
    torch.set_num_threads(n)
    return n


def why_table_is_due(
    ws: Workspace, dataset: str, split: str, rehash: bool = False
) -> tuple[PatchTable | None, str | None]:
    """The kept patch table of a split, if one can be read, and why it must be made (again), or None.

    Where the pictures are not at hand, the kept table is taken as it is: heads need no pictures.
    """
    path = ws.table_path(dataset, split)
    memory = DigestMemory(ws.digest_memory)
    if rehash:
        memory.forget()
    try:
        content = read_split(load_manifest(dataset), split, ws.settings.data_root)
    except MissingDataError:
        if path.is_file():
            return read_table(path), None
        raise
    if not path.is_file():
        return None, "there is none yet"
    try:
        table = read_table(path)
    except StoreError as error:
        return None, str(error)
    return table, why_stale(table, content, memory)


def current_table(ws: Workspace, dataset: str, split: str, say: Say, rehash: bool = False) -> PatchTable:
    """The patch table of a split: as kept if the dataset has not changed since, else made anew."""
    path = ws.table_path(dataset, split)
    table, reason = why_table_is_due(ws, dataset, split, rehash)
    if table is not None and reason is None:
        return table
    if path.is_file():
        say(f"{path}: {reason}; making it again")
    table = make_table(
        read_split(load_manifest(dataset), split, ws.settings.data_root),
        ws.settings.grid,
        ws.settings.source,
        ws.settings.on_error,
        ws.settings.max_skipped,
        workers=ws.settings.threads or len(os.sched_getaffinity(0)),
        say=say,
        crops=ws.settings.crops,
        boxes=ws.settings.boxes,
    )
    write_table(table, path)
    say(f"{path}: {table.n_rows:,} patches of {len(table.ids):,} pictures")
    return table


def picture_paths(split: Split) -> dict[str, Path]:
    return dict(zip(split.ids, split.paths, strict=True))


def make_trunk(ws: Workspace) -> Trunk:
    """The configured trunk, loaded."""
    s = ws.settings
    return load_trunk(s.trunk, s.layer, Path(s.weights) if s.weights else None, s.seed)


def make_runner(ws: Workspace) -> TrunkRunner:
    """The configured trunk on the configured device."""
    set_threads(ws.settings.threads)
    device = resolve_device(ws.settings.device)
    return TrunkRunner(make_trunk(ws), device, resolve_precision(ws.settings.precision, device))


def plan_extraction(ws: Workspace, dataset: str, split: str, say: Say, rehash: bool = False) -> Extraction:
    """The extraction that the settings ask for: table, pictures, trunk, place."""
    table = current_table(ws, dataset, split, say, rehash)
    # Only the pictures' places are needed here; the table has been checked against their content.
    paths = picture_paths(read_split(load_manifest(dataset), split, ws.settings.data_root))
    return Extraction(table, paths, make_runner(ws), ws.stores, ws.settings.batch, say, ws.cache)


def run_extract(
    ws: Workspace,
    dataset: str,
    split: str,
    say: Say,
    made: int | None = None,
    rehash: bool = False,
    scheduler: str | None = None,
) -> Store:
    """Make or complete the store of a split, then write its receipt."""
    workers = None
    if scheduler is not None:
        from pipeline.activations.dask_engine import DaskEngine

        workers = _for_workers(ws, DaskEngine.n_local(scheduler))
    if isinstance(ws.stores, LocalFolder):
        sweep_partials(ws.stores.path / ".partial")
    extraction = plan_extraction(ws, dataset, split, say, rehash)
    engine = None
    if scheduler is not None:
        engine = DaskEngine(scheduler, partial(make_part_maker, workers), extraction, say)
    store = extraction.run(engine=engine)
    assert store is not None  # it is after a share only
    table = extraction.table
    receipt = {
        "dataset": dataset,
        "split": split,
        "store": store.folder.name,
        "fingerprint": store.fingerprint,
        "rows": store.n_rows,
        "width": store.width,
        "bytes": store.n_bytes,
        "pictures": {"used": len(table.ids), "skipped": len(table.skipped)},
        "trunk": extraction.runner.trunk.card.name,
        "layer": extraction.runner.trunk.layer,
        "weights": ws.weights_state(),
        "made": made if made is not None else ws.store_making(dataset, split),
        # What `cache verify` and `cache repair` need to make rows again.
        "settings": ws.settings.model_dump(mode="json"),
    }
    write_whole(ws.receipt_path(dataset, split), signed_json(receipt))
    return store


def run_extract_share(ws: Workspace, dataset: str, split: str, share: tuple[int, int], say: Say) -> Path:
    """Make one of several shares of a store's parts; the store is sealed by whoever runs `run_extract`."""
    index, count = share
    extraction = plan_extraction(ws, dataset, split, say)
    extraction.run(share)
    path = ws.share_path(dataset, split, index, count)
    write_json(path, {"store": extraction.folder.name, "share": f"{index}/{count}"})
    return path


def _for_workers(ws: Workspace, n_here: int | None) -> RunSettings:
    """The settings with absolute paths, for workers started in other folders.

    Of `n_here` workers of this machine each gets its share of the cores; one elsewhere knows its own.
    """
    s = ws.settings
    share = max(1, len(os.sched_getaffinity(0)) // n_here) if n_here else 0
    places: dict[str, Any] = {"threads": s.threads or share}
    places["stores"] = str(ws.stores) if "://" in str(ws.stores) else str(Path(str(ws.stores)).absolute())
    if s.weights:
        places["weights"] = str(Path(s.weights).absolute())
    if Path(s.trunk).is_file():
        places["trunk"] = str(Path(s.trunk).absolute())
    return s.model_copy(update=places)


def make_part_maker(settings: RunSettings, store: str, expected: Identity) -> PartMaker:
    """What a worker of an engine holds: made there, from the same settings, and checked to be the same.

    Raises
    ------
    StoreError
        The worker would compute other values (other weights, arithmetic, code); the fields are named.
    """
    ws = Workspace(settings)
    runner = make_runner(ws)
    batch, part_rows = expected["how.batch"], expected["how.part_rows"]
    own = {**expected, **trunk_fields(runner.trunk, runner.precision_name, batch, part_rows)}
    if own != expected:
        raise StoreError(
            f"worker {platform.node()}: would make other activations than were asked for\n"
            f"{explain_differences(own, expected)}\nuse workers with the same package, weights and kind of device"
        )
    return PartMaker(runner, ws.stores.child(store))


def read_receipt(path: Path) -> dict[str, Any]:
    """The receipt of an extraction.

    Raises
    ------
    StoreError
        It is not there or was changed.
    """
    try:
        return read_signed_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: missing or damaged receipt ({error}); run pipeline extract again") from error


def sealed_store(ws: Workspace, dataset: str, split: str) -> Store:
    """The store that the receipt of a split names; needs neither pictures nor the trunk's weights.

    Raises
    ------
    StoreError
        Not extracted with these settings yet.
    """
    path = ws.receipt_path(dataset, split)
    if not path.is_file():
        s = ws.settings
        raise StoreError(
            f"{dataset} {split}: no activations of trunk {s.trunk!r}, layer {s.layer!r} with these settings yet "
            f"(no {path}); make them with: pipeline extract --dataset {dataset} --split {split} --trunk {s.trunk}"
        )
    receipt = read_receipt(path)
    folder = ws.stores.child(receipt["store"])
    opened = Store(folder)
    # Where the weights are not at hand there is nothing to compare: heads need none.
    if ws.has_weights() and receipt.get("weights") != ws.weights_state():
        raise StoreError(
            f"{folder}: the trunk's weights or card changed since it was made (trunk {ws.settings.trunk!r}); "
            f"extract again: pipeline extract --dataset {dataset} --split {split} --trunk {ws.settings.trunk}"
        )
    if opened.fingerprint != receipt["fingerprint"]:
        raise StoreError(
            f"{path}: names the store {folder} with another fingerprint than it has; run pipeline extract again"
        )
    return opened


def run_fit(ws: Workspace, dataset: str, heads: Sequence[str], say: Say) -> dict[str, Path]:
    """Fit the heads that are not fitted yet on the fit split's store."""
    manifest = load_manifest(dataset)
    settings = {name: ws.settings.head_settings(name) for name in heads}
    table = current_table(ws, dataset, manifest.fit, say)
    store = sealed_store(ws, dataset, manifest.fit)
    set_threads(ws.settings.threads)
    paths = {}
    for name in heads:
        path = paths[name] = ws.head_path(dataset, name)
        if path.is_file():
            current = (store.fingerprint, table.labels_digest(ws.settings.labels))
            try:
                facts = load_head(path).facts
            except HeadError as error:
                say(f"{error}; fitting it anew")
            else:
                if (facts["fingerprint"], facts["labels_digest"]) == current:
                    say(f"{path}: fitted on this store and these labels already")
                    continue
        started = time.perf_counter()
        head = fit_head(store, table, name, settings[name], ws.settings.labels, ws.settings.seed)
        digest = save_head(head, path)
        seconds = time.perf_counter() - started
        _write_log(path, {"fit_head": seconds})
        used, skipped = head.facts["pictures"]["used"], head.facts["pictures"]["skipped"]
        say(
            f"{path}: fitted on {used:,} of {used + skipped:,} pictures, "
            f"{head.facts['patches']['positive']:,} positive and {head.facts['patches']['background']:,} background "
            f"patches in {seconds:.1f} s; loss {head.facts['epochs'][-1]['loss']:.4f}; sha256 {digest[:12]}"
        )
    return paths


def run_score(ws: Workspace, dataset: str, heads: Sequence[str], split: str | None, say: Say) -> dict[str, Path]:
    """Score a split with fitted heads; the store is read once for all of them."""
    manifest = load_manifest(dataset)
    split = split or manifest.eval
    table = current_table(ws, dataset, split, say)
    store = sealed_store(ws, dataset, split)
    set_threads(ws.settings.threads)
    loaded = [load_head(ws.head_path(dataset, name)) for name in heads]
    started = time.perf_counter()
    scored = score_split(store, table, loaded, ws.settings.all_aggregations)
    seconds = (time.perf_counter() - started) / len(heads)
    paths = {}
    for name, scores in zip(heads, scored, strict=True):
        path = paths[name] = ws.scores_path(dataset, name, split)
        save_scores(scores, path)
        _write_log(path, {"score": seconds})
        say(f"{path}: {len(scores.ids):,} pictures, {table.n_rows:,} patches scored in {seconds:.1f} s")
    return paths


def run_evaluate(ws: Workspace, dataset: str, head: str, split: str | None, command: str, say: Say) -> dict[str, Any]:
    """Average precision of one head, or devkit files where the split has no labels."""
    manifest = load_manifest(dataset)
    split = split or manifest.eval
    table = current_table(ws, dataset, split, say)
    scores_path = ws.scores_path(dataset, head, split)
    scores = load_scores(scores_path)
    folder = ws.run_dir(dataset, head)
    seconds = _stage_seconds(ws, dataset, head, manifest, split)
    about = (scores, table, manifest, ws.settings.aggregation, ws.settings.trunk, seconds, command)
    if not table.labelled:
        result = unlabelled_result(*about)
        competition = manifest.competition_with(outside_data=ws.settings.trunk != "random")
        files = write_devkit_files(scores, ws.settings.aggregation, folder / "devkit", competition, manifest.unscored)
        result["devkit_files"] = [path.as_posix() for path in files]
        say(f"{folder / 'devkit'}: {len(files)} files for the evaluation server ({competition}); {split} has no labels")
    else:
        result = evaluate_scores(*about)
        for note in result["notes"]:
            say(f"NOTE: {note}")
    result["paths"] = {
        "head": ws.head_path(dataset, head).as_posix(),
        "scores": scores_path.as_posix(),
        "store": str(ws.stores.child(read_receipt(ws.receipt_path(dataset, split))["store"])),
        "result": (folder / "map.json").as_posix(),
    }
    write_json(folder / "map.json", result)
    return result


def run_compare(
    ws: Workspace, dataset: str, heads: Sequence[str], baselines: Sequence[str], say: Say
) -> dict[str, Any]:
    """Join the results of several heads, and of the main head on baseline trunks, into one file."""
    runs = [(name, ws, name) for name in heads]
    runs += [(f"{ws.settings.head} on {trunk}", ws.with_trunk(trunk), ws.settings.head) for trunk in baselines]
    paths = {name: where.run_dir(dataset, head) / "map.json" for name, where, head in runs}
    missing = [f"{name}: no {path}" for name, path in paths.items() if not path.is_file()]
    if missing:
        raise PipelineError(
            f"{dataset}: {len(missing)} of {len(paths)} results are missing\n{enumerate_problems(missing)}\n"
            f"make them with: pipeline evaluate --dataset {dataset} --head NAME"
        )
    results = []
    for name, path in paths.items():
        try:
            result = read_json(path)
            results.append((name, {**result, "mAP": result["mAP"]}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PipelineError(
                f"{path}: not a result ({type(error).__name__} {error}); make it again with: pipeline evaluate "
                f"--dataset {dataset}"
            ) from error
    if all(result["mAP"] is None for _, result in results):
        raise PipelineError(
            f"{dataset} {results[0][1]['split']}: no labels, so nothing to compare; the files for the "
            f"evaluation server are in {', '.join(str(path.parent / 'devkit') for path in paths.values())}"
        )
    try:
        joined = join_heads(results)
    except (KeyError, TypeError) as error:
        listed = ", ".join(map(str, paths.values()))
        raise PipelineError(f"{listed}: one is not a result: no {error}; make it again: pipeline evaluate") from error
    write_json(ws.heads_path(dataset), joined)
    say(f"{ws.heads_path(dataset)}: {len(results)} results side by side")
    return joined


def run_sweep(ws: Workspace, dataset: str, say: Say) -> dict[str, Any]:
    """Choose head, reading and k on held-out fit pictures; show the evaluation split beside it."""
    manifest = load_manifest(dataset)
    set_threads(ws.settings.threads)
    fit_table = current_table(ws, dataset, manifest.fit, say)
    eval_table = current_table(ws, dataset, manifest.eval, say)
    if not eval_table.labelled:
        raise PipelineError(f"{dataset} {manifest.eval}: no labels to show a sweep on")
    eval_store = sealed_store(ws, dataset, manifest.eval)
    swept = sweep_settings(
        sealed_store(ws, dataset, manifest.fit),
        fit_table,
        eval_store,
        eval_table,
        manifest.metric,
        {name: ws.settings.head_settings(name) for name in ws.settings.compare},
        [ws.settings.labels.model_copy(update={"single_object": reading}) for reading in ws.settings.readings],
        ws.settings.all_aggregations,
        ws.settings.held_out,
        ws.settings.seed,
        say,
    )
    result = {
        "dataset": dataset,
        "split": manifest.eval,
        "fit_split": manifest.fit,
        "metric": manifest.metric,
        "trunk": ws.settings.trunk,
        "layer": eval_store.identity["how.layer"],
        "seed": ws.settings.seed,
        **swept,
        "versions": versions(),
    }
    write_json(ws.sweep_path(dataset), result)
    return result


def _write_log(path: Path, seconds: dict[str, float]) -> None:
    """Seconds beside a file whose own bytes must not depend on them."""
    write_json(path.with_suffix(".log.json"), {"seconds": {k: round(v, 2) for k, v in seconds.items()}})


def _stage_seconds(ws: Workspace, dataset: str, head: str, manifest: Manifest, split: str) -> dict[str, float]:
    """Seconds of each stage, from the logs beside what they made; 0 runs of a stage leave no entry."""
    seconds: dict[str, float] = {}
    for path in (ws.head_path(dataset, head), ws.scores_path(dataset, head, split)):
        log = path.with_suffix(".log.json")
        if log.is_file():
            seconds |= read_json(log)["seconds"]
    for role in {manifest.fit, split}:
        receipt = ws.receipt_path(dataset, role)
        if not receipt.is_file():
            continue
        log = ws.cache / log_name(read_receipt(receipt)["store"])
        if log.is_file():
            total = 0.0
            for line in log.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError):  # a line that a full disk cut off
                    total += json.loads(line)["seconds"]
            seconds[f"extract_{role}"] = round(total, 2)
    return seconds
