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
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.activations.extract import Extraction, PartMaker, log_name
from pipeline.activations.folder import LocalFolder
from pipeline.activations.identity import Identity, explain_differences, trunk_fields
from pipeline.activations.store import Store
from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.dataset.voc import Annotation, read_split
from pipeline.errors import HeadError, MissingDataError, PipelineError, SettingsError, StoreError
from pipeline.files import (
    read_json,
    read_signed_json,
    signed_json,
    sweep_partials,
    write_json,
    write_whole,
)
from pipeline.head.head import Head, fit_heads, load_head, save_head
from pipeline.head.strong import rows_to_learn
from pipeline.head.task import RowReader
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.table import PatchTable
from pipeline.scoring.results import evaluate_scores, unlabelled_result, versions, write_devkit_files
from pipeline.scoring.scores import effective, load_scores, save_scores, score_split
from pipeline.scoring.sweep import sweep_settings
from pipeline.settings import SEEDED_TRUNKS, AnyHead, LabelSettings, RunSettings
from pipeline.tables import Say, current_table, picture_paths
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.devices import resolve_device
from pipeline.trunk.registry import load_trunk
from pipeline.trunk.runner import TrunkRunner, resolve_precision
from pipeline.trunk.trunk import Trunk
from pipeline.workspace import Workspace


def set_threads(n: int) -> int:
    """Give torch `n` threads, or one a usable core for 0; the number given."""
    n = n or len(os.sched_getaffinity(0))
    torch.set_num_threads(n)
    return n


def make_trunk(ws: Workspace, dataset: str | None = None) -> Trunk:
    """The configured trunk, loaded; one that is made from a dataset must have been made.

    Raises
    ------
    TrunkError, MissingDataError
    """
    s = ws.settings
    name = s.trunk
    if dataset is not None and ws.makes_trunk:
        card = ws.trunk_path(dataset)
        if not card.is_file():
            raise MissingDataError(
                f"{dataset}: trunk {s.trunk!r} has not been made from its fit split yet (no {card}); "
                f"make it with: pipeline trunk make --dataset {dataset} --trunk {s.trunk}"
            )
        name = str(card)
    return load_trunk(name, s.layer, Path(s.weights) if s.weights else None, s.trunk_seed)


def make_runner(ws: Workspace, dataset: str | None = None) -> TrunkRunner:
    """The configured trunk on the configured device."""
    set_threads(ws.settings.threads)
    device = resolve_device(ws.settings.device)
    trunk = make_trunk(ws, dataset)
    kind = DenseRunner if ws.dense else TrunkRunner
    return kind(trunk, device, resolve_precision(ws.settings.precision, device, trunk.precision), ws.settings.compiled)


def rows_to_make(ws: Workspace, table: PatchTable) -> np.ndarray | None:
    """Rows of a table that the settings ask for: None for all.

    Raises
    ------
    SettingsError
        The main head is of a kind that looks at all of them.
    """
    s = ws.settings
    if s.rows == "all" or table.split != load_manifest(table.dataset).fit:
        return None
    head = s.head_settings(s.head)
    if head.kind not in ("strong", "adapted"):
        raise SettingsError(f"rows: labelled is for strong heads, and head {s.head!r} looks at all rows; use rows: all")
    return rows_to_learn(table, head, s.labels, s.all_seeds)


def plan_extraction(
    ws: Workspace, dataset: str, split: str, say: Say, rehash: bool = False, layers: Sequence[str] = ()
) -> Extraction:
    """The extraction that the settings ask for: table, pictures, trunk, place.

    Parameters
    ----------
    layers : several layers from one pass, in place of the one of the settings
    """
    table = current_table(ws, dataset, split, say, rehash)
    # Only the pictures' places are needed here; the table has been checked against their content.
    paths = picture_paths(read_split(load_manifest(dataset), split, ws.settings.data_root))
    return extraction_of(ws.with_layer(layers[0]) if layers else ws, table, paths, say, layers)


def extraction_of(
    ws: Workspace,
    table: PatchTable,
    paths: Mapping[str, Path],
    say: Say = lambda text: None,
    layers: Sequence[str] = (),
) -> Extraction:
    """The extraction of a table that the settings ask for; `paths` may be empty where it shall not run."""
    s = ws.settings
    runner = make_runner(ws, table.dataset)
    rows = rows_to_make(ws, table)
    if rows is not None:
        of = f"{table.dataset} {table.split}: {len(rows):,} of {table.n_rows:,} rows"
        say(f"{of}, those that head {s.head!r} learns from")
    return Extraction(table, paths, runner, ws.stores, s.batch, say, ws.cache, layers, s.dtype, s.codec, rows)


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
    return run_extract_layers(ws, dataset, split, (), say, made, rehash, scheduler)[0]


