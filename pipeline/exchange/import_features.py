"""Import: rows that were made elsewhere become a sealed store of a split, joined with its patch table."""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline.activations import SEAL
from pipeline.activations.arrays import ROW_DTYPE
from pipeline.activations.folder import Folder, disk_trouble
from pipeline.activations.identity import fingerprint
from pipeline.activations.imported import LAYER, imported_identity
from pipeline.activations.part_size import rows_per_part
from pipeline.activations.partition import parts_of
from pipeline.activations.store import Store
from pipeline.activations.verify import verify_store
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.exchange.match import match_rows
from pipeline.exchange.read import GivenRows
from pipeline.io.errors import DatasetError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Progress
from pipeline.patches.table import PatchTable
from pipeline.stages import extract
from pipeline.stages.context import RunContext
from pipeline.stages.patches import current_table
from pipeline.stages.receipt import Receipt, write_receipt

BLOCK_ROWS = 1024
MOST_CHANGE = 0.01
"""Of the largest value of a row: by so much float16 may change it. Rounding is a twentieth of that."""
TOO_SMALL = "multiply all rows of all splits by one number"


def import_features(run: RunContext, split: str, given: GivenRows, made_by: str = "") -> Store:
    """Write rows into a sealed store and its receipt; an interrupted import resumes at the parts without a record.

    Damaged parts of a store that is there already are written again.

    Parameters
    ----------
    run : with trunk ``imported/NAME``
    given : rows of the split, in any order; those of other pictures are left out
    made_by : what made them, such as a model's name and version

    Raises
    ------
    DatasetError
        Rows are missing, there twice, of no window of the split, not finite, beyond float16 or too small for it; all
        are named.
    """
    table = current_table(run, split)
    order = match_rows(given, table)
    n_left_out = len(given.picture) - len(order)
    if n_left_out:
        run.say(f"{given.path}: {len(order):,} rows are of {split}; {n_left_out:,} of other pictures are left out")
    name, width = run.settings.trunk.partition("/")[2], given.values.shape[1]
    values_sha256 = _digest(run, table, given, order)
    identity = imported_identity(
        table,
        name=name,
        made_by=made_by,
        width=width,
        part_rows=rows_per_part(width, None, batch=1),
        values_sha256=values_sha256,
        given_dtype=given.values.dtype.name,
    )
    folder = run.ws.stores.child(f"{run.dataset}-{split}-imported-{name}-{LAYER}-{fingerprint(identity)[:12]}.zarr")
    try:
        made_from = {"dataset": run.dataset, "split": split, "trunk": run.settings.trunk}
        create_store(folder, identity, table.ids, made_from, run.settings.codec)
        _remove_damage(folder)
        writer = StoreWriter(folder)
        missing = [] if writer.sealed else writer.missing()
        with Progress(f"import {run.dataset} {split}", sum(part.n_rows for part in missing), "rows") as progress:
            for part in missing:
                rows = slice(part.start, part.stop)
                own = table.rows_at(rows)
                columns = {"picture": own.picture, "box_xyxy": own.box_xyxy, "scale": own.scale}
                activations = np.asarray(given.values[order[rows]]).astype(ROW_DTYPE)
                writer.write_part(part, {"activations": activations, **columns})
                progress.advance(part.n_rows)
        if not writer.sealed:
            writer.seal()
    except OSError as error:
        raise disk_trouble(error, folder) from error
    store = Store(folder, identity)
    write_receipt(extract.path(run, split), _receipt(run, split, table, store))
    return store


def _remove_damage(folder: Folder) -> None:
    """Remove the damaged parts of a sealed store, so that they are written again: no other command can make them."""
    if not folder.exists(SEAL):
        return
    report = verify_store(folder)
    if report.findings and report.identity is not None:
        bad = [part.record_name for part in parts_of(report.identity) if part.index in report.bad_parts]
        # The seal first: stopped anywhere, this leaves an incomplete store.
        for name in dict.fromkeys([SEAL, *bad, *(finding.name for finding in report.findings)]):
            folder.remove(name)


def _digest(run: RunContext, table: PatchTable, given: GivenRows, order: np.ndarray) -> str:
    """Check all rows, and digest them as float16 in the order of the table.

    Raises
    ------
    DatasetError
        Values are not finite, or beyond float16; the pictures are named.
    """
    digest, largest = hashlib.sha256(), 0.0
    problems: list[str] = []
    limit = float(np.finfo(ROW_DTYPE).max)
    with Progress(f"check {given.path.name}", len(order), "rows") as progress:
        for start in range(0, len(order), BLOCK_ROWS):
            values = np.asarray(given.values[order[start : start + BLOCK_ROWS]])
            with np.errstate(over="ignore"):
                rows = values.astype(ROW_DTYPE)
            for row in np.flatnonzero(~np.isfinite(rows).all(1)).tolist():
                what = "a value beyond float16" if np.isfinite(values[row]).all() else "a value that is no number"
                picture = table.ids[int(table.picture_of(np.array([start + row]))[0])]
                problems.append(f"{picture}: {what} (float16 holds -{limit:,.0f} to {limit:,.0f})")
            if not problems and values.dtype != ROW_DTYPE:
                change = np.abs(values - rows.astype(values.dtype)).max(1)
                scale = np.abs(values).max(1)
                share = change / np.where(scale > 0, scale, 1)
                largest = max(largest, float(share.max()))
                for row in np.flatnonzero(share > MOST_CHANGE).tolist():
                    picture = table.ids[int(table.picture_of(np.array([start + row]))[0])]
                    problems.append(f"{picture}: values too small for float16, at most {scale[row]:.1e}: {TOO_SMALL}")
            digest.update(np.ascontiguousarray(rows).data)
            progress.advance(len(rows))
    if problems:
        raise DatasetError(
            f"{given.path}: rows that cannot be kept\n{enumerate_problems(list(dict.fromkeys(problems)))}"
        )
    if largest:
        run.say(
            f"{given.path}: {given.values.dtype} became float16; no value changed by more than {largest:.1e} of the "
            "largest of its row"
        )
    return digest.hexdigest()


def _receipt(run: RunContext, split: str, table: PatchTable, store: Store) -> Receipt:
    return Receipt(
        dataset=run.dataset,
        split=split,
        store=store.folder.name,
        fingerprint=store.fingerprint,
        rows=store.n_rows,
        width=store.width,
        bytes=store.n_bytes,
        pictures={"used": len(table.ids), "skipped": len(table.skipped)},
        trunk=run.settings.trunk,
        layer=LAYER,
        weights=run.ws.weights_state(run.dataset),
        made=run.ws.store_making(run.dataset, split),
        settings=run.settings.model_dump(mode="json"),
    )
