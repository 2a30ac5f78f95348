"""A fitted head: from a store and a patch table to a file, and back.

One safetensors file holds the weights, the standardisation and, as JSON in its metadata, everything
that the head must say of itself: settings, seed, loss curve, the *how* of its input rows, and the
digests of what it was fitted on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save

from pipeline.activations.identity import explain_differences, how_part, which_rows
from pipeline.activations.store import Store
from pipeline.head import adapted, strong, svm, weak
from pipeline.head import native as own
from pipeline.head.networks import SCORED_ROWS
from pipeline.head.settings import AnyHead, HeadSettings
from pipeline.head.task import FitTask, Fitted, RowReader
from pipeline.io.atomic import write_atomic
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import HeadError, StoreError
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.trunk.trunk import Trunk

if TYPE_CHECKING:
    from pipeline.head.task import HeadModule

FORMAT = "head-3"


@dataclass(frozen=True)
class Head:
    """A fitted head and what it knows of itself.

    Attributes
    ----------
    network : of its kind, in eval mode
    facts : JSON object: name, classes, settings, reading, seed, how, digests, loss curve, counts
    """

    network: HeadModule
    facts: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.facts["classes"])

    def check_rows(self, store: Store) -> None:
        """Refuse a store whose rows were made in another way than the rows of the fit.

        Raises
        ------
        HeadError
            The message names the fields that differ.
        """
        got, expected = how_part(store.identity), self.facts["how"]
        if got != expected:
            raise HeadError(
                f"head {self.facts['name']!r} was fitted on rows made in another way than those of {store.folder}\n"
                f"{explain_differences(got, expected)}\nextract that split in the same way, or fit a head on it"
            )

    @property
    def scale(self) -> str:
        """What scores of this head are: ``softmax`` and ``logistic`` lie in 0..1, others are of any size."""
        return self.network.output

    @torch.inference_mode()
    def patch_scores(self, rows: np.ndarray) -> np.ndarray:
        """Scores of rows, background left out.

        Parameters
        ----------
        rows : float16 ndarray of shape (n, width)

        Returns
        -------
        float32 ndarray of shape (n, n_classes)
        """
        network = self.network
        assert not isinstance(network, svm.Svm)  # of scale ``pooled``: it has none
        chunks = torch.from_numpy(rows).split(SCORED_ROWS)
        return torch.cat([network.patch_scores(chunk) for chunk in chunks]).numpy()


def _no_trunk() -> Trunk:
    raise HeadError("this kind of head begins with the trunk's weights, and none were given")


def check_joined(store: Store, table: PatchTable, rows: np.ndarray | None = None) -> None:
    """Refuse a store that is not of this table's rows and pictures.

    Parameters
    ----------
    rows : int64 ndarray, rising: rows of the table that the store holds; None for all

    Raises
    ------
    StoreError
        By the identity, or by the geometry that the store keeps of each row.
    """
    again = f"extract again: pipeline extract --dataset {table.dataset} --split {table.split}"
    for field, value in (("seen.rows", table.rows_digest), ("seen.pictures", table.pictures_digest())):
        if store.identity[field] != value:
            raise StoreError(
                f"{store.folder}: made from other {field.removeprefix('seen.')} than the patch table of "
                f"{table.dataset} {table.split}\n  - {field}: got {store.identity[field][:16]}..., "
                f"expected {value[:16]}...\n{again}"
            )
    if store.identity["seen.which"] != which_rows(rows):
        raise StoreError(
            f"{store.folder}: holds {store.n_rows:,} of the {table.n_rows:,} rows of {table.dataset} {table.split}, "
            f"those that a strong head learns from; what is asked needs others\n"
            f"make them with: pipeline extract --dataset {table.dataset} --split {table.split} --rows all"
        )
    held = slice(None) if rows is None else rows
    for name in ("picture", "box_xyxy", "scale"):
        if not np.array_equal(store.read_geometry(name), getattr(table, name)[held]):
            raise StoreError(
                f"{store.folder}: {name} of its rows disagrees with the patch table of {table.dataset} {table.split}; "
                f"{again}"
            )


KINDS: dict[str, ModuleType] = {"strong": strong, "weak": weak, "svm": svm, "adapted": adapted, "own": own}
"""A module a kind of head, with ``make_network(width, n_classes, settings)`` and ``fit(task, settings)``.