def run_extract_layers(
    ws: Workspace,
    dataset: str,
    split: str,
    layers: Sequence[str],
    say: Say,
    made: int | None = None,
    rehash: bool = False,
    scheduler: str | None = None,
) -> list[Store]:
    """Make or complete the stores of some layers in one pass; each gets the receipt that it gets alone.

    Parameters
    ----------
    layers : none for the one of the settings
    """
    workers = None
    if scheduler is not None:
        from pipeline.activations.dask_engine import DaskEngine

        workers = _for_workers(ws, dataset, DaskEngine.n_local(scheduler))
    if isinstance(ws.stores, LocalFolder):
        sweep_partials(ws.stores.path / ".partial")
    extraction = plan_extraction(ws, dataset, split, say, rehash, layers)
    engine = None
    if scheduler is not None:
        assert workers is not None  # set above
        engine = DaskEngine(scheduler, partial(make_part_maker, workers), extraction, say)
    stores = extraction.run_layers(engine=engine)
    for each, store in zip([ws.with_layer(layer) for layer in layers] or [ws], stores, strict=True):
        _write_receipt(each, dataset, split, extraction, store, made)
    return stores


def _write_receipt(
    ws: Workspace, dataset: str, split: str, extraction: Extraction, store: Store, made: int | None
) -> None:
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
        "layer": store.identity["how.layer"],
        "weights": ws.weights_state(dataset),
        "made": made if made is not None else ws.store_making(dataset, split),
        # What `cache verify` and `cache repair` need to make rows again.
        "settings": ws.settings.model_dump(mode="json"),
    }
    write_whole(ws.receipt_path(dataset, split), signed_json(receipt))


def run_extract_share(
    ws: Workspace, dataset: str, split: str, share: tuple[int, int], say: Say, layers: Sequence[str] = ()
) -> list[Path]:
    """Make one of several shares of a store's parts; the store is sealed by whoever runs `run_extract`.

    Of several layers' stores, if there are `layers`; then the file that is left is one a layer too.
    """
    index, count = share
    extraction = plan_extraction(ws, dataset, split, say, layers=layers)
    extraction.run_layers(share)
    paths = []
    for each, asked in zip([ws.with_layer(layer) for layer in layers] or [ws], extraction.asked, strict=True):
        paths.append(each.share_path(dataset, split, index, count))
        write_json(paths[-1], {"store": asked.folder.name, "share": f"{index}/{count}"})
    return paths


def _for_workers(ws: Workspace, dataset: str, n_here: int | None) -> RunSettings:
    """The settings with absolute paths, for workers started in other folders.

    Of `n_here` workers of this machine each gets its share of the cores; one elsewhere knows its own.
    """
    s = ws.settings
    share = max(1, len(os.sched_getaffinity(0)) // n_here) if n_here else 0
    places: dict[str, Any] = {"threads": s.threads or share}
    places["stores"] = str(ws.stores) if "://" in str(ws.stores) else str(Path(str(ws.stores)).absolute())
    if s.weights:
        places["weights"] = str(Path(s.weights).absolute())
    card = ws.trunk_path(dataset) if ws.makes_trunk else Path(s.trunk)
    if card.is_file():
        places["trunk"] = str(card.absolute())
    return s.model_copy(update=places)


def make_part_maker(settings: RunSettings, stores: Mapping[str, Identity]) -> PartMaker:
    """What a worker of an engine holds: made there, from the same settings, and checked to be the same.

    Raises
    ------
    StoreError
        The worker would compute other values (other weights, arithmetic, code); the fields are named.
    """
    ws = Workspace(settings)
    runner = make_runner(ws)
    for expected in stores.values():
        batch, part_rows = expected["how.batch"], expected["how.part_rows"]
        trunk = runner.trunk.at(expected["how.layer"])
        own = {**expected, **trunk_fields(trunk, runner.precision_name, batch, part_rows, runner.places)}
        if own != expected:
            raise StoreError(
                f"worker {platform.node()}: would make other activations than were asked for\n"
                f"{explain_differences(own, expected)}\nuse workers with the same package, weights and kind of device"
            )
    return PartMaker(runner, *map(ws.stores.child, stores))


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
            + (f" --layer {s.layer}" if s.layer != "fc7" else "")
        )
    receipt = read_receipt(path)
    folder = ws.stores.child(receipt["store"])
    opened = Store(folder)
    # Where the weights are not at hand there is nothing to compare: heads need none.
    if ws.has_weights() and receipt.get("weights") != ws.weights_state(dataset):
        raise StoreError(
            f"{folder}: the trunk's weights or card changed since it was made (trunk {ws.settings.trunk!r}); "
            f"extract again: pipeline extract --dataset {dataset} --split {split} --trunk {ws.settings.trunk}"
        )
    if opened.fingerprint != receipt["fingerprint"]:
        raise StoreError(
            f"{path}: names the store {folder} with another fingerprint than it has; run pipeline extract again"
        )
    return opened


