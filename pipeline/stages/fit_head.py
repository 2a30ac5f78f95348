"""Stage ``fit-head``: heads on the cached activations of the fit split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from pipeline.activations.store import Store
from pipeline.dataset.manifest import load_manifest
from pipeline.head.head import Head, fit_heads, load_head, save_head
from pipeline.head.settings import AnyHead
from pipeline.head.task import RowReader
from pipeline.io.errors import HeadError
from pipeline.io.progress import Say
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.stages.extract import rows_to_make, sealed_store
from pipeline.stages.patches import current_table
from pipeline.stages.seconds import write_seconds
from pipeline.stages.trunk import make_trunk, set_threads
from pipeline.stages.workspace import Workspace


def run_fit(ws: Workspace, dataset: str, heads: Sequence[str], say: Say, held_out: bool = False) -> dict[str, Path]:
    """Fit the heads that are not fitted yet on the fit split's store.

    With `held_out` they are fitted without the held-out share of its pictures, for choosing on these.
    """
    manifest = load_manifest(dataset)
    settings = {name: ws.settings.head_settings(name) for name in heads}

    @cache
    def joined(split: str) -> tuple[PatchTable, Store, RowReader]:
        table, store = current_table(ws, dataset, split, say), sealed_store(ws, dataset, split)
        return table, store, RowReader(store, rows_to_make(ws, table))

    set_threads(ws.settings.threads)
    paths = {name: ws.head_path(dataset, name, held_out) for name in heads}
    missing: dict[str, dict[str, AnyHead]] = {}
    for name in paths:
        split = ws.split_of_rows(manifest, name, held_out)
        table, store, _ = joined(split)
        if not _is_current(paths[name], store, table, ws.settings.labels, say):
            missing.setdefault(split, {})[name] = settings[name]
    labels, seed, trunk = ws.settings.labels, ws.settings.seed, partial(make_trunk, ws, dataset)
    share = ws.settings.held_out if held_out else 0.0
    for split, of_split in missing.items():
        table, store, read = joined(split)
        started = time.perf_counter()
        for name, head in fit_heads(store, table, of_split, labels, seed, share, trunk, read):
            digest = save_head(head, paths[name])
            say(f"{paths[name]}: {_describe(head)} sha256 {digest[:12]}")
        # Heads may be fitted side by side: each gets its share.
        seconds = (time.perf_counter() - started) / len(of_split)
        say(f"{dataset} {split}: {len(of_split)} head(s) fitted, {seconds:.1f} s each")
        for name in of_split:
            write_seconds(paths[name], {"fit_head": seconds})
    return paths


def _is_current(path: Path, store: Store, table: PatchTable, labels: LabelSettings, say: Say) -> bool:
    """Whether a head is there, sound, and fitted on this store and these labels."""
    if not path.is_file():
        return False
    try:
        facts = load_head(path).facts
    except HeadError as error:
        say(f"{error}; fitting it anew")
        return False
    current = (facts["fingerprint"], facts["labels_digest"]) == (store.fingerprint, table.labels_digest(labels))
    if current:
        say(f"{path}: there already, for this store and these labels")
    return current


def _describe(head: Head) -> str:
    """What a head was fitted on, and how it went."""
    facts = head.facts
    if facts["settings"]["kind"] == "own":
        return "the trunk's own last layer, nothing was fitted;"
    used, total = facts["pictures"]["used"], sum(facts["pictures"].values())
    text = f"fitted on {used:,} of {total:,} pictures"
    counts = [f"{n:,} {what}" for what, n in facts.get("patches", {}).items() if what in ("positive", "background")]
    text += f", {' and '.join(counts)} patches" if counts else ""
    return text + (f", loss {facts['epochs'][-1]['loss']:.4f}" if facts["epochs"] else "") + ";"


from pipeline.head.head import read_facts


def find_head(ws: Workspace, dataset: str | None, head: str | None) -> Head:
    """The fitted head that is meant: by its file, by its name and dataset, or the only one that there is.

    Raises
    ------
    HeadError
        There is none, or it cannot be told which of several is meant.
    """
    if head is not None and head.endswith(".safetensors"):
        return load_head(Path(head))
    name = head or ws.settings.head
    ws.settings.head_settings(name)  # refuses unknown names
    if dataset is not None:
        path = ws.head_path(dataset, name)
        if not path.is_file():
            raise HeadError(
                f"{dataset}: no head {name!r} with these settings (no {path}); make it with: "
                f"snakemake --cores 2 {ws.results}/{dataset}_map.json, or pipeline fit-head --dataset {dataset} "
                f"--head {name}, with the same settings"
            )
        return load_head(path)
    files = sorted((ws.results / "heads").glob(f"*-{name}-*.safetensors"))
    datasets = sorted({read_facts(path)["dataset"] for path in files})
    fitted = [each for each in datasets if ws.head_path(each, name).is_file()]
    if len(fitted) != 1:
        what = f"of {', '.join(fitted)}: say which with --dataset" if fitted else "with these settings"
        raise HeadError(
            f"{ws.results / 'heads'}: {len(fitted)} fitted heads {name!r} {what}; "
            "fit one with: pipeline fit-head --dataset NAME, or give the file of one with --head FILE.safetensors"
        )
    return load_head(ws.head_path(fitted[0], name))
