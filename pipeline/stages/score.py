"""Stage ``score``: scores of a split's pictures by fitted heads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.dataset.manifest import load_manifest
from pipeline.head.head import load_head
from pipeline.io.progress import Say
from pipeline.patches.sampling import hold_out_pictures
from pipeline.scoring.scores import save_scores, score_split
from pipeline.stages.extract import sealed_store
from pipeline.stages.patches import current_table
from pipeline.stages.seconds import write_seconds
from pipeline.stages.trunk import set_threads
from pipeline.stages.workspace import Workspace


def run_score(
    ws: Workspace, dataset: str, heads: Sequence[str], split: str | None, say: Say, held_out: bool = False
) -> dict[str, Path]:
    """Score a split with fitted heads; the store is read once for all of them.

    With `held_out`: the held-out pictures of the fit split, with the heads that have not seen them.
    """
    manifest = load_manifest(dataset)
    split = manifest.fit if held_out else split or manifest.eval
    table = current_table(ws, dataset, split, say)
    store = sealed_store(ws, dataset, split)
    set_threads(ws.settings.threads)
    loaded = [load_head(ws.head_path(dataset, name, held_out)) for name in heads]
    wanted = hold_out_pictures(table.group_ids, ws.settings.held_out) if held_out else None
    started = time.perf_counter()
    scored = score_split(store, table, loaded, ws.settings.all_aggregations, wanted)
    seconds = (time.perf_counter() - started) / len(heads)
    paths = {}
    for name, scores in zip(heads, scored, strict=True):
        path = paths[name] = ws.scores_path(dataset, name, split, held_out)
        save_scores(scores, path)
        write_seconds(path, {"score": seconds})
        say(f"{path}: {len(scores.ids):,} pictures, {table.n_rows:,} patches scored in {seconds:.1f} s")
    return paths
