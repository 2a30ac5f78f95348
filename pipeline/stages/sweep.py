"""Stage ``sweep``: head, label rule and aggregation chosen on held-out fit pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.activations.store import Store
from pipeline.dataset.manifest import load_manifest
from pipeline.head.head import Head, fit_heads
from pipeline.head.settings import AnyHead
from pipeline.io.atomic import write_json
from pipeline.io.errors import HeadError, PipelineError
from pipeline.io.progress import Say
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.scoring.results import versions
from pipeline.scoring.scores import score_split
from pipeline.stages.extract import sealed_store
from pipeline.stages.patches import current_table
from pipeline.stages.trunk import set_threads
from pipeline.stages.workspace import Workspace


def run_sweep(ws: Workspace, dataset: str, say: Say) -> dict[str, Any]:
    """Choose head, reading and k on held-out fit pictures; show the evaluation split beside it."""
    manifest = load_manifest(dataset)
    set_threads(ws.settings.threads)
    fit_table = current_table(ws, dataset, manifest.fit, say)
    eval_table = current_table(ws, dataset, manifest.eval, say)
    if not eval_table.labelled:
        raise PipelineError(f"{dataset} {manifest.eval}: no labels to show a sweep on")
    eval_store = sealed_store(ws, dataset, manifest.eval)
    swept = sweep_settings(
        sealed_store(ws, dataset, manifest.fit),
        fit_table,
        eval_store,
        eval_table,
        manifest.metric,
        {name: ws.settings.head_settings(name) for name in ws.settings.compare},
        [ws.settings.labels.model_copy(update={"single_object": reading}) for reading in ws.settings.readings],
        ws.settings.all_aggregations,
        ws.settings.held_out,
        ws.settings.seed,
        say,
    )
    result = {
        "dataset": dataset,
        "split": manifest.eval,
        "fit_split": manifest.fit,
        "metric": manifest.metric,
        "trunk": ws.settings.trunk,
        "layer": eval_store.identity["how.layer"],
        "seed": ws.settings.seed,
        **swept,
        "versions": versions(),
    }
    write_json(ws.sweep_path(dataset), result)
    return result


from typing import Literal

from pipeline.metrics.average_precision import mean_average_precision
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.results import number
from pipeline.scoring.scores import format_aggregation


def sweep_settings(
    fit_store: Store,
    fit_table: PatchTable,
    eval_store: Store,
    eval_table: PatchTable,
    metric: Literal["voc07", "voc12"],
    heads: dict[str, AnyHead],
    readings: Sequence[LabelSettings],
    aggregations: Sequence[Aggregation],
    held_out: float,
    seed: int,
    say: Say,
) -> dict[str, Any]:
    """Every head under every reading and k: mAP on held-out fit pictures, and on the evaluation split.

    For the first, heads are fitted on the rest of the fit pictures; for the second on all of them.

    Returns
    -------
    JSON object with ``rows`` (one for each head, reading and k) and ``chosen`` (the row with the
    highest held-out mAP)
    """
    pairs = [(name, reading) for reading in readings for name in heads]

    def fit(held_out: float) -> list[Head]:
        of_reading = (dict(fit_heads(fit_store, fit_table, heads, r, seed, held_out)) for r in readings)
        return [fitted[name] for fitted in of_reading for name in heads]

    out = hold_out_pictures(fit_table.group_ids, held_out)
    on_part = fit(held_out)
    held = score_split(fit_store, fit_table, on_part, aggregations, out)
    on_all = fit(0.0)
    shown = score_split(eval_store, eval_table, on_all, aggregations)
    rows = []
    for (name, reading), held_scores, head, eval_scores in zip(pairs, held, on_all, shown, strict=True):
        for k in eval_scores.aggregations:
            held_map, _ = mean_average_precision(held_scores.by(k)[out], fit_table.scored_labels[out], metric)
            eval_map, _ = mean_average_precision(eval_scores.by(k), eval_table.scored_labels, metric)
            rows.append(
                {
                    "head": name,
                    "single_object": reading.single_object,
                    "k": format_aggregation(k),
                    "held_out_mAP": number(held_map),
                    "mAP": number(eval_map),
                    "positive": head.facts.get("patches", {}).get("positive"),  # of strong heads
                }
            )
    measured = [row for row in rows if row["held_out_mAP"] is not None]
    if not measured:
        raise HeadError(
            f"{fit_table.dataset} {fit_table.split}: no positive picture among the {int(out.sum())} held out, "
            "so nothing can be chosen; raise held_out"
        )
    chosen = max(measured, key=lambda row: row["held_out_mAP"])
    say(
        f"chosen on {int(out.sum())} held-out fit pictures: head {chosen['head']}, "
        f"single_object {chosen['single_object']}, k {chosen['k']}"
    )
    return {
        "held_out_pictures": int(out.sum()),
        "rows": rows,
        "chosen": chosen,
        "heads": {name: s.model_dump(mode="json") for name, s in heads.items()},
    }
