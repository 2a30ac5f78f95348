"""Recipes run with several seeds, joined, and set beside each other and beside published rows.

A recipe's aggregation is chosen on held-out fit pictures with the first seed, by a head that has not
seen them; the split that is reported is never chosen from. Everything that is there and current is
left alone, so that a comparison goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.errors import PipelineError, StoreError
from pipeline.files import digest_of, read_json, write_json
from pipeline.head.head import read_facts
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.table import PatchTable
from pipeline.recipes import compared_recipes, find_recipe
from pipeline.run import Say, current_table, read_receipt, run_evaluate, run_extract, run_fit, run_score, sealed_store
from pipeline.scoring.average_precision import mean_average_precision
from pipeline.scoring.ensemble import fit_stack, mean_rank
from pipeline.scoring.published import WHY_APART, published_rows
from pipeline.scoring.results import number, versions
from pipeline.scoring.scores import SplitScores, format_aggregation, load_scores, save_scores
from pipeline.scoring.uncertainty import bootstrap_map, interval, paired_difference, spread
from pipeline.settings import Aggregation, RecipeSettings
from pipeline.workspace import Workspace

JOINED = "joined"
"""The one aggregation of joined scores."""


def run_recipe(ws: Workspace, dataset: str, name: str, command: str, say: Say) -> dict[str, Any]:
    """Run a recipe with every seed of the settings, and write what it came to.

    Activations that are missing are made first; of a join, so are its members.

    Returns
    -------
    JSON object, as in `Workspace.recipe_path`: mAP (mean over seeds), std, AP, the aggregation and how it
    was chosen, seconds, and the files of its scores

    Raises
    ------
    PipelineError
    """
    manifest = load_manifest(dataset)
    recipe = find_recipe(ws.settings, name)
    table = current_table(ws, dataset, manifest.eval, say)
    if not table.labelled:
        raise PipelineError(f"{dataset} {manifest.eval}: no labels, so a recipe cannot be measured on it")
    if recipe.join:
        outcome = _run_join(ws, dataset, name, recipe, table, manifest, command, say)
    else:
        outcome = _run_head(ws, dataset, name, recipe, manifest, command, say)
    maps = [item["mAP"] for item in outcome["runs"] if item["mAP"] is not None]
    result = {
        "name": name,
        "title": recipe.title,
        "published": recipe.published,
        "dataset": dataset,
        "split": manifest.eval,
        "fit_split": manifest.fit,
        "metric": manifest.metric,
        "mAP": number(float(np.mean(maps))) if maps else None,
        "std": spread(maps),
        "seeds": list(ws.settings.seeds),
        "AP": _mean_each([item["AP"] for item in outcome["runs"]]),
        **outcome,
        "made_from": made_from(ws, dataset, name, say),
        "versions": versions(),
        "command": command,
    }
    write_json(ws.recipe_path(dataset, name), result)
    return result


def _mean_each(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of each class over runs; undefined where it is in any."""
    return {
        key: None if any(row[key] is None for row in rows) else number(float(np.mean([row[key] for row in rows])))
        for key in rows[0]
    }


# ---- a recipe with a head of its own


def _run_head(
    ws: Workspace, dataset: str, name: str, recipe: RecipeSettings, manifest: Manifest, command: str, say: Say
) -> dict[str, Any]:
    chosen, choice = _aggregation_of(ws, dataset, name, recipe, say)
    results = []
    for seed in ws.settings.seeds:
        run = _with_aggregation(ws.with_recipe(name, seed), chosen)
        _scored(run, dataset, name, say)
        results.append(run_evaluate(run, dataset, name, None, command, say))
    first = results[0]
    stages = sorted({stage for result in results for stage in result["seconds"] if stage in ("fit_head", "score")})
    return {
        "head": first["recipe"]["head"],
        "trunk": first["trunk"],
        "layer": first["layer"],
        "source": ws.with_recipe(name, ws.settings.seeds[0]).settings.source,
        "reading": first["recipe"]["reading"],
        "k": first["k"],
        "choice": choice,
        "k_sweep": _mean_each([result["k_sweep"] for result in results]),
        "seconds": {s: round(float(np.mean([r["seconds"].get(s, 0.0) for r in results])), 2) for s in stages},
        "extract_seconds": {k: v for k, v in first["seconds"].items() if k.startswith("extract_")},
        "fingerprints": first["fingerprints"],
        "pictures": first["pictures"],
        "official": first["official"],
        "notes": first["notes"],
        "runs": [
            {
                "seed": r["seed"],
                "mAP": r["mAP"],
                "AP": r["AP"],
                "scores": r["paths"]["scores"],
                "result": r["paths"]["result"],
            }
            for r in results
        ],
    }


