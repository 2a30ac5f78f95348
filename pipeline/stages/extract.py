"""Stage ``extract``: the activations of a split, and the receipt that names their store."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import LocalFolder
from pipeline.activations.identity import Identity, explain_differences, trunk_fields
from pipeline.activations.parts import PartMaker
from pipeline.activations.store import Store
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.head.strong import rows_to_learn
from pipeline.io.atomic import remove_stale_partials, write_json
from pipeline.io.errors import SettingsError, StoreError
from pipeline.io.progress import Say, silent
from pipeline.patches.table import PatchTable
from pipeline.stages.patches import current_table
from pipeline.stages.receipt import read_receipt, write_receipt
from pipeline.stages.settings import RunSettings
from pipeline.stages.trunk import make_runner
from pipeline.stages.workspace import Workspace


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
    paths = read_split(load_manifest(dataset), split, ws.settings.data_root).paths_by_id
    return extraction_of(ws.with_layer(layers[0]) if layers else ws, table, paths, say, layers)


def extraction_of(
    ws: Workspace,
    table: PatchTable,
    paths: Mapping[str, Path],
    say: Say = silent,
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
        remove_stale_partials(ws.stores.path / ".partial")
    extraction = plan_extraction(ws, dataset, split, say, rehash, layers)
    engine = None
    if scheduler is not None:
        assert workers is not None  # set above
        engine = DaskEngine(scheduler, partial(make_part_maker, workers), extraction, say)
    stores = extraction.run_layers(engine=engine)
    for each, store in zip([ws.with_layer(layer) for layer in layers] or [ws], stores, strict=True):
        write_receipt(each, dataset, split, extraction, store, made)
    return stores


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
