"""Files of Apache Arrow: Parquet, folders of Parquet that Hugging Face's datasets load, and Lance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.exchange.contents import FEATURES, Block, Contents
from pipeline.io.atomic import read_json, render_json, replacing, write_atomic
from pipeline.io.errors import PipelineError
from pipeline.io.extras import import_extra

if TYPE_CHECKING:
    import pyarrow

METADATA = b"pipeline"
"""Key of the provenance in the metadata of a schema."""
ROW_GROUP_BYTES = 32 * 2**20
SHARD_BYTES = 256 * 2**20
PLAN = "pipeline.json"
"""In a folder of shards: what it holds, and of how many shards it consists."""


def make_schema(contents: Contents, provenance: dict[str, Any]) -> pyarrow.Schema:
    """Return the columns of a table of Arrow: those of `Contents.columns`, then ``features``, a list per row."""
    arrow = import_extra("pyarrow")
    fields = [
        arrow.field(name, arrow.string() if array.dtype == object else arrow.from_numpy_dtype(array.dtype))
        for name, array in contents.columns(contents.empty()).items()
    ]
    fields.append(arrow.field(FEATURES, arrow.list_(arrow.from_numpy_dtype(contents.dtype), contents.width)))
    return arrow.schema(fields, metadata={METADATA: json.dumps(provenance, ensure_ascii=False).encode()})


def record_batch(contents: Contents, block: Block, schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    """Return a block as a batch of Arrow; the activations are not copied."""
    arrow = import_extra("pyarrow")
    columns = contents.columns(block)
    arrays = [
        arrow.array(columns[field.name].tolist() if columns[field.name].dtype == object else columns[field.name])
        if len(columns[field.name])
        else arrow.array([], field.type)
        for field in schema
        if field.name != FEATURES
    ]
    values = arrow.array(np.ascontiguousarray(block.features).reshape(-1))
    arrays.append(arrow.FixedSizeListArray.from_arrays(values, contents.width))
    return arrow.record_batch(arrays, schema=schema)


def write_parquet(contents: Contents, blocks: Iterable[Block], paths: list[Path], provenance: dict[str, Any]) -> None:
    """Write one Parquet file."""
    _write_parquet(contents, blocks, paths[0], make_schema(contents, provenance))


def _write_parquet(contents: Contents, blocks: Iterable[Block], path: Path, schema: pyarrow.Schema) -> None:
    parquet = import_extra("pyarrow.parquet")
    rows = max(1, ROW_GROUP_BYTES // max(1, contents.width * contents.dtype.itemsize))
    # Bytes of equal weight side by side: numbers of one kind then compress.
    split = {"use_byte_stream_split": [f"{FEATURES}.list.element"]}
    texts = [field.name for field in schema if field.name in ("picture", "class")]
    with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts, **split) as writer:
        for block in blocks:
            if len(block.features):
                writer.write_batch(record_batch(contents, block, schema), row_group_size=rows)


def write_lance(contents: Contents, blocks: Iterable[Block], paths: list[Path], provenance: dict[str, Any]) -> None:
    """Write a Lance dataset, a folder."""
    arrow, lance = import_extra("pyarrow"), import_extra("lance")
    schema = make_schema(contents, provenance)
    batches = (record_batch(contents, block, schema) for block in blocks if len(block.features))
    lance.write_dataset(arrow.RecordBatchReader.from_batches(schema, batches), str(paths[0]))


# ---- a folder of shards


def write_shards(
    contents: Contents, folder: Path, provenance: dict[str, Any], advance: Callable[[int], None] = lambda n: None
) -> None:
    """Write a folder of Parquet shards that Hugging Face's ``load_dataset`` reads; complete shards stay.

    Each shard holds whole parts of the store and appears when it is complete, so that an export resumes at the first
    missing one. The card (``README.md``) comes last.

    Parameters
    ----------
    advance : called with numbers of rows of the store that are done, those of complete shards included

    Raises
    ------
    PipelineError
        The folder holds something else.
    """
    bytes_per_part = contents.n_bytes // len(contents.parts)
    parts_per_shard = max(1, SHARD_BYTES // max(1, bytes_per_part))
    starts = range(0, len(contents.parts), parts_per_shard)
    # The names of splits of Hugging Face have no other characters.
    split = re.sub(r"[^A-Za-z0-9_]", "_", provenance["split"] or "rows")
    _check_plan(folder, {"shards": len(starts), "parts_per_shard": parts_per_shard, **provenance})
    schema = make_schema(contents, provenance)
    blocks: Iterator[Block] = iter(())
    reads_on_at = -1
    for number, start in enumerate(starts):
        parts = contents.parts[start : start + parts_per_shard]
        path = folder / "data" / f"{split}-{number:05d}-of-{len(starts):05d}.parquet"
        if path.is_file():
            advance(sum(part.n_rows for part in parts))
            continue
        if reads_on_at != start:
            blocks = contents.blocks(start)
        reads_on_at = start + len(parts)
        with replacing(path) as partial:
            _write_parquet(contents, _counted(islice(blocks, len(parts)), advance), partial, schema)
    write_atomic(folder / "README.md", _card(split, provenance).encode())


def _counted(blocks: Iterable[Block], advance: Callable[[int], None]) -> Iterator[Block]:
    for block in blocks:
        yield block
        advance(block.n_stored)


def _check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write what a folder holds, or check that it holds the same already."""
    path = folder / PLAN
    if not path.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise PipelineError(f"{folder}: not an export, and not empty; give another folder")
        write_atomic(path, render_json(plan))
        return
    try:
        found = read_json(path)
        differing = [
            key for key in dict.fromkeys((*plan, *found)) if key != "command" and found.get(key) != plan.get(key)
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise PipelineError(f"{path}: cannot be read ({error}); remove the folder, or give another one") from error
    if differing:
        raise PipelineError(
            f"{folder}: holds another export ({', '.join(differing[:5])} differ); remove it, or give another folder"
        )


def _card(split: str, provenance: dict[str, Any]) -> str:
    """Return the card of a dataset: which files, in the form of the hub, then what they hold."""
    what = f"{provenance['rows']:,} {'patches' if provenance['per'] == 'patch' else 'pictures'}"
    layer, width = provenance["identity"]["how.layer"], provenance["width"]
    return (
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        f"  - split: {split}\n    path: data/{split}-*.parquet\n---\n\n"
        f"# {provenance['dataset']} {provenance['split']}\n\n"
        f"Activations of {what}, {width:,} columns of {provenance['dtype']}, layer {layer}, exported by pipeline "
        f"{provenance['pipeline']}.\nStore {provenance['store']}, fingerprint `{provenance['fingerprint']}`. All that "
        f"decided the values is in `{PLAN}` and in the metadata of each file.\n"
    )