def _with_aggregation(run: Workspace, aggregation: Aggregation) -> Workspace:
    return Workspace(run.settings.model_copy(update={"aggregation": aggregation}))


def _ensure_stores(run: Workspace, dataset: str, splits: Sequence[str], say: Say) -> None:
    """Make the activations that are not there, or that are of other pictures than there are now."""
    for split in splits:
        table = current_table(run, dataset, split, say)
        try:
            identity = sealed_store(run, dataset, split).identity
        except StoreError:
            identity = {}
        if (identity.get("seen.rows"), identity.get("seen.pictures")) != (table.rows_digest, table.pictures_digest()):
            run_extract(run, dataset, split, say)


def _scored(run: Workspace, dataset: str, name: str, say: Say, held_out: bool = False) -> SplitScores:
    """Scores of the evaluation split, or of the held-out fit pictures; made where they are not current."""
    manifest = load_manifest(dataset)
    kind = run.settings.head_settings(name).kind
    split = manifest.fit if held_out else manifest.eval
    # The trunk's own outputs are not fitted: they need no rows of the fit split.
    _ensure_stores(run, dataset, [split] if kind == "own" else sorted({manifest.fit, split}), say)
    head = run_fit(run, dataset, [name], say, held_out)[name]
    path = run.scores_path(dataset, name, split, held_out)
    table = current_table(run, dataset, split, say)
    try:
        scores = load_scores(path)
    except StoreError:
        pass
    else:
        fingerprint = read_receipt(run.receipt_path(dataset, split))["fingerprint"]
        facts = {key: value for key, value in read_facts(head).items() if key != "sha256"}
        of = (scores.facts["head"], scores.facts["fingerprint"], scores.facts["rows"], scores.ids)
        if of == (facts, fingerprint, table.rows_digest, table.ids):
            return scores
    run_score(run, dataset, [name], split, say, held_out)
    return load_scores(path)


def _aggregation_of(
    ws: Workspace, dataset: str, name: str, recipe: RecipeSettings, say: Say
) -> tuple[Aggregation, dict[str, Any]]:
    """A recipe's aggregation, and how it came about: stated, or the best on held-out fit pictures."""
    if recipe.stated_aggregation is not None:
        return recipe.stated_aggregation, {"chosen": "stated"}
    seed = ws.settings.seeds[0]
    scores = _scored(ws.with_recipe(name, seed), dataset, name, say, held_out=True)
    labels, wanted = _held_out_labels(ws.with_recipe(name, seed), dataset, say)
    metric = load_manifest(dataset).metric
    maps = {a: number(mean_average_precision(scores.by(a)[wanted], labels, metric)[0]) for a in scores.aggregations}
    measured = {a: value for a, value in maps.items() if value is not None}
    if not measured:
        raise PipelineError(
            f"{dataset}: no positive picture among the {len(labels)} held out, so no aggregation can be chosen; "
            "raise held_out, or state `aggregation` in the recipe"
        )
    chosen = max(measured, key=lambda a: measured[a])
    say(
        f"{name}: aggregation {format_aggregation(chosen)} chosen on {len(labels)} held-out fit pictures "
        f"({100 * measured[chosen]:.1f} mAP)"
    )
    held_out = {format_aggregation(a): value for a, value in maps.items()}
    return chosen, {"chosen": "held-out", "seed": seed, "pictures": len(labels), "mAP": held_out}


