"""Rebuild the damaged parts of a store, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from pipeline.activations import SEAL
from pipeline.activations.identity import differences
from pipeline.activations.partition import Part, parts_of
from pipeline.activations.records import Seal, describe_bytes, make_record
from pipeline.activations.settings import Codec
from pipeline.activations.verify import VerifyReport
from pipeline.cache.inventory import CachedReceipt
from pipeline.cache.sources import FROM_RECEIPT, Origin, extraction_for
from pipeline.cache.verify import BadFile
from pipeline.io.atomic import read_json
from pipeline.io.errors import StoreError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Say
from pipeline.stages import extract
from pipeline.stages.receipt import Receipt
from pipeline.stages.workspace import Workspace


@dataclass
class Repair:
    """What `repair_store` did."""

    store: str
    made: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    differing: list[int] = field(default_factory=list)


def repair_store(ws: Workspace, report: VerifyReport, say: Say, origin: Origin = FROM_RECEIPT) -> Repair:
    """Extract the bad parts and files of a store again, and nothing else, and seal it anew.

    Parameters
    ----------
    report : what `verify_store` found
    origin : what it was made from, where no receipt says so

    Raises
    ------
    StoreError
        The sources would give another store than this one; nothing was touched.
    """
    folder = report.folder
    extraction = extraction_for(ws, folder.name, origin, say)
    if extraction.folder.name != folder.name:
        lines = [f"they give {extraction.folder.name}"]
        if report.identity is not None:
            lines = [str(difference) for difference in differences(report.identity, extraction.identity)]
        raise StoreError(
            f"{folder}: cannot be repaired: its sources (pictures, weights, settings, this version) give another store "
            f"now\n{enumerate_problems(lines, shown=30)}\nnothing was touched; make that one with: pipeline extract"
        )
    parts = parts_of(extraction.identity)
    records = _rebuilt_records(report, parts)
    bad = [part for part in parts if part.index in report.bad_parts and part.record_name not in records]
    before = folder.read_many(part.record_name for part in bad)
    # The seal goes first and the records before their objects: stopped anywhere, this leaves an
    # incomplete store that the next extraction or repair completes.
    names = [SEAL, *(part.record_name for part in bad), *(finding.name for finding in report.findings)]
    for name in dict.fromkeys(names):
        folder.remove(name)
    for name, data in records.items():
        folder.write(name, data)
    there = folder.read_many(part.record_name for part in parts)
    made = [part.index for part in parts if part.record_name not in there]
    # From the pictures themselves: what is repaired must not depend on what else is cached.
    extraction.adopt = False
    extraction.run_layers()
    after = folder.read_many(part.record_name for part in bad)
    # Only of a record that was sound and sealed is it known what the part's bytes were.
    untrusted = {finding.name for finding in report.findings}
    differing = [
        part.index
        for part in bad
        if part.record_name in before
        and part.record_name not in untrusted
        and before[part.record_name] != after[part.record_name]
    ]
    unexpected = [finding.name for finding in report.findings if finding.kind == "unexpected"]
    return Repair(folder.name, made, unexpected, differing)


def _rebuilt_records(report: VerifyReport, parts: Sequence[Part]) -> dict[str, bytes]:
    """Lost or damaged records that follow from their objects: they come out as the seal says they were."""
    folder = report.folder
    try:
        seal = Seal.from_bytes(folder.read(SEAL))
    except (OSError, ValueError):
        return {}
    damaged = {finding.name for finding in report.findings}
    rebuilt = {}
    for part in parts:
        if part.record_name in damaged:
            objects = folder.read_many(part.object_names)
            # In the order in which the writer lists them: the record's bytes depend on it.
            objects = {name: objects[name] for name in part.object_names if name in objects}
            for codec in get_args(Codec):
                data = make_record(part, seal.fingerprint, objects, codec).to_bytes()
                if describe_bytes(data) == seal.records.get(part.record_name):
                    rebuilt[part.record_name] = data
    return rebuilt


def repair_small_file(ws: Workspace, bad: BadFile, say: Say) -> str:
    """Write a bad receipt again from its own settings, or remove what the next run makes; return what was done."""
    if bad.stage == "extract" and _receipt_rewritten(ws, bad.path, say):
        return "written again"
    missing = not bad.path.exists()
    bad.path.unlink(missing_ok=True)
    what = "missing" if missing else "removed"
    return f"{what}; the next run makes it again (pipeline {bad.stage})"


def _receipt_rewritten(ws: Workspace, path: Path, say: Say) -> bool:
    """Extract again with the settings in a damaged receipt, if they are still sound; return whether they are."""
    try:
        cached = CachedReceipt(path, Receipt.from_dict(read_json(path)))
        run, split = cached.context(ws, say), cached.receipt.split
        # The file's name holds a digest of the settings: so it is known whether they are still sound.
        sound = extract.path(run, split) == path
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if sound:
        path.unlink()
        extract.make(run, extract.open_inputs(run, split))
    return sound
