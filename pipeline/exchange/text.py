"""CSV: one line per row. Numbers are written so that every reader gets the same value."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.exchange.contents import Block, Contents
from pipeline.io.atomic import render_json
from pipeline.io.csv_line import csv_line


def write_csv_with_provenance(
    contents: Contents, blocks: Iterable[Block], paths: list[Path], provenance: dict[str, Any]
) -> None:
    """Write a CSV with the activations as columns ``f0``, ``f1``, ..., and the provenance next to it."""
    write_csv(contents, blocks, paths[0])
    paths[1].write_bytes(render_json(provenance))


def write_csv(contents: Contents, blocks: Iterable[Block], path: Path, *, with_features: bool = True) -> None:
    """Write the columns of an export, and the activations behind them."""
    names = list(contents.columns(contents.empty()))
    if with_features:
        names += [f"f{column}" for column in range(contents.width)]
    with open(path, "w", encoding="utf-8", newline="") as stream:
        stream.write(csv_line(names) + "\n")
        for block in blocks:
            lines = _lines(contents.columns(block))
            if with_features:
                for line, row in zip(lines, block.features, strict=True):
                    stream.write(f"{line},{','.join(exact_texts(row))}\n")
            else:
                stream.writelines(f"{line}\n" for line in lines)


def _lines(columns: dict[str, np.ndarray]) -> list[str]:
    """Return the columns as lines of a CSV, without their ends."""
    texts = [
        exact_texts(c) if c.dtype.kind == "f" else c.astype(int).tolist() if c.dtype == bool else c.tolist()
        for c in columns.values()
    ]
    return [csv_line(values) for values in zip(*texts, strict=True)]


def exact_texts(values: np.ndarray) -> list[str]:
    """Return the shortest decimal of each value as float64: at any precision it is read as the same number.

    >>> exact_texts(np.array([0.1, 1], np.float16)), exact_texts(np.array([0.1], np.float32))
    (['0.0999755859375', '1.0'], ['0.10000000149011612'])
    """
    if values.dtype == np.float16:
        return list(map(_float16_texts().__getitem__, values.view(np.uint16).tolist()))
    return list(map(repr, values.astype(np.float64).tolist()))


@cache
def _float16_texts() -> list[str]:
    """Return the texts of all 65,536 numbers of float16, by their bits."""
    return list(map(repr, np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64).tolist()))