def _held_out_labels(run: Workspace, dataset: str, say: Say) -> tuple[np.ndarray, np.ndarray]:
    """Labels (m, n_classes) of the held-out fit pictures, and which of all they are."""
    table = current_table(run, dataset, load_manifest(dataset).fit, say)
    wanted = hold_out_pictures(table.group_ids, run.settings.held_out)
    return table.scored_labels[wanted], wanted


# ---- joins


def _run_join(
    ws: Workspace,
    dataset: str,
    name: str,
    recipe: RecipeSettings,
    table: PatchTable,
    manifest: Manifest,
    command: str,
    say: Say,
) -> dict[str, Any]:
    members = [_outcome(ws, dataset, member, command, say) for member in recipe.join]
    scores = [_scores_of(member, table) for member in members]
    started = time.perf_counter()
    facts: dict[str, Any] = {"join": list(recipe.join), "by": recipe.by}
    stack = None
    if recipe.by == "stack":
        held = [_held_out_scores(ws, dataset, member, command, say) for member in recipe.join]
        labels, _ = _held_out_labels(ws, dataset, say)
        stack = fit_stack(held, labels, manifest.metric)
        facts["stack"] = stack.facts
    runs = []
    for index, seed in enumerate(ws.settings.seeds):
        own = [s[index].by(member["k"]) for s, member in zip(scores, members, strict=True)]
        joined = stack.apply(own) if stack is not None else mean_rank(own)
        mean, each = mean_average_precision(joined, table.scored_labels, manifest.metric)
        path = ws.results / "scores" / f"{dataset}-{manifest.eval}-{name}-{ws.recipe_digest(name)}-{seed}.h5"
        about = {**scores[0][index].facts, "recipe": name, **facts}
        save_scores(SplitScores(joined[None], (JOINED,), table.ids, table.classes, about), path)
        by_class = {c: number(ap) for c, ap in zip(table.classes, each, strict=True) if c not in table.unscored}
        runs.append({"seed": seed, "mAP": number(mean), "AP": by_class, "scores": path.as_posix()})
    first = members[0]
    return {
        "head": None,
        **facts,
        "trunk": " + ".join(dict.fromkeys(str(member["trunk"]) for member in members)),
        "layer": " + ".join(dict.fromkeys(str(member["layer"]) for member in members)),
        "k": JOINED,
        "choice": {"chosen": "by its members"},
        "k_sweep": {},
        "seconds": {"join": round(time.perf_counter() - started, 2)},
        "fingerprints": {member["name"]: member["fingerprints"] for member in members},
        "pictures": first["pictures"],
        "official": all(member["official"] for member in members),
        "notes": first["notes"],
        "runs": runs,
    }


def made_from(ws: Workspace, dataset: str, name: str, say: Say) -> str:
    """Digest of the pictures, boxes, labels and weights that an outcome of a recipe would be made from now.

    What else decides it is in the name of its file.
    """
    recipe = find_recipe(ws.settings, name)
    if recipe.join:
        return digest_of([made_from(ws, dataset, member, say) for member in recipe.join])
    run = ws.with_recipe(name, ws.settings.seeds[0])
    manifest = load_manifest(dataset)
    tables = [current_table(run, dataset, split, say) for split in (manifest.fit, manifest.eval)]
    seen = [(table.pictures_digest(), table.labels_digest(run.settings.labels)) for table in tables]
    return digest_of([seen, run.weights_state(dataset), manifest.metric])


def _outcome(ws: Workspace, dataset: str, name: str, command: str, say: Say) -> dict[str, Any]:
    """What a recipe came to; it is run if that is not known, or was made from something else than there is now."""
    path = ws.recipe_path(dataset, name)
    if path.is_file():
        outcome = read_outcome(path)
        if outcome["made_from"] == made_from(ws, dataset, name, say):
            return outcome
        say(f"{path}: pictures, labels or weights changed since; running {name} again")
    return run_recipe(ws, dataset, name, command, say)


