"""Recipes run with every seed: what each came to, from activations to mAP, and joins of several.

A recipe's aggregation is chosen on held-out fit pictures with the first seed, by a head that has not
seen them; the split that is reported is never chosen from. Everything that is there and current is
left alone, so that a run goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.head.head import read_facts
from pipeline.io.atomic import read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import PipelineError, StoreError
from pipeline.io.progress import Say
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.metrics.bootstrap import spread
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.table import PatchTable
from pipeline.recipes.catalogue import find_recipe, members_of
from pipeline.recipes.paths import recipe_digest, recipe_path, recipe_workspace
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.ensemble import fit_stack, mean_rank
from pipeline.scoring.results import number, versions
from pipeline.scoring.scores import SplitScores, format_aggregation, load_scores, save_scores
from pipeline.stages.evaluate import run_evaluate
from pipeline.stages.extract import run_extract, sealed_store
from pipeline.stages.fit_head import run_fit
from pipeline.stages.patches import current_table
from pipeline.stages.pretrain import make_dataset_trunk
from pipeline.stages.receipt import read_receipt
from pipeline.stages.score import run_score
from pipeline.stages.settings import RecipeSettings
from pipeline.stages.workspace import Workspace

JOINED = "joined"
"""The one aggregation of joined scores."""
Outcome = dict[str, Any]
"""What a recipe came to, as JSON: mAP (mean over seeds), std, AP, the aggregation and how it was chosen, seconds,
digest of what it was made from, and for each seed its mAP, AP and file of scores."""


@dataclass(frozen=True)
class RecipeRuns:
    """Runs of recipes over one dataset, with the seeds of the settings.

    Parameters
    ----------
    ws : settings and places
    dataset : name of a manifest
    command : what the user called, kept in results
    say : takes lines for the user
    """

    ws: Workspace
    dataset: str
    command: str
    say: Say
    _tables: dict[Path, PatchTable] = field(default_factory=dict, init=False)

    @cached_property
    def manifest(self) -> Manifest:
        return load_manifest(self.dataset)

    def table(self, run: Workspace, split: str) -> PatchTable:
        """The patch table of a run's split, compared with the pictures once a command."""
        path = run.table_path(self.dataset, split)
        if path not in self._tables:
            self._tables[path] = current_table(run, self.dataset, split, self.say)
        return self._tables[path]

    def run(self, name: str) -> Outcome:
        """Run a recipe with every seed, and write what it came to.

        What is missing before it is made first: trunk, activations, members of a join.

        Raises
        ------
        PipelineError
        """
        members_of(self.ws.settings, name)  # refuses circles before anything runs
        recipe = find_recipe(self.ws.settings, name)
        if not self.table(self.ws, self.manifest.eval).labelled:
            raise PipelineError(f"{self.dataset} {self.manifest.eval}: no labels, so a recipe cannot be measured on it")
        about = self._run_join(name, recipe) if recipe.join else self._run_head(name, recipe)
        maps = [item["mAP"] for item in about["runs"] if item["mAP"] is not None]
        outcome = {
            "name": name,
            "title": recipe.title,
            "published": recipe.published,
            "dataset": self.dataset,
            "split": self.manifest.eval,
            "fit_split": self.manifest.fit,
            "metric": self.manifest.metric,
            "mAP": number(float(np.mean(maps))) if maps else None,
            "std": spread(maps),
            "seeds": list(self.ws.settings.seeds),
            "AP": _mean_each([item["AP"] for item in about["runs"]]),
            **about,
            "made_from": self.made_from(name),
            "versions": versions(),
            "command": self.command,
        }
        write_json(recipe_path(self.ws, self.dataset, name), outcome)
        return outcome

    def outcome(self, name: str) -> Outcome:
        """What a recipe came to; it is run if that is not known, or was made from something else than there is now."""
        path = recipe_path(self.ws, self.dataset, name)
        if path.is_file():
            known = read_outcome(path)
            if known["made_from"] == self.made_from(name):
                return known
            self.say(f"{path}: pictures, labels or weights changed since; running {name} again")
        return self.run(name)

    def made_from(self, name: str) -> str:
        """Digest of the pictures, boxes, labels and weights that an outcome of a recipe would be made from now.

        What else decides it is in the name of its file.
        """
        recipe = find_recipe(self.ws.settings, name)
        if recipe.join:
            return digest_of([self.made_from(member) for member in recipe.join])
        run = recipe_workspace(self.ws, name, self.ws.settings.seeds[0])
        tables = [self.table(run, split) for split in (self.manifest.fit, self.manifest.eval)]
        seen = [(table.pictures_digest(), table.labels_digest(run.settings.labels)) for table in tables]
        return digest_of([seen, run.weights_state(self.dataset), self.manifest.metric])

    def scores_of(self, outcome: Outcome) -> list[np.ndarray]:
        """Scores (n_pictures, n_classes) of the evaluation split by a recipe, a seed each.

        Raises
        ------
        PipelineError
            Bad pictures were left out for it that are there for others, or the other way round.
        """
        table = self.table(self.ws, self.manifest.eval)
        scores = [load_scores(Path(item["scores"])) for item in outcome["runs"]]
        if any(item.ids != table.ids for item in scores):
            raise PipelineError(
                f"recipe {outcome['name']!r} scored other pictures of {self.dataset} {self.manifest.eval} than are "
                "compared: bad ones were skipped for one of them; mend or remove them (pipeline data check), "
                "or use on_error=fail"
            )
        return [item.by(outcome["k"]) for item in scores]

    # ---- a recipe with a head of its own

    def _run_head(self, name: str, recipe: RecipeSettings) -> Outcome:
        chosen, choice = self._aggregation_of(name, recipe)
        results = []
        for seed in self.ws.settings.seeds:
            run = recipe_workspace(self.ws, name, seed)
            run = Workspace(run.settings.model_copy(update={"aggregation": chosen}))
            self._scored(run, name)
            results.append(run_evaluate(run, self.dataset, name, None, self.command, self.say))
        first, seconds = results[0], [result["seconds"] for result in results]
        return {
            "head": first["recipe"]["head"],
            "trunk": first["trunk"],
            "layer": first["layer"],
            "source": run.settings.source,
            "reading": first["recipe"]["reading"],
            "k": first["k"],
            "choice": choice,
            "k_sweep": _mean_each([result["k_sweep"] for result in results]),
            "seconds": {
                stage: round(float(np.mean([s.get(stage, 0.0) for s in seconds])), 2) for stage in ("fit_head", "score")
            },
            "extract_seconds": {stage: s for stage, s in seconds[0].items() if stage.startswith("extract_")},
            "fingerprints": first["fingerprints"],
            "pictures": first["pictures"],
            "official": first["official"],
            "notes": first["notes"],
            "runs": [
                {"seed": r["seed"], "mAP": r["mAP"], "AP": r["AP"], **{k: r["paths"][k] for k in ("scores", "result")}}
                for r in results
            ],
        }

    def _aggregation_of(self, name: str, recipe: RecipeSettings) -> tuple[Aggregation, dict[str, Any]]:
        """A recipe's aggregation, and how it came about: stated, or the best on held-out fit pictures."""
        if recipe.stated_aggregation is not None:
            return recipe.stated_aggregation, {"chosen": "stated"}
        seed = self.ws.settings.seeds[0]
        run = recipe_workspace(self.ws, name, seed)
        scores = self._scored(run, name, held_out=True)
        labels, wanted = self._held_out_labels(run)
        maps = {
            a: number(mean_average_precision(scores.by(a)[wanted], labels, self.manifest.metric)[0])
            for a in scores.aggregations
        }
        measured = {a: value for a, value in maps.items() if value is not None}
        if not measured:
            raise PipelineError(
                f"{self.dataset}: no positive picture among the {len(labels)} held out, so no aggregation can be "
                "chosen; raise held_out, or state `aggregation` in the recipe"
            )
        chosen = max(measured, key=lambda a: measured[a])
        self.say(
            f"{name}: aggregation {format_aggregation(chosen)} chosen on {len(labels)} held-out fit pictures "
            f"({100 * measured[chosen]:.1f} mAP)"
        )
        held_out = {format_aggregation(a): value for a, value in maps.items()}
        return chosen, {"chosen": "held-out", "seed": seed, "pictures": len(labels), "mAP": held_out}

    def _held_out_labels(self, run: Workspace) -> tuple[np.ndarray, np.ndarray]:
        """Labels (m, n_classes) of the held-out fit pictures, and which of all they are."""
        table = self.table(run, self.manifest.fit)
        wanted = hold_out_pictures(table.group_ids, run.settings.held_out)
        return table.scored_labels[wanted], wanted

    def _scored(self, run: Workspace, name: str, held_out: bool = False) -> SplitScores:
        """Scores of the evaluation split, or of the held-out fit pictures; made where they are not current."""
        split = self.manifest.fit if held_out else self.manifest.eval
        self._ensure_activations(run, sorted({run.split_of_rows(self.manifest, name, held_out), split}))
        head = run_fit(run, self.dataset, [name], self.say, held_out)[name]
        path = run.scores_path(self.dataset, name, split, held_out)
        table = self.table(run, split)
        try:
            scores = load_scores(path)
        except StoreError:
            pass
        else:
            fingerprint = read_receipt(run.receipt_path(self.dataset, split))["fingerprint"]
            facts = {key: value for key, value in read_facts(head).items() if key != "sha256"}
            of = (scores.facts["head"], scores.facts["fingerprint"], scores.facts["rows"], scores.ids)
            if of == (facts, fingerprint, table.rows_digest, table.ids):
                return scores
        run_score(run, self.dataset, [name], split, self.say, held_out)
        return load_scores(path)

    def _ensure_activations(self, run: Workspace, splits: Sequence[str]) -> None:
        """Make the trunk and the activations that are not there, or that are of other pictures than there are now."""
        if run.makes_trunk and not run.trunk_path(self.dataset).is_file():
            make_dataset_trunk(run, self.dataset, self.command, self.say)
        for split in splits:
            table = self.table(run, split)
            try:
                identity = sealed_store(run, self.dataset, split).identity
            except StoreError:
                identity = {}
            seen = (identity.get("seen.rows"), identity.get("seen.pictures"))
            if seen != (table.rows_digest, table.pictures_digest()):
                run_extract(run, self.dataset, split, self.say)

    # ---- joins

    def _run_join(self, name: str, recipe: RecipeSettings) -> Outcome:
        members = [self.outcome(member) for member in recipe.join]
        scores = [self.scores_of(member) for member in members]
        table = self.table(self.ws, self.manifest.eval)
        started = time.perf_counter()
        facts: dict[str, Any] = {"join": list(recipe.join), "by": recipe.by}
        stack = None
        if recipe.by == "stack":
            held = [self._held_out_scores(member) for member in recipe.join]
            stack = fit_stack(held, self._held_out_labels(self.ws)[0], self.manifest.metric)
            facts["stack"] = stack.facts
        runs = []
        for index, seed in enumerate(self.ws.settings.seeds):
            own = [of_member[index] for of_member in scores]
            joined = stack.apply(own) if stack is not None else mean_rank(own)
            mean, each = mean_average_precision(joined, table.scored_labels, self.manifest.metric)
            file = f"{self.dataset}-{self.manifest.eval}-{name}-{recipe_digest(self.ws, name)}-{seed}.h5"
            path = self.ws.results / "scores" / file
            about = {**load_scores(Path(members[0]["runs"][index]["scores"])).facts, "recipe": name, **facts}
            save_scores(SplitScores(joined[None], (JOINED,), table.ids, table.classes, about), path)
            by_class = {c: number(ap) for c, ap in zip(table.classes, each, strict=True) if c not in table.unscored}
            runs.append({"seed": seed, "mAP": number(mean), "AP": by_class, "scores": path.as_posix()})
        first = members[0]
        return {
            "head": None,
            **facts,
            "trunk": " + ".join(dict.fromkeys(member["trunk"] for member in members)),
            "layer": " + ".join(dict.fromkeys(member["layer"] for member in members)),
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

    def _held_out_scores(self, name: str) -> np.ndarray:
        """Scores (m, n_classes) of the held-out fit pictures by a recipe that has not seen them, first seed."""
        recipe = find_recipe(self.ws.settings, name)
        if recipe.by == "stack" and recipe.join:
            raise PipelineError(f"recipe {name!r} is a stack: it has no held-out scores of its own to learn from")
        if recipe.join:
            return mean_rank([self._held_out_scores(member) for member in recipe.join])
        run = recipe_workspace(self.ws, name, self.ws.settings.seeds[0])
        wanted = self._held_out_labels(run)[1]
        return self._scored(run, name, held_out=True).by(self.outcome(name)["k"])[wanted]


def _mean_each(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of each class over runs; undefined where it is in any."""
    return {
        key: None if any(row[key] is None for row in rows) else number(float(np.mean([row[key] for row in rows])))
        for key in rows[0]
    }


def read_outcome(path: Path) -> Outcome:
    """The file that `RecipeRuns.run` wrote.

    Raises
    ------
    PipelineError
    """
    try:
        outcome = read_json(path)
        missing = {"name", "mAP", "k", "made_from", "runs"} - set(outcome)
        if missing:
            raise KeyError(", ".join(sorted(missing)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path}: not the outcome of a recipe ({type(error).__name__} {error}); remove it and run again: "
            "pipeline recipe run"
        ) from error
    return outcome
