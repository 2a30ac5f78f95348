"""The file of a head: one safetensors file with the weights, the standardisation and the facts.

The facts are JSON in the metadata: settings, seed, loss curve, the *how* of the input rows, and digests of what the
head was fitted on.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from pipeline.head.facts import FORMAT, HeadFacts, parse_facts, parse_header, read_facts
from pipeline.head.head import Head
from pipeline.head.kinds import KINDS
from pipeline.head.settings import HEAD_KINDS, AnyHead
from pipeline.io.atomic import write_atomic
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import HeadError
from pipeline.io.model import explain_validation

NO_DIGEST = b"0" * 64
"""Placeholder in a head's file for the digest of its bytes, while the digest is computed."""
STORED_NAMES = {"inv_std": "gain"}
"""Names in files of tensors that have another name in code."""


def save_head(head: Head, path: Path) -> str:
    """Write a head atomically, and return the digest of its bytes.

    Equal heads give equal bytes: seconds and versions are in the results, not here. safetensors has no checksum, so
    the file carries one: over all of its bytes, with zeros in place of the digest itself.
    """
    state = head.network.state_dict()
    tensors = {STORED_NAMES.get(name, name): tensor.contiguous() for name, tensor in state.items()}
    facts = {**head.facts.to_dict(), "sha256": NO_DIGEST.decode()}
    # One key only: safetensors writes several in an order that differs from call to call.
    data = save(tensors, metadata={"facts": json.dumps(facts, sort_keys=True)})
    digest = sha256_bytes(data)
    write_atomic(path, data.replace(NO_DIGEST, digest.encode(), 1))
    return digest


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
        return _parse_head(path.read_bytes(), path)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"{path}: cannot be read as a head: {error}; fit it again: pipeline fit-head") from error


def check_head(path: Path) -> None:
    """Check that a head can be read; of one that is a user's class the bytes alone, as its sources may have changed.

    Raises
    ------
    HeadError
    """
    if read_facts(path).settings.get("kind") != "code":
        load_head(path)
        return
    _check_bytes(path.read_bytes(), path)


def _parse_head(data: bytes, path: Path) -> Head:
    facts = _check_bytes(data, path)
    try:
        settings = TypeAdapter(AnyHead).validate_python(facts.settings)
    except ValidationError as error:
        problems = "; ".join(explain_validation(error, HEAD_KINDS))
        raise HeadError(f"{path}: cannot be read as a head: {problems}; fit it again: pipeline fit-head") from error
    shape = facts.width, len(facts.classes), settings
    network = KINDS[settings.kind].make_network(*shape, **facts.of_kind.get("network", {}))
    names = {stored_name: name for name, stored_name in STORED_NAMES.items()}
    network.load_state_dict({names.get(name, name): tensor for name, tensor in load(data).items()})
    return Head(network.eval(), facts)


def _check_bytes(data: bytes, path: Path) -> HeadFacts:
    """Check the bytes of a head against the digest in them; return its facts."""
    stored = parse_header(data)
    digest = stored["sha256"]
    if len(digest) != 64 or sha256_bytes(data.replace(digest.encode(), NO_DIGEST, 1)) != digest:
        raise HeadError(f"{path}: changed since it was written; fit it again: pipeline fit-head")
    if stored["format"] != FORMAT:
        raise HeadError(f"{path}: format {stored['format']!r}, expected {FORMAT!r}; fit it again")
    return parse_facts(stored)