What else a network is made from, `fit` leaves in the facts, under ``network``: further arguments by name.
"""


def fit_head(
    store: Store,
    table: PatchTable,
    name: str,
    settings: AnyHead,
    labels: LabelSettings,
    seed: int,
    held_out: float = 0.0,
    load_trunk: Callable[[], Trunk] = _no_trunk,
    read: RowReader | None = None,
) -> Head:
    """`fit_heads` of one."""
    return dict(fit_heads(store, table, {name: settings}, labels, seed, held_out, load_trunk, read))[name]


def fit_heads(
    store: Store,
    table: PatchTable,
    settings: Mapping[str, AnyHead],
    labels: LabelSettings,
    seed: int,
    held_out: float = 0.0,
    load_trunk: Callable[[], Trunk] = _no_trunk,
    read: RowReader | None = None,
) -> Iterator[tuple[str, Head]]:
    """Fit heads on the rows of a store, which is read once for all that need the same rows.

    Strong heads of one shape are fitted side by side; every head is, bit for bit, what it is alone. Pictures are not
    needed, nor the trunk by most kinds.

    Parameters
    ----------
    settings : of each head by its name
    held_out : share of the fit pictures that is left out, for choosing settings on them
    load_trunk : makes the trunk, for kinds that begin with its weights
    read : of the store, where it holds a part of the table's rows, or is to be read for other heads too

    Yields
    ------
    name and head, as they are done

    Raises
    ------
    StoreError, HeadError
        Store and table do not belong together; nothing to fit on.
    """
    read = read or RowReader(store)
    check_joined(store, table, read.held)
    out = hold_out_pictures(table.group_ids, held_out)
    together: dict[Any, list[str]] = {}
    for name, its in settings.items():
        key = strong.side_by_side(its) if its.kind == "strong" else name
        together.setdefault(key, []).append(name)
    for names in together.values():
        tasks = [FitTask(store, table, name, labels, seed, out, load_trunk, read) for name in names]
        kind = settings[names[0]].kind
        if kind == "strong":
            fitted = strong.fit_together(tasks, [cast(HeadSettings, settings[name]) for name in names])
        else:
            fitted = [KINDS[kind].fit(tasks[0], settings[names[0]])]
        for task, one in zip(tasks, fitted, strict=True):
            yield task.name, Head(one.network, _facts(task, settings[task.name], held_out, one))


def _facts(task: FitTask, settings: AnyHead, held_out: float, fitted: Fitted) -> dict[str, Any]:
    """What a head says of itself."""
    store, table, out = task.store, task.table, task.held_out
    return {
        "format": FORMAT,
        "name": task.name,
        "dataset": table.dataset,
        "split": table.split,
        "classes": list(table.classes),
        "settings": settings.model_dump(mode="json"),
        "width": store.width,
        "reading": task.labels.model_dump(mode="json"),
        "seed": task.seed,
        "held_out": held_out,
        "how": how_part(store.identity),
        "fingerprint": store.fingerprint,
        "labels_digest": table.labels_digest(task.labels),
        "pictures": {"used": int((~out).sum()), "held_out": int(out.sum()), "skipped": len(table.skipped)},
        "skipped": [list(item) for item in table.skipped],
        "epochs": fitted.epochs,
        **fitted.facts,
    }


NO_DIGEST = b"0" * 64
"""Stands in a head's file for the digest of its bytes while that is computed."""


def save_head(head: Head, path: Path) -> str:
    """Write a head, whole or not at all; the digest of its bytes.

    Equal heads give equal bytes: seconds and versions are in the results, not here. safetensors has
    no checksum, so the file carries one: over all of its bytes, the digest itself read as zeros.
    """
    tensors = {name: tensor.contiguous() for name, tensor in head.network.state_dict().items()}
    facts = {**head.facts, "sha256": NO_DIGEST.decode()}
    # One key only: safetensors writes several in an order that differs from call to call.
    data = save(tensors, metadata={"facts": json.dumps(facts, sort_keys=True)})
    digest = sha256_bytes(data)
    write_atomic(path, data.replace(NO_DIGEST, digest.encode(), 1))
    return digest


def _facts_of(data: bytes) -> dict[str, Any]:
    """What a head's file says of itself, from the header of its safetensors form."""
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    return json.loads(json.loads(header)["__metadata__"]["facts"])


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a head, without reading or checking its weights.

    Raises
    ------
    HeadError
        Not a head.
    """
    try:
        with open(path, "rb") as stream:
            size = stream.read(8)
            return _facts_of(size + stream.read(min(int.from_bytes(size, "little"), 2**24)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{path}: cannot be read as a head: {error}") from error


def load_head(path: Path) -> Head:
    """Read a head.

    Raises
    ------
    HeadError
        No such file, not a head, changed since it was written, or weights that do not fit its settings.
    """
    if not path.is_file():
        raise HeadError(f"{path}: no such head; make it with: pipeline fit-head")
    try:
        data = path.read_bytes()
        facts = _facts_of(data)
        digest = facts.pop("sha256")
        if len(digest) != 64 or sha256_bytes(data.replace(digest.encode(), NO_DIGEST, 1)) != digest:
            raise HeadError(f"{path}: changed since it was written; fit it again: pipeline fit-head")
        if facts["format"] != FORMAT:
            raise HeadError(f"{path}: format {facts['format']!r}, expected {FORMAT!r}; fit it again")
        state = load(data)
        settings = TypeAdapter(AnyHead).validate_python(facts["settings"])
        shape = (facts["width"], len(facts["classes"]), settings)
        network = KINDS[settings.kind].make_network(*shape, **facts.get("network", {}))
        network.load_state_dict(state)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"{path}: cannot be read as a head: {error}; fit it again: pipeline fit-head") from error
    return Head(network.eval(), facts)
