"""A fitted head: from a store and a patch table to a file, and back.

One safetensors file holds the weights, the standardisation and, as JSON in its metadata, everything
that the head must say of itself: settings, seed, loss curve, the *how* of its input rows, and the
digests of what it was fitted on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.activations.identity import explain_differences, how_part
from pipeline.activations.store import Store
from pipeline.errors import HeadError, StoreError
from pipeline.files import digest_of, sha256_bytes, write_whole
from pipeline.head.fitting import fit_network
from pipeline.head.networks import HeadNetwork
from pipeline.head.sampling import choose_rows, hold_out_pictures
from pipeline.patches.labels import BACKGROUND
from pipeline.patches.table import PatchTable
from pipeline.settings import HeadSettings, LabelSettings

FORMAT = "head-1"


@dataclass(frozen=True)
class Head:
    """A fitted head and what it knows of itself.

    Attributes
    ----------
    network : HeadNetwork in eval mode; its last output is background
    facts : JSON object: name, classes, settings, reading, seed, how, digests, loss curve, counts
    """

    network: HeadNetwork
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
                f"head {self.facts['name']!r} was fitted on rows made in another way than those of {store.path}\n"
                f"{explain_differences(got, expected)}\nextract that split in the same way, or fit a head on it"
            )

    @torch.inference_mode()
    def probabilities(self, rows: np.ndarray, batch: int = 4096) -> np.ndarray:
        """Class probabilities of rows, background left out.

        Parameters
        ----------
        rows : float16 ndarray of shape (n, width)

        Returns
        -------
        float32 ndarray of shape (n, n_classes)
        """
        chunks = torch.from_numpy(rows).split(batch)
        return torch.cat([self.network(chunk).softmax(1)[:, :-1] for chunk in chunks]).numpy()


def check_joined(store: Store, table: PatchTable) -> None:
    """Refuse a store that is not of this table's rows and pictures.

    Raises
    ------
    StoreError
    """
    for field, value in (("seen.rows", table.rows_digest), ("seen.pictures", table.pictures_digest())):
        if store.identity[field] != value:
            raise StoreError(
                f"{store.path}: made from other {field.removeprefix('seen.')} than the patch table of "
                f"{table.dataset} {table.split}\n  - {field}: got {store.identity[field][:16]}..., "
                f"expected {value[:16]}...\n"
                f"extract again: pipeline extract --dataset {table.dataset} --split {table.split}"
            )


def fit_head(
    store: Store,
    table: PatchTable,
    name: str,
    settings: HeadSettings,
    labels: LabelSettings,
    seed: int,
    held_out: float = 0.0,
) -> Head:
    """Fit a head on the labelled rows of a store; neither pictures nor trunk are needed.

    Parameters
    ----------
    held_out : share of the fit pictures that is left out, for choosing settings on them

    Raises
    ------
    StoreError, HeadError
        Store and table do not belong together; no positive patch at all.
    """
    check_joined(store, table)
    patch_labels = table.labels(labels)
    out = hold_out_pictures(table.ids, held_out)
    usable = np.where(out[table.picture], np.int16(-2), patch_labels)
    rows = choose_rows(usable, settings.background_share, seed)
    chosen = usable[rows].astype(np.int64)
    n_positive = int((chosen >= 0).sum())
    if not n_positive:
        raise HeadError(
            f"{table.dataset} {table.split}: no positive patch among {table.n_rows:,} under the reading "
            f"single_object={labels.single_object}; check the boxes with: pipeline data check {table.dataset}"
        )
    n_classes = len(table.classes)
    targets = np.where(chosen == BACKGROUND, n_classes, chosen)
    network, log = fit_network(store.read_rows(rows), targets, n_classes + 1, settings, seed, name)
    counts = np.bincount(chosen[chosen >= 0], minlength=n_classes)
    facts = {
        "format": FORMAT,
        "name": name,
        "dataset": table.dataset,
        "split": table.split,
        "classes": list(table.classes),
        "settings": settings.model_dump(mode="json"),
        "reading": labels.model_dump(mode="json"),
        "seed": seed,
        "held_out": held_out,
        "how": how_part(store.identity),
        "fingerprint": store.fingerprint,
        "labels_digest": table.labels_digest(labels),
        "pictures": {"used": int((~out).sum()), "held_out": int(out.sum()), "skipped": len(table.skipped)},
        "patches": {
            "positive": n_positive,
            "background": len(rows) - n_positive,
            "background_of": int((usable == BACKGROUND).sum()),
            "per_class": {c: int(n) for c, n in zip(table.classes, counts, strict=True)},
        },
        "epochs": log.epochs,
    }
    return Head(network, facts)


def _content_digest(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """Digest of all that a head's file says; safetensors has no checksum of its own."""
    return digest_of([facts, {name: sha256_bytes(tensor.numpy().tobytes()) for name, tensor in tensors.items()}])


def save_head(head: Head, path: Path) -> str:
    """Write a head, whole or not at all; the digest of its bytes.

    Equal heads give equal bytes: seconds and versions are in the results, not here.
    """
    tensors = {name: tensor.contiguous() for name, tensor in head.network.state_dict().items()}
    facts = {**head.facts, "sha256": _content_digest(head.facts, tensors)}
    # One key only: safetensors writes several in an order that differs from call to call.
    data = save(tensors, metadata={"facts": json.dumps(facts, sort_keys=True)})
    write_whole(path, data)
    return sha256_bytes(data)


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
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if facts["format"] != FORMAT:
            raise HeadError(f"{path}: format {facts['format']!r}, expected {FORMAT!r}; fit it again")
        if facts.pop("sha256") != _content_digest(facts, state):
            raise HeadError(f"{path}: changed since it was written; fit it again: pipeline fit-head")
        settings = HeadSettings.model_validate(facts["settings"])
        network = HeadNetwork(len(state["mean"]), len(facts["classes"]) + 1, settings)
        network.load_state_dict(state)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"{path}: cannot be read as a head: {error}; fit it again: pipeline fit-head") from error
    return Head(network.eval(), facts)
