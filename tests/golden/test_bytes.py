"""Bytes of files, made from fixed numbers: equal content gives equal bytes, before and after a change of the code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from contents import content_of, digests_below, sha256
from surface import (
    FORMATS,
    Aggregation,
    Identity,
    ScoreFacts,
    SplitScores,
    StoreWriter,
    create_store,
    make_head,
    parts_of,
    read_facts,
    save_head,
    save_scores,
)

CLASSES = ["ball", "crate"]
HEADS = {
    "strong": {"kind": "strong", "hidden": [4], "precision": "fp32"},
    "strong, several": {"kind": "strong", "targets": "several", "hidden": [], "precision": "fp32"},
    "weak": {"kind": "weak", "hidden": [4], "precision": "fp32"},
    "svm": {"kind": "svm"},
    "adapted": {"kind": "adapted", "hidden": [2], "precision": "fp32"},
    "own": {"kind": "own"},
    "attention": {"kind": "attention", "attention": 2},
    "vlad": {"kind": "vlad"},
    "vlad, fisher": {"kind": "vlad", "encoding": "fisher", "pooling": ["mean"]},
}
NETWORKS = {
    "adapted": {"network": {"fc_widths": [4, 2]}},
    "vlad": {"network": {"shape": [2, 3, 2]}},
    "vlad, fisher": {"network": {"shape": [1, 2, 3]}},
}
FACTS = {
    "name": "made",
    "dataset": "tiny",
    "split": "train",
    "reading": {"single_object": "fills", "background": "untouched"},
    "seed": 0,
    "held_out": 0.0,
    "how": {"how.layer": "fc7", "how.width": 3},
    "fingerprint": "f" * 64,
    "labels_digest": "a" * 64,
    "pictures": {"used": 6, "held_out": 0, "skipped": 1},
    "skipped": [["p6", "truncated — é"]],
    "epochs": [{"rate": 0.01, "loss": 0.5}],
}


def counted(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Values that differ from tensor to tensor, each exact in float32."""
    first = sum(name.encode()) % 64
    return (first + torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)) / 64


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_keeps_its_bytes(kind, golden, tmp_path):
    path = tmp_path / "head.safetensors"
    said = save_head(make_head(3, CLASSES, HEADS[kind], {**FACTS, **NETWORKS.get(kind, {})}, counted), path)

    facts = dict(sorted({**read_facts(path).to_dict(), "sha256": said}.items()))  # as the file has them
    golden.check_json(f"head_{kind.replace(', ', '_')}.json", {"bytes": sha256(path), "facts": facts})


@pytest.mark.parametrize("what", ["patches", "pictures"])
def test_scores_keep_their_bytes(what, golden, tmp_path):
    scores = np.arange(2 * 3 * 2, dtype=np.float64).reshape(2, 3, 2) / 8
    peaks = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    fields = {
        "dataset": "tiny",
        "split": "val",
        "fingerprint": "f" * 64,
        "rows": "b" * 64,
        "pictures": "c" * 64,
        "head": {**FACTS, "format": FORMATS["head"], "classes": CLASSES, "settings": {"kind": "svm"}, "width": 3},
    }
    facts = ScoreFacts.from_dict(fields)
    ids, classes = ("q0", "q1", "q2"), tuple(CLASSES)
    made = {
        "patches": SplitScores(scores, tuple(map(Aggregation.parse, (5.0, "top:5"))), ids, classes, facts, peaks),
        "pictures": SplitScores(scores[:1], (Aggregation.parse("pooled"),), ids, classes, facts),
    }
    path = tmp_path / "scores.h5"
    save_scores(made[what], path)

    golden.check_json(f"scores_of_{what}.json", {"bytes": sha256(path), "content": content_of(path)})


@pytest.mark.parametrize(("dtype", "codec"), [("float16", "small"), ("float16", "fast"), ("float16", "zstd")])
def test_a_store_of_rows_keeps_its_bytes(dtype, codec, golden, tmp_path):
    golden.check_json(f"store_{dtype}_{codec}.json", digests_below(make_store(tmp_path / "made.zarr", dtype, codec)))


def test_a_store_of_codes_keeps_its_bytes(golden, tmp_path):
    golden.check_json("store_8bit_small.json", digests_below(make_store(tmp_path / "made.zarr", "8bit", "small")))


def make_store(place: Path, dtype: str, codec: str) -> Path:
    """A sealed store of ten rows of three columns, in parts of four, four and two."""
    fields = {
        "seen.n_rows": 10,
        "seen.skipped": ["c: truncated"],
        "how.format": FORMATS["store"],
        "how.part_rows": 4,
        "how.width": 3,
        "how.layer": "fc7",
        "how.dtype": dtype,
    }
    identity = Identity.from_dict(fields)
    create_store(place, identity, ("a", "b"), {"dataset": "tiny", "split": "train", "trunk": "made"}, codec)
    writer = StoreWriter(place)
    for part in parts_of(identity):
        rows = np.arange(part.start, part.stop)
        columns = {
            "activations": (1 + 3 * rows[:, None] + np.arange(3)).astype(np.float16),
            "picture": (rows // 5).astype(np.int32),
            "box_xyxy": np.stack([rows, rows, rows + 8, rows + 8], 1).astype(np.float32),
            "scale": (rows % 2).astype(np.uint8),
        }
        writer.write_part(part, columns)
    writer.seal()
    return place
