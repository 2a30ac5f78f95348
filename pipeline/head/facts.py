"""The facts of a head: what it was fitted on, and how, as one record; read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.io.errors import HeadError

FORMAT = "head-3"
LARGEST_HEADER = 2**24


@dataclass(frozen=True)
class HeadFacts:
    """What a head's file records next to its weights.

    Attributes
    ----------
    name, dataset, split : of the head, and of the rows of the fit
    classes : background not counted
    settings, reading : JSON objects, settings of the head and the label rule
    width : columns of a row
    seed : of the fit
    held_out : share of the pictures that was left out of the fit
    how, fingerprint : how the rows were computed, and the fingerprint of their store
    labels_digest : of the labels of the patches under the label rule
    pictures : numbers of pictures ``used``, ``held_out`` and ``skipped``
    skipped : id and reason of each bad picture
    epochs : the loss curve, one ``{rate, loss}`` per epoch
    of_kind : JSON object, what heads of one kind record in addition, such as ``patches``, ``precision``, ``svm`` and
        ``device``
    """

    name: str
    dataset: str
    split: str
    classes: tuple[str, ...]
    settings: dict[str, Any]
    width: int
    reading: dict[str, Any]
    seed: int
    held_out: float
    how: dict[str, Any]
    fingerprint: str
    labels_digest: str
    pictures: dict[str, int]
    skipped: list[list[str]]
    epochs: list[dict[str, float]]
    of_kind: dict[str, Any] = field(default_factory=dict)
    format: str = FORMAT

    @property
    def patches(self) -> dict[str, Any] | None:
        """Counts of the patches of the fit; None for kinds that are not fitted on patches."""
        return self.of_kind.get("patches")

    @property
    def device(self) -> str:
        """Kind of the device on which it was fitted, ``cpu`` or ``cuda``; files name the latter alone."""
        return self.of_kind.get("device", "cpu")

    @property
    def never_learnt(self) -> dict[str, str]:
        """Classes about which the fit could learn nothing, each with the reason; their scores say nothing.

        A fit learns a class from examples of it and of something else: pictures, or patches for heads on patches.
        """
        pooled, counts = self.of_kind.get("svm") or self.of_kind.get("pooled"), self.patches or {}
        if pooled is not None:
            shown, what, without_negative = pooled["positive_pictures"], "picture", pooled["never_both"]
        elif "pictures_per_class" in counts:
            shown, what, without_negative = counts["pictures_per_class"], "picture", counts.get("never_negative", ())
        else:
            shown, what, without_negative = counts.get("per_class", {}), "patch", counts.get("never_negative", ())
        reasons = {name: f"no positive {what}" for name, n in shown.items() if not n}
        return {**dict.fromkeys(without_negative, f"no negative {what}"), **reasons}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object in files: all fields, and those of the kind among them."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "of_kind"}
        return {**own, "classes": list(self.classes), **self.of_kind}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> HeadFacts:
        """Read `to_dict`.

        Raises
        ------
        KeyError
            A missing fact.
        """
        names = [item.name for item in fields(cls) if item.name != "of_kind"]
        own = {name: facts[name] for name in names}
        of_kind = {name: value for name, value in facts.items() if name not in names}
        return cls(**{**own, "classes": tuple(own["classes"])}, of_kind=of_kind)


def read_facts(path: Path) -> HeadFacts:
    """Read the facts of a head, without reading or checking its weights.

    Raises
    ------
    HeadError
        Not a head.
    """
    facts = _read_header(path)
    try:
        return parse_facts(facts)
    except (KeyError, TypeError) as error:
        raise HeadError(f"{path}: cannot be read as a head: {error}") from error


def read_fingerprint(path: Path) -> str:
    """Read the fingerprint of the store of a head, also of a head in an older format.

    Raises
    ------
    HeadError
        Not a head.
    """
    facts = _read_header(path)
    if "fingerprint" not in facts:
        raise HeadError(f"{path}: cannot be read as a head: it names no store")
    return facts["fingerprint"]


def _read_header(path: Path) -> dict[str, Any]:
    """Read the JSON object of the facts; its content is not checked."""
    try:
        with open(path, "rb") as stream:
            size = stream.read(8)
            return parse_header(size + stream.read(min(int.from_bytes(size, "little"), LARGEST_HEADER)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{path}: cannot be read as a head: {error}") from error


def parse_header(data: bytes) -> dict[str, Any]:
    """Parse the JSON object of the facts from the beginning of a safetensors file."""
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    return json.loads(json.loads(header)["__metadata__"]["facts"])


def parse_facts(facts: dict[str, Any]) -> HeadFacts:
    """Make the record from the JSON object in a file, whose ``sha256`` is of the file."""
    return HeadFacts.from_dict({name: value for name, value in facts.items() if name != "sha256"})
