"""What a store says of itself: identity, name and documents; the table that it is joined with, and its receipt."""

from __future__ import annotations

import hashlib
import json
import zlib
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contents import content_of, digests_below, sha256
from surface import (
    SEAL,
    RunContext,
    canonical_json,
    checksummed_json,
    extraction_of,
    fingerprint,
    read_table,
    without_pictures,
    workspace,
)

MASK = "(of floats)"
"""In place of sizes and digests that hang on the last bits of rows."""
CASES = {
    "patches": {},
    "layers": {"layer": "fc6", "layers": ["pool5"]},
    "dense": {"method": "dense"},
    "codes": {"dtype": "8bit", "codec": "fast"},
    "half": {"precision": "bf16", "batch": 64},
    "labelled rows": {"rows": "labelled"},
    "random": {"trunk": "random", "trunk_seed": 3},
}
SOURCES = {
    "whole": {"source": "whole"},
    "crops": {"source": "crops"},
    "boxes": {"source": "boxes"},
}


@pytest.fixture(scope="module")
def table_path(tiny, settings) -> Path:
    return tiny / workspace(**settings).table_path("tiny", "train")


@pytest.fixture(scope="module")
def receipt(tiny, settings) -> dict[str, Any]:
    return json.loads((tiny / workspace(**settings).receipt_path("tiny", "train")).read_text())


@pytest.fixture(scope="module")
def store(tiny, receipt) -> Path:
    return tiny / "cache" / receipt["store"]


def stores_of(ws, table) -> list[dict[str, Any]]:
    """Names and identities of the stores that an extraction would make; a drawn trunk's weights are floats."""
    found = []
    run = RunContext(ws, table.dataset)
    layers = (ws.settings.layer, *ws.settings.layers)
    for asked in extraction_of(run, without_pictures(run, table), layers).requested:
        identity, name = asked.identity.to_dict(), asked.folder.name
        if ws.settings.trunk == "random":
            name = name.replace(fingerprint(identity)[:12], MASK)
            identity["how.weights"] = MASK
        found.append({"name": name, "fingerprint": fingerprint(identity), "identity": identity})
    return found


def test_the_identity_of_every_kind_of_store_is_the_same(golden, tiny, table_path, settings):
    table, found = read_table(table_path), {}
    with chdir(tiny):
        for case, changes in CASES.items():
            found[case] = stores_of(workspace(**{**settings, **changes}), table)
        for case, changes in SOURCES.items():
            # The rows stay what they are: an identity says no more of the source than its settings.
            found[case] = stores_of(workspace(**{**settings, **changes}), replace(table, **changes))
    golden.check_json("identities.json", found)


def test_the_fingerprint_is_that_of_the_identity_as_plain_json(store):
    """Said without the package's own code, which may change on both sides."""
    attributes = json.loads((store / "zarr.json").read_text())["attributes"]
    text = json.dumps(attributes["identity"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert attributes["fingerprint"] == hashlib.sha256(text.encode()).hexdigest()
    assert canonical_json(attributes["identity"]) == text.encode()
    assert store.name == f"tiny-train-alexnet64-fc7-{attributes['fingerprint'][:12]}.zarr"


def test_a_store_keeps_its_files_and_documents(golden, store):
    files = digests_below(store)
    documents = {name: json.loads((store / name).read_text()) for name in files if name.endswith(".json")}
    record, seal = documents["integrity/part-00000.json"], documents[SEAL]
    for stated in (record["objects"]["activations/c/0/0"], *seal["records"].values()):
        stated.update(dict.fromkeys(stated, MASK))
    record["sha256"] = seal["sha256"] = MASK

    golden.check_json("store.json", {"files": list(files), "documents": documents})


def test_the_seal_is_the_last_key_of_a_signed_document(store):
    """A record and a seal carry the digest of all else in them, said without the package's own code."""
    for name in ("integrity/part-00000.json", SEAL):
        document = json.loads((store / name).read_text())
        said = document.pop("sha256")
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert said == hashlib.sha256(text.encode()).hexdigest()


def test_a_patch_table_keeps_its_digests_and_content(golden, table_path, settings):
    table = read_table(table_path)
    digests = {
        "rows": table.rows_digest,
        "pictures": table.pictures_digest(),
        "annotations": table.annotation_digest,
        "labels": table.labels_digest(workspace(**settings).settings.labels),
        "labels, touches": table.labels_digest(workspace(labels={"single_object": "touches"}).settings.labels),
    }
    golden.check_json("table.json", {"digests": digests, "content": content_of(table_path)})


@pytest.mark.skipif("ng" in zlib.ZLIB_RUNTIME_VERSION, reason="HDF5 packs by the system's zlib, and zlib-ng differs")
def test_a_patch_table_keeps_its_bytes(golden, table_path):
    """If this alone fails, the libraries pack in another way; what is in the table is the same."""
    golden.check_json("table_bytes.json", {"bytes": sha256(table_path)})


def test_a_receipt_keeps_its_bytes(golden, receipt):
    """With a fixed size of the store, which hangs on the last bits of rows."""
    fixed = {key: value for key, value in receipt.items() if key != "sha256"} | {"bytes": 1000}
    assert list(receipt)[-1] == "sha256"

    data = checksummed_json(fixed)
    golden.check_json("receipt.json", {"bytes": hashlib.sha256(data).hexdigest(), "content": json.loads(data)})