def run_fit(ws: Workspace, dataset: str, heads: Sequence[str], say: Say, held_out: bool = False) -> dict[str, Path]:
    """Fit the heads that are not fitted yet on the fit split's store.

    With `held_out` they are fitted without the held-out share of its pictures, for choosing on these.
    """
    manifest = load_manifest(dataset)
    settings = {name: ws.settings.head_settings(name) for name in heads}

    @cache
    def joined(split: str) -> tuple[PatchTable, Store, RowReader]:
        table, store = current_table(ws, dataset, split, say), sealed_store(ws, dataset, split)
        return table, store, RowReader(store, rows_to_make(ws, table))

    set_threads(ws.settings.threads)
    paths = {name: ws.head_path(dataset, name, held_out) for name in heads}
    missing: dict[str, dict[str, AnyHead]] = {}
    for name in paths:
        split = ws.split_of_rows(manifest, name, held_out)
        table, store, _ = joined(split)
        if not _is_current(paths[name], store, table, ws.settings.labels, say):
            missing.setdefault(split, {})[name] = settings[name]
    labels, seed, trunk = ws.settings.labels, ws.settings.seed, partial(make_trunk, ws, dataset)
    share = ws.settings.held_out if held_out else 0.0
    for split, of_split in missing.items():
        table, store, read = joined(split)
        started = time.perf_counter()
        for name, head in fit_heads(store, table, of_split, labels, seed, share, trunk, read):
            digest = save_head(head, paths[name])
            say(f"{paths[name]}: {_describe(head)} sha256 {digest[:12]}")
        # Heads may be fitted side by side: each gets its share.
        seconds = (time.perf_counter() - started) / len(of_split)
        say(f"{dataset} {split}: {len(of_split)} head(s) fitted, {seconds:.1f} s each")
        for name in of_split:
            _write_log(paths[name], {"fit_head": seconds})
    return paths


def _is_current(path: Path, store: Store, table: PatchTable, labels: LabelSettings, say: Say) -> bool:
    """Whether a head is there, sound, and fitted on this store and these labels."""
    if not path.is_file():
        return False
    try:
        facts = load_head(path).facts
    except HeadError as error:
        say(f"{error}; fitting it anew")
        return False
    current = (facts["fingerprint"], facts["labels_digest"]) == (store.fingerprint, table.labels_digest(labels))
    if current:
        say(f"{path}: there already, for this store and these labels")
    return current


def _describe(head: Head) -> str:
    """What a head was fitted on, and how it went."""
    facts = head.facts
    if facts["settings"]["kind"] == "own":
        return "the trunk's own last layer, nothing was fitted;"
    used, total = facts["pictures"]["used"], sum(facts["pictures"].values())
    text = f"fitted on {used:,} of {total:,} pictures"
    counts = [f"{n:,} {what}" for what, n in facts.get("patches", {}).items() if what in ("positive", "background")]
    text += f", {' and '.join(counts)} patches" if counts else ""
    return text + (f", loss {facts['epochs'][-1]['loss']:.4f}" if facts["epochs"] else "") + ";"


def run_score(
    ws: Workspace, dataset: str, heads: Sequence[str], split: str | None, say: Say, held_out: bool = False
) -> dict[str, Path]:
    """Score a split with fitted heads; the store is read once for all of them.

    With `held_out`: the held-out pictures of the fit split, with the heads that have not seen them.
    """
    manifest = load_manifest(dataset)
    split = manifest.fit if held_out else split or manifest.eval
    table = current_table(ws, dataset, split, say)
    store = sealed_store(ws, dataset, split)
    set_threads(ws.settings.threads)
    loaded = [load_head(ws.head_path(dataset, name, held_out)) for name in heads]
    wanted = hold_out_pictures(table.group_ids, ws.settings.held_out) if held_out else None
    started = time.perf_counter()
    scored = score_split(store, table, loaded, ws.settings.all_aggregations, wanted)
    seconds = (time.perf_counter() - started) / len(heads)
    paths = {}
    for name, scores in zip(heads, scored, strict=True):
        path = paths[name] = ws.scores_path(dataset, name, split, held_out)
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
    k = effective(ws.settings.aggregation, scores.aggregations)
    about = (scores, table, manifest, k, ws.settings.trunk, seconds, command)
    if not table.labelled:
        result = unlabelled_result(*about)
        competition = manifest.competition_with(outside_data=ws.settings.trunk not in SEEDED_TRUNKS)
        files = write_devkit_files(scores, k, folder / "devkit", competition, manifest.unscored)
        result["devkit_files"] = [path.as_posix() for path in files]
        say(f"{folder / 'devkit'}: {len(files)} files for the evaluation server ({competition}); {split} has no labels")
    else:
        result = evaluate_scores(*about, _annotations(ws, manifest, split, say) if scores.peak_xy is not None else None)
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


def _annotations(ws: Workspace, manifest: Manifest, split: str, say: Say) -> dict[str, Annotation] | None:
    """Annotations of a split by id; None where they are not at hand, or are of persons and not of what maps show."""
    if manifest.layout == "voc-action":
        return None
    try:
        of_split = read_split(manifest, split, ws.settings.data_root)
    except MissingDataError:
        say(f"{manifest.name} {split}: its boxes are not at hand, so it is not measured where maps point")
        return None
    return dict(zip(of_split.ids, of_split.annotations, strict=True))


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
