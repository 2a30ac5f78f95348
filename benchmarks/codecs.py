"""What compresses activations, how far, and how fast: zarr's codecs on one part of a store, in one run.

    python benchmarks/codecs.py cache/voc12-val-alexnet64-fc7-<12 digits>.zarr

First the codecs by themselves, on a zarr array in memory, in the store's chunks and shards. Then the forms that
`--codec` and `--dtype` offer as a whole: four parts to disk and back, every digest and check included. Each form takes
its turn in each round; printed are medians. Sizes are shares of the raw float16 rows, and ratios to the zero-order
entropy of the kept values (H0 = -sum p log2 p over all of them, whatever their column), computed in the same run.
Rates are of raw float16, also for codes of 8 bits. --output writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.codecs.numcodecs import PCodec
from zarr.storage import MemoryStore

from pipeline.activations.codec import INNER_CHUNK_ROWS, quantise, restore
from pipeline.activations.store import Store
from pipeline.activations.writer import StoreWriter, create_store

TRANSPOSE = {"filters": [TransposeCodec(order=(1, 0))]}
ROWS_OF_F16: dict[str, dict[str, Any]] = {
    "none": {"compressors": [Crc32cCodec()]},
    "blosc lz4 5, shuffle": {"compressors": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()]},
    "blosc lz4 5, bitshuffle": {
        "compressors": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()]
    },
    "blosc zstd 1, shuffle": {"compressors": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()]},
    "blosc zstd 1, bitshuffle": {
        "compressors": [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()]
    },
    "zstd 1": {"compressors": [ZstdCodec(level=1, checksum=True)]},
    "zstd 3": {"compressors": [ZstdCodec(level=3, checksum=True)]},
    "zstd 1, by column": {**TRANSPOSE, "compressors": [ZstdCodec(level=1, checksum=True)]},
    "zstd 9, by column": {**TRANSPOSE, "compressors": [ZstdCodec(level=9, checksum=True)]},
    "pcodec 2": {"serializer": PCodec(level=2), "compressors": [Crc32cCodec()]},
    "pcodec 4": {"serializer": PCodec(level=4), "compressors": [Crc32cCodec()]},
    "pcodec 8": {"serializer": PCodec(level=8), "compressors": [Crc32cCodec()]},
    "pcodec 12": {"serializer": PCodec(level=12), "compressors": [Crc32cCodec()]},
}
ROWS_OF_CODES: dict[str, dict[str, Any]] = {
    "codes: blosc lz4 5, bitshuffle": ROWS_OF_F16["blosc lz4 5, bitshuffle"],
    "codes: zstd 1": ROWS_OF_F16["zstd 1"],
    "codes: zstd 1, by column": ROWS_OF_F16["zstd 1, by column"],
    "codes: pcodec 8": ROWS_OF_F16["pcodec 8"],
}
COPIES = 4
FORMS = (("float16", "small"), ("float16", "zstd"), ("float16", "fast"), ("8bit", "small"), ("8bit", "fast"))


def entropy(values: np.ndarray) -> float:
    """Zero-order entropy of values of 8 or 16 bits, in bytes for all of them."""
    counts = np.bincount(values.view(f"u{values.itemsize}").ravel())
    shares = counts[counts > 0] / values.size
    return float(-(shares * np.log2(shares)).sum()) * values.size / 8


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class InMemory:
    """One zarr array with a codec."""

    def __init__(self, values: np.ndarray, compression: dict[str, Any]) -> None:
        self.values, self.n_raw = values, values.size * 2
        self.memory = MemoryStore()
        self.array = zarr.create_array(
            self.memory,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(min(INNER_CHUNK_ROWS, len(values)), values.shape[1]),
            shards=values.shape,
            fill_value=0,
            **compression,
        )

    def write(self) -> None:
        self.array[:] = self.values

    def read(self) -> None:
        assert np.array_equal(self.array[-1:], self.values[-1:])
        self.array[:]

    def n_bytes(self) -> int:
        return sum(len(data) for name, data in self.memory._store_dict.items() if not name.endswith("zarr.json"))


class OnDisk:
    """A store with a form, as an extraction makes it and a head reads it: the same part `COPIES` times over."""

    def __init__(self, store: Store, part_index: int, dtype: str, codec: str, folder: Path) -> None:
        part = store.parts[part_index]
        self.columns = {name: store.read_object(name, part) for name in ("picture", "box_xyxy", "scale")}
        self.columns["activations"] = store.read_part(part)
        identity = {
            **store.identity,
            "seen.n_rows": COPIES * part.n_rows,
            "how.part_rows": part.n_rows,
            "how.dtype": dtype,
        }
        self.n_raw = COPIES * self.columns["activations"].nbytes
        self.place = folder / f"{dtype}-{codec}.zarr"
        create_store(self.place, identity, store.picture_ids, {}, codec)
        self.writer = StoreWriter(self.place)

    def write(self) -> None:
        for part in self.writer.parts:
            self.writer.write_part(part, self.columns)

    def read(self) -> None:
        if not self.writer.sealed:
            self.writer.seal()
        for _ in Store(self.place).iter_parts():
            pass

    def n_bytes(self) -> int:
        return (self.place / "activations/c/0/0").stat().st_size


def measure(forms: dict[str, InMemory | OnDisk], kept: dict[str, float], raw: int, rounds: int) -> Iterator[dict]:
    """Each form in turn; `kept` gives the entropy of its values."""
    written, read = ({name: [] for name in forms} for _ in range(2))
    for _ in range(rounds):
        for name, form in forms.items():
            written[name].append(form.n_raw / seconds(form.write) / 1e6)
            read[name].append(form.n_raw / seconds(form.read) / 1e6)
    for name, form in forms.items():
        yield {
            "form": name,
            "share_of_raw": round(form.n_bytes() / raw, 4),
            "ratio_to_entropy": round(form.n_bytes() / kept[name], 3),
            "write_mb_per_s": round(statistics.median(written[name])),
            "read_mb_per_s": round(statistics.median(read[name])),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--part", type=int, default=1, help="index of the part; default: 1, a full one in the middle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    store = Store(options.store)
    rows = store.read_part(store.parts[min(options.part, len(store.parts) - 1)])
    codes, column_range = quantise(rows)
    off = np.abs(restore(codes, column_range).astype(np.float32) - rows.astype(np.float32)).max(axis=0)
    deviation = rows.astype(np.float32).std(axis=0)
    h_rows, h_codes = entropy(rows), entropy(codes)
    about = {
        "store": options.store.name,
        "layer": store.identity["how.layer"],
        "rows": len(rows),
        "columns": rows.shape[1],
        "zeros": round(float((rows == 0).mean()), 4),
        "distinct": len(np.unique(rows.view(np.uint16))),
        "entropy_share_of_raw": round(h_rows / rows.nbytes, 4),
        "entropy_of_codes_share_of_raw": round(h_codes / rows.nbytes, 4),
        "largest_error_of_codes_in_deviations": round(float((off / np.maximum(deviation, 1e-9)).max()), 4),
        "rounds": options.rounds,
    }
    print(json.dumps(about, indent=2))
    alone = {name: InMemory(rows, how) for name, how in ROWS_OF_F16.items()}
    alone |= {name: InMemory(codes, how) for name, how in ROWS_OF_CODES.items()}
    kept = {name: h_codes if name.startswith("codes") else h_rows for name in alone}
    tables: dict[str, list[dict]] = {"alone": [], "whole": []}
    with tempfile.TemporaryDirectory(dir=options.store.parent) as folder:
        index = min(options.part, len(store.parts) - 1)
        whole = {f"{d}, {c}": OnDisk(store, index, d, c, Path(folder)) for d, c in FORMS}
        kept |= {name: h_codes if name.startswith("8bit") else h_rows for name in whole}
        for title, forms in (("alone", alone), ("whole", whole)):
            print(f"{title:28}  of raw  to H0  write MB/s  read MB/s")
            for line in measure(forms, kept, rows.nbytes, options.rounds):
                tables[title].append(line)
                print("{form:28}  {share_of_raw:6.3f}  {ratio_to_entropy:5.2f}".format(**line), end="")
                print("  {write_mb_per_s:10,}  {read_mb_per_s:9,}".format(**line), flush=True)
    if options.output:
        options.output.write_text(json.dumps({**about, **tables}, indent=2) + "\n")


if __name__ == "__main__":
    main()