def read_outcome(path: Path) -> dict[str, Any]:
    """The file that `run_recipe` wrote.

    Raises
    ------
    PipelineError
    """
    try:
        outcome = read_json(path)
        return {**outcome, "runs": [{**item, "scores": item["scores"]} for item in outcome["runs"]], "k": outcome["k"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path}: not the outcome of a recipe ({type(error).__name__} {error}); remove it and run again: "
            "pipeline recipe run"
        ) from error


def _scores_of(outcome: dict[str, Any], table: PatchTable) -> list[SplitScores]:
    """Scores of the evaluation split by a recipe, a seed each.

    Raises
    ------
    PipelineError
        Bad pictures were left out for it that are there for others, or the other way round.
    """
    scores = [load_scores(Path(item["scores"])) for item in outcome["runs"]]
    if any(item.ids != table.ids for item in scores):
        raise PipelineError(
            f"recipe {outcome['name']!r} scored other pictures of {table.dataset} {table.split} than are compared: bad "
            "ones were skipped for one of them; mend or remove them (pipeline data check), or use on_error=fail"
        )
    return scores


def _held_out_scores(ws: Workspace, dataset: str, name: str, command: str, say: Say) -> np.ndarray:
    """Scores (m, n_classes) of the held-out fit pictures by a recipe that has not seen them, first seed."""
    recipe = find_recipe(ws.settings, name)
    if recipe.join:
        if recipe.by == "stack":
            raise PipelineError(
                f"recipe {name!r} is a stack, and a stack of stacks has no held-out scores to learn from"
            )
        return mean_rank([_held_out_scores(ws, dataset, member, command, say) for member in recipe.join])
    run = ws.with_recipe(name, ws.settings.seeds[0])
    k = _outcome(ws, dataset, name, command, say)["k"]
    _, wanted = _held_out_labels(run, dataset, say)
    return _scored(run, dataset, name, say, held_out=True).by(k)[wanted]


# ---- comparison


def run_comparison(ws: Workspace, dataset: str, path: Path, command: str, say: Say) -> dict[str, Any]:
    """Run the recipes that have no outcome yet, and set all beside each other and beside published rows.

    Each row carries its spread over seeds and a bootstrap interval over pictures; each but the reference
    a paired difference to it, from the same resampled pictures.
    """
    manifest = load_manifest(dataset)
    names, left_out = compared_recipes(ws.settings, manifest.has_boxes)
    outcomes = [_outcome(ws, dataset, name, command, say) for name in names]
    for why in left_out.values():
        say(f"left out: {why}")
    table = current_table(ws, dataset, manifest.eval, say)
    resampled = {}
    for outcome in outcomes:
        scores = np.stack([item.by(outcome["k"]) for item in _scores_of(outcome, table)])
        resampled[outcome["name"]] = bootstrap_map(scores, table.scored_labels, manifest.metric)
    reference = next((o for o in outcomes if o["name"] == ws.settings.reference), outcomes[0])
    rows = []
    for outcome in outcomes:
        row = {key: value for key, value in outcome.items() if key not in ROW_LEFT_OUT}
        if outcome["mAP"] is not None and reference["mAP"] is not None:
            low, high = interval(resampled[outcome["name"]], measured=outcome["mAP"])
            row["interval"] = {"low": number(low), "high": number(high)}
            measured = outcome["mAP"] - reference["mAP"]
            pair = paired_difference(resampled[outcome["name"]], resampled[reference["name"]], measured=measured)
            row["difference"] = {"to": reference["name"], **{k: v and number(v) for k, v in pair.items()}}
        rows.append(row)
    first = outcomes[0]
    joined = {
        **{key: first[key] for key in ("dataset", "split", "fit_split", "metric", "pictures", "official")},
        "reference": reference["name"],
        "recipes": rows,
        "left_out": [{"name": name, "why": why} for name, why in left_out.items()],
        "published": published_rows(dataset),
        "published_note": WHY_APART,
        "versions": versions(),
        "command": command,
    }
    write_json(path, joined)
    say(f"{path}: {len(rows)} recipes side by side")
    return joined


ROW_LEFT_OUT = ("dataset", "split", "fit_split", "metric", "pictures", "official", "versions", "command", "notes")
"""What all rows of a comparison share, or what only a single recipe's file keeps."""
