"""Rebuild the damaged parts of a store, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from pipeline.activations import SEAL
from pipeline.activations.identity import differences
from pipeline.activations.layout import Part, make_record, parts_of, stated
from pipeline.activations.settings import Codec
from pipeline.activations.verify import Report
from pipeline.cache.inventory import Receipt, extraction_for
from pipeline.io.atomic import read_json
from pipeline.io.checksummed import checksummed_json, read_checksummed_json
from pipeline.io.errors import StoreError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Say
from pipeline.stages.extract import run_extract
from pipeline.stages.workspace import Workspace

# Mending


@dataclass
class Repair:
    """What `repair_store` did."""

    store: str
    made: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    differing: list[int] = field(default_factory=list)


def repair_store(
    ws: Workspace, report: Report, say: Say, dataset: str | None = None, split: str | None = None
) -> Repair:
    """Make the bad parts and files of a store again, and nothing else, and seal it anew.

    Parameters
    ----------
    report : what `verify_store` found
    dataset, split : what it was made from, where no receipt says so

    Raises
    ------
    StoreError
        The sources would give another store than this one; nothing was touched.
    """
    folder = report.folder
    extraction = extraction_for(ws, folder.name, dataset, split, say)
    if extraction.folder.name != folder.name:
        there = report.identity or {}
        lines = differences(there, extraction.identity) if there else [f"they give {extraction.folder.name}"]
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
    extraction.run()
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


def _rebuilt_records(report: Report, parts: Sequence[Part]) -> dict[str, bytes]:
    """Lost or damaged records that follow from their objects: they come out as the seal says they were."""
    folder = report.folder
    try:
        seal = read_checksummed_json(folder.read(SEAL))
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
                data = checksummed_json(make_record(part, seal["fingerprint"], objects, codec))
                if stated(data) == seal["records"].get(part.record_name):
                    rebuilt[part.record_name] = data
    return rebuilt


def repair_small_file(ws: Workspace, path: Path, say: Say) -> str:
    """Make a bad receipt again from its own settings, or remove what the next run makes anew; what was done."""
    if path.parent.name == "receipts":
        try:
            content = read_json(path)
            made = Receipt(path, content).workspace(ws)
            dataset, split = content["dataset"], content["split"]
            # The file's name holds a digest of the settings: so it is known whether they are still sound.
            if made.receipt_path(dataset, split) == path:
                path.unlink()
                run_extract(made, dataset, split, say)
                return "written again"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
    missing = not path.exists()
    path.unlink(missing_ok=True)
    makers = {"receipts": "extract", "patches": "patches", "heads": "fit-head", "scores": "score"}
    what = "missing" if missing else "removed"
    return f"{what}; the next run makes it again (pipeline {makers[path.parent.name]})"
