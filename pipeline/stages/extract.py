"""Stage ``extract``: the activations of a split, and the receipt that names their store."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations.engines import find_engine
from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import Folder, LocalFolder, open_folder
from pipeline.activations.identity import Identity, explain_differences
from pipeline.activations.parts import PartMaker
from pipeline.activations.run_log import RunLog
from pipeline.activations.store import Store
from pipeline.activations.trunk_identity import trunk_fields
from pipeline.io.atomic import remove_stale_partials, write_json
from pipeline.io.errors import StoreError
from pipeline.io.picture_file import PictureFile
from pipeline.patches.table import PatchTable
from pipeline.stages.boxes import check_trunk, refuse_without_boxes
from pipeline.stages.context import RunContext
from pipeline.stages.patches import current_table, open_pictures
from pipeline.stages.receipt import Receipt, write_receipt
from pipeline.stages.runner import make_runner, worker_threads
from pipeline.stages.settings import RunSettings
from pipeline.stages.stored import open_features, require_rows, rows_to_extract
from pipeline.stages.workspace import Workspace
from pipeline.trunk.registry import is_imported


@dataclass(frozen=True)
class Inputs:
    """What an extraction reads.

    Attributes
    ----------
    table : current patch table of the split
    paths : of the pictures by their ids; empty where none is read
    rows : rows of the table that are asked for, as `rows_to_extract` gives them; None for all
    imported : the store of rows that were imported, of which nothing is computed here; None of other trunks
    """

    table: PatchTable
    paths: Mapping[str, PictureFile]
    rows: np.ndarray | None
    imported: Store | None = None


def path(run: RunContext, split: str) -> Path:
    """Return the receipt of a split: the small file that names its store."""
    return run.ws.receipt_path(run.dataset, split)


def why_due(run: RunContext, split: str) -> str | None:
    """Return why the activations of a split must be extracted, or None if they are current.

    Compares the receipt, its store, the trunk's weight files, and the patch table. Runs no trunk, and needs
    pictures and weights only as far as they are available.
    """
    try:
        require_rows(run, split)
    except StoreError as error:
        return str(error)
    return None


def open_inputs(run: RunContext, split: str, rehash: bool = False) -> Inputs:
    """Open what `make` and `make_share` read. Imported rows need no pictures, and must be there.

    Parameters
    ----------
    rehash : hash each picture again

    Raises
    ------
    DatasetError
        The settings need boxes, and the dataset has none.
    MissingDataError
        The pictures are not available.
    StoreError
        No rows were imported, or they are of other patches; the message says how they come in.
    """
    if is_imported(run.settings.trunk):
        return Inputs(current_table(run, split), {}, None, open_features(run, split).store)
    check_trunk(run.manifest, run.settings)
    if run.settings.rows != "all":
        refuse_without_boxes(run.manifest, "rows: labelled", "use rows: all")
    table, paths = open_pictures(run, split, rehash)
    return Inputs(table, paths, rows_to_extract(run, table))


def without_pictures(run: RunContext, table: PatchTable) -> Inputs:
    """Return the inputs of an extraction of which only the identity is needed: no picture is read."""
    return Inputs(table, {}, rows_to_extract(run, table))


def make(
    run: RunContext,
    inputs: Inputs,
    layers: Sequence[str] = (),
    *,
    generation: int | None = None,
) -> list[Store]:
    """Extract the activations of a split into sealed stores, one per layer, and write their receipts.

    A complete store is left as it is, an incomplete one is resumed. Rows that other stores hold are taken over.

    Parameters
    ----------
    inputs : from `open_inputs`
    layers : several layers from one pass, each into a store of its own; none for the layer of the settings
    generation : number of the making in the receipts; None for the next one
    """
    if inputs.imported is not None:
        return [inputs.imported]
    if isinstance(run.ws.stores, LocalFolder):
        remove_stale_partials(run.ws.stores.path / ".partial")
    on_workers = None if run.scheduler is None else find_engine(run.scheduler)
    extraction = extraction_of(run, inputs, layers, elsewhere=on_workers is not None)
    engine = None
    if on_workers is not None:
        requested = {item.folder.name: item.identity for item in extraction.requested}
        maker = partial(make_part_maker, _settings_of_workers(run, on_workers.n_local(run.scheduler)), requested)
        engine = on_workers(run.scheduler, maker, extraction.runner.device.type == "cuda", run.say)
    stores = extraction.run_layers(engine=engine)
    for of_layer, store in zip(_of_each_layer(run, layers), stores, strict=True):
        receipt = _make_receipt(of_layer, extraction, store, generation)
        write_receipt(path(of_layer, receipt.split), receipt)
    return stores


def make_share(run: RunContext, inputs: Inputs, share: tuple[int, int], layers: Sequence[str] = ()) -> list[Path]:
    """Extract one of several shares of the stores' parts; `make` completes and seals them.

    Parameters
    ----------
    inputs : from `open_inputs`
    share : (i, n) for the i-th (from 1) of n

    Returns
    -------
    Files that say that the share is done, one per layer.
    """
    index, count = share
    extraction = extraction_of(run, inputs, layers)
    extraction.run_layers(share)
    files = []
    for of_layer, asked in zip(_of_each_layer(run, layers), extraction.requested, strict=True):
        files.append(of_layer.ws.share_path(run.dataset, inputs.table.split, index, count))
        write_json(files[-1], {"store": asked.folder.name, "share": f"{index}/{count}"})
    return files


def _of_each_layer(run: RunContext, layers: Sequence[str]) -> list[RunContext]:
    return [run.on(run.ws.with_layer(layer)) for layer in layers] or [run]


def extraction_of(
    run: RunContext,
    inputs: Inputs,
    layers: Sequence[str] = (),
    *,
    download: bool = True,
    elsewhere: bool = False,
) -> Extraction:
    """Return the extraction that the settings ask for.

    Parameters
    ----------
    inputs : from `open_inputs`, or `without_pictures` where only the identity is needed
    layers : as for `make`
    download : whether a library's weights that are not on this machine may be downloaded
    elsewhere : whether workers run the trunk; see `pipeline.stages.runner.make_runner`
    """
    run, table = _of_each_layer(run, layers)[0], inputs.table
    s = run.settings
    runner = make_runner(run.ws, run.dataset, download=download, elsewhere=elsewhere, say=run.say)
    for note in runner.trunk.notes:
        run.say(f"note: weights {run.settings.weights}: {note}")
    if inputs.rows is not None:
        of = f"{table.dataset} {table.split}: {len(inputs.rows):,} of {table.n_rows:,} rows"
        run.say(f"{of}, those that head {s.head!r} learns from")
    return Extraction(
        table,
        inputs.paths,
        runner,
        run.ws.stores,
        s.batch,
        run.say,
        run.ws.cache,
        layers,
        s.dtype,
        s.codec,
        inputs.rows,
        adopt=s.adopt,
        other_stores=[open_folder(place) for place in s.adopt_from],
    )


def _make_receipt(run: RunContext, extraction: Extraction, store: Store, generation: int | None) -> Receipt:
    table = extraction.table
    return Receipt(
        dataset=run.dataset,
        split=table.split,
        store=store.folder.name,
        fingerprint=store.fingerprint,
        rows=store.n_rows,
        width=store.width,
        bytes=store.n_bytes,
        pictures={"used": len(table.ids), "skipped": len(table.skipped)},
        trunk=extraction.runner.trunk.card.name,
        layer=store.identity["how.layer"],
        weights=run.ws.weights_state(run.dataset),
        made=generation if generation is not None else run.ws.store_making(run.dataset, table.split),
        settings=run.settings.model_dump(mode="json"),
        adopted=RunLog.of_store(run.ws.cache, store.folder.name).adopted(),
    )


def _settings_of_workers(run: RunContext, n_here: int | None) -> RunSettings:
    """Return the settings with absolute paths, for workers started in other folders."""
    ws, s = run.ws, run.settings
    places: dict[str, Any] = {"threads": worker_threads(s.threads, n_here)}
    places["stores"] = absolute_place(ws.stores)
    if s.weights:
        places["weights"] = str(Path(s.weights).absolute())
    card = ws.trunk_path(run.dataset) if ws.makes_trunk else Path(s.trunk)
    if card.is_file():
        places["trunk"] = str(card.absolute())
    return s.model_copy(update=places)


def absolute_place(folder: Folder) -> str:
    """Return the URL or the absolute path of a folder."""
    return str(folder) if "://" in str(folder) else str(Path(str(folder)).absolute())


def make_part_maker(settings: RunSettings, stores: Mapping[str, Identity]) -> PartMaker:
    """Return a worker's maker of parts, made there from the same settings, and checked to be the same.

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
        own = {**expected, **trunk_fields(trunk, runner.precision_name, batch, part_rows, runner.window_fields)}
        if own != expected:
            raise StoreError(
                f"worker {platform.node()}: would make other activations than were asked for\n"
                f"{explain_differences(own, expected)}\nuse workers with the same package, weights and kind of device"
            )
    return PartMaker(runner, *map(ws.stores.child, stores))
