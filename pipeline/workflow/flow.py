"""What the rules of the workflow ask: which settings a digest in a file's name stands for, inputs, and states.

Plain Python, so that it can be tested without Snakemake: ``stages/common.smk`` only wires it to the rules. Each
method takes Snakemake's wildcards, whose attributes are the placeholders of a rule's output. Nothing here imports
torch or decodes a picture.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import yaml

from pipeline.dataset.manifest import load_manifest
from pipeline.io.atomic import write_atomic
from pipeline.io.digests import digest_of
from pipeline.io.errors import MissingDataError
from pipeline.recipes.catalogue import compared_recipes, find_recipe, heads_run, members_of, needs_boxes, parts_of
from pipeline.recipes.paths import recipe_digest, recipe_path, recipe_workspace
from pipeline.stages import patches
from pipeline.stages.context import Opened, RunContext
from pipeline.stages.settings import parse_run_settings
from pipeline.stages.workspace import DIGITS, VERSIONS, Workspace
from pipeline.workflow.due import set_marker, state_of_files


class Wildcards(Protocol):
    """Placeholders of a rule's output; each rule has some of them."""

    dataset: str
    split: str
    head: str
    recipe: str
    digest: str


class Flow:
    """The main run and the compared recipes of one configuration.

    Parameters
    ----------
    config : settings, as Snakemake's ``config``; None values are left out

    Attributes
    ----------
    run : workspace of the main run

    Raises
    ------
    SettingsError
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.run = Workspace(parse_run_settings({k: v for k, v in config.items() if v is not None}, "--config"))
        heads = Workspace(heads_run(self.run.settings))
        # Each comparison's workspace, and its recipes.
        self._comparisons = {
            "heads": (heads, compared_recipes(heads.settings)[0]),
            "compare": (self.run, compared_recipes(self.run.settings)[0]),
        }
        self._recipes = {
            (name, recipe_digest(ws, name)): ws
            for ws, names in self._comparisons.values()
            for name in (part for compared in names for part in parts_of(ws.settings, compared))
        }
        runs = [self.run, *(run for (name, _), ws in self._recipes.items() for run in _runs_of(ws, name))]
        runs.reverse()  # of two runs with one digest the first is taken
        self._tables = {ws.table_digest: ws for ws in runs}
        self._trunks = {ws.trunk_digest: ws for ws in runs if ws.makes_trunk}
        self._stores = {ws.store_digest: ws for ws in runs}
        self._joint_layers = {
            self.run.with_layer(layer).store_digest
            for layer in self.run.settings.layers
            if layer != self.run.settings.layer
        }
        self._manifest = cache(load_manifest)
        self._opened: defaultdict[str, Opened] = defaultdict(Opened)
        self._split_state = cache(self._find_split_state)
        self._state_of_weights = cache(self._find_state_of_weights)

    # ---- inputs

    def trunk_inputs(self, wildcards: Wildcards) -> Path:
        split = self._manifest(wildcards.dataset).fit
        return self._trunks[wildcards.digest].table_path(wildcards.dataset, split)

    def store_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        """Return the table, the card of a trunk made from the dataset, and the pass that extracts this layer too."""
        ws = self._stores[wildcards.digest]
        names = (wildcards.dataset, wildcards.split)
        inputs = {"table": ws.table_path(*names)}
        if ws.makes_trunk:
            inputs["trunk"] = ws.trunk_path(wildcards.dataset)
        if wildcards.digest in self._joint_layers:
            inputs["joint"] = self.run.receipt_path(*names)
        return inputs

    def extract_shares(self, wildcards: Wildcards) -> list[Path]:
        """Return the files of the shares of a store that jobs of their own make; none for an extraction in one job."""
        ws, count = self._stores[wildcards.digest], self.run.settings.scatter
        shares = range(1, count + 1) if count > 1 else ()
        return [ws.share_path(wildcards.dataset, wildcards.split, index, count) for index in shares]

    def fit_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        split = self.run.split_of_rows(self._manifest(wildcards.dataset), wildcards.head)
        return self._table_and_receipt(wildcards.dataset, split)

    def score_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        split = self._manifest(wildcards.dataset).eval
        head = self.run.head_path(wildcards.dataset, wildcards.head)
        return {**self._table_and_receipt(wildcards.dataset, split), "head": head}

    def _table_and_receipt(self, dataset: str, split: str) -> dict[str, Path]:
        return {"table": self.run.table_path(dataset, split), "receipt": self.run.receipt_path(dataset, split)}

    def evaluate_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        split = self._manifest(wildcards.dataset).eval
        return {
            "table": self.run.table_path(wildcards.dataset, split),
            "scores": self.run.scores_path(wildcards.dataset, wildcards.head, split),
        }

    def main_run(self, wildcards: Wildcards) -> Path:
        return self.run.run_dir(wildcards.dataset) / "map.json"

    def recipe_inputs(self, wildcards: Wildcards) -> list[Path]:
        """Return tables and receipts of a recipe's runs; of a join, its members' outcomes."""
        ws = self._recipes[wildcards.recipe, wildcards.digest]
        recipe = find_recipe(ws.settings, wildcards.recipe)
        if recipe.join:
            return [recipe_path(ws, wildcards.dataset, member) for member in recipe.join]
        manifest = self._manifest(wildcards.dataset)
        return [
            path(wildcards.dataset, split)
            for run in _runs_of(ws, wildcards.recipe)
            for path in (run.table_path, run.receipt_path)
            for split in {run.split_of_rows(manifest, wildcards.recipe), manifest.eval}
        ]

    def heads_inputs(self, wildcards: Wildcards) -> list[Path]:
        return self._outcomes("heads", wildcards.dataset)

    def compare_inputs(self, wildcards: Wildcards) -> list[Path]:
        return self._outcomes("compare", wildcards.dataset)

    def _outcomes(self, comparison: str, dataset: str) -> list[Path]:
        """Return the outcomes of those recipes of a comparison that can run on a dataset."""
        ws, names = self._comparisons[comparison]
        has_boxes = self._manifest(dataset).has_boxes
        able = [name for name in names if has_boxes or not needs_boxes(ws.settings, name)]
        return [recipe_path(ws, dataset, name) for name in able]

    def sweep_inputs(self, wildcards: Wildcards) -> list[Path]:
        manifest = self._manifest(wildcards.dataset)
        return [
            path(wildcards.dataset, split)
            for path in (self.run.table_path, self.run.receipt_path)
            for split in (manifest.fit, manifest.eval)
        ]

    # ---- settings of a job, as a file

    def table_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self._tables[wildcards.digest], "patches", wildcards.digest)

    def trunk_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self._trunks[wildcards.digest], "trunk", wildcards.digest)

    def store_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self._stores[wildcards.digest], "extract", wildcards.digest)

    def head_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self.run, "fit-head", wildcards.digest)

    def scores_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self.run, "score", wildcards.digest)

    def result_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self.run, "evaluate", wildcards.digest)

    def recipe_config(self, wildcards: Wildcards) -> str:
        ws = self._recipes[wildcards.recipe, wildcards.digest]
        return self._settings_file(ws, "recipe", wildcards.digest)

    def comparison_config(self, wildcards: Wildcards) -> str:
        """Of the rules that take in several recipes: any change of settings makes their files anew."""
        everything = {"settings": self.run.settings.model_dump(mode="json"), "versions": VERSIONS}
        return self._settings_file(self.run, "compare", digest_of(everything)[:DIGITS])

    def _settings_file(self, ws: Workspace, stage: str, digest: str) -> str:
        """Write all settings of a workspace as a file that any command takes as --config; return its quoted path.

        Its name, which Snakemake compares as a parameter, holds the digest of the settings that the
        stage depends on, so that a changed k reruns no head.
        """
        path = ws.results / "settings" / f"{stage}-{digest}.yaml"
        data = yaml.safe_dump(ws.settings.model_dump(mode="json"), sort_keys=False).encode()
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data)
        return shlex.quote(path.as_posix())

    # ---- what is due

    def patches_due(self, wildcards: Wildcards) -> Path:
        run, split = self._context(self._tables[wildcards.digest], wildcards.dataset), wildcards.split
        return self._marker("patches", patches.path(run, split), [run, split], lambda: patches.why_due(run, split))

    def trunk_due(self, wildcards: Wildcards) -> Path:
        run = self._context(self._trunks[wildcards.digest], wildcards.dataset)
        table = patches.path(run, run.manifest.fit)
        card = run.ws.trunk_path(run.dataset)
        return self._marker("trunk", card, [run, run.manifest.fit, table], lambda: _stage("trunk").why_due(run))

    def extract_due(self, wildcards: Wildcards) -> Path:
        run, split = self._context(self._stores[wildcards.digest], wildcards.dataset), wildcards.split
        receipt = run.ws.receipt_path(run.dataset, split)
        state = [
            run,
            split,
            patches.path(run, split),
            self._state_of_weights(run.ws.store_digest),
            _seal_of(run, split),
        ]
        return self._marker("extract", receipt, state, lambda: _stage("extract").why_due(run, split))

    def fit_due(self, wildcards: Wildcards) -> Path:
        run, head = self._main(wildcards), wildcards.head
        output = run.ws.head_path(run.dataset, head)
        return self._marker(
            "fit-head", output, self._head_state(run, head), lambda: _stage("fit_head").why_due(run, head)
        )

    def score_due(self, wildcards: Wildcards) -> Path:
        run, head = self._main(wildcards), wildcards.head
        output = run.ws.scores_path(run.dataset, head, run.manifest.eval)
        return self._marker("score", output, self._score_state(run, head), lambda: _stage("score").why_due(run, head))

    def evaluate_due(self, wildcards: Wildcards) -> Path:
        run, head = self._main(wildcards), wildcards.head
        output = run.ws.run_dir(run.dataset, head) / "map.json"
        state = [*self._score_state(run, head), run.ws.scores_path(run.dataset, head, run.manifest.eval)]
        return self._marker("evaluate", output, state, lambda: _stage("evaluate").why_due(run, head))

    def map_due(self, wildcards: Wildcards) -> Path:
        """The named result is a copy of a run's result, so its bytes are compared."""
        run, result = self._main(wildcards), self.main_run(wildcards)
        named = run.ws.results / f"{run.dataset}_map.json"

        def why_due() -> str | None:
            copied = result.is_file() and named.read_bytes() == result.read_bytes()
            return None if copied else "it is another run's result"

        return self._marker("map", named, [run, result], why_due)

    def report_due(self, wildcards: Wildcards) -> Path:
        run = self._main(wildcards)
        state = [run, self.main_run(wildcards), run.ws.compare_path(run.dataset), run.ws.heads_path(run.dataset)]
        head, page = run.settings.head, "pipeline.views.report.page"
        return self._marker("report", run.ws.report_path(run.dataset), state, lambda: _load(page).why_due(run, head))

    def recipe_due(self, wildcards: Wildcards) -> Path:
        run, name = (
            self._context(self._recipes[wildcards.recipe, wildcards.digest], wildcards.dataset),
            wildcards.recipe,
        )
        output = recipe_path(run.ws, run.dataset, name)
        state = [*self._recipe_state(run, name), output]
        return self._marker("recipe", output, state, lambda: _load(RECIPE).why_due(run, name))

    def heads_due(self, wildcards: Wildcards) -> Path:
        return self._comparison_due(wildcards, "heads")

    def compare_due(self, wildcards: Wildcards) -> Path:
        return self._comparison_due(wildcards, "compare")

    def _comparison_due(self, wildcards: Wildcards, comparison: str) -> Path:
        run, of_heads = self._main(wildcards), comparison == "heads"
        output = run.ws.heads_path(run.dataset) if of_heads else run.ws.compare_path(run.dataset)
        ws, names = self._comparisons[comparison]
        states = [self._recipe_state(self._context(ws, run.dataset), name) for name in names]
        state = [*(item for of_recipe in states for item in of_recipe), *self._outcomes(comparison, run.dataset)]
        module = "pipeline.recipes.compare"
        return self._marker(comparison, output, state, lambda: _load(module).why_due(run, of_heads))

    def sweep_due(self, wildcards: Wildcards) -> Path:
        run = self._main(wildcards)
        state: list[Any] = [
            run,
            *(run.settings.head_settings(name).model_dump(mode="json") for name in run.settings.compare),
        ]
        for split in (run.manifest.fit, run.manifest.eval):
            state += [split, run.ws.table_path(run.dataset, split), run.ws.receipt_path(run.dataset, split)]
        return self._marker("sweep", run.ws.sweep_path(run.dataset), state, lambda: _stage("sweep").why_due(run))

    def store_making(self, wildcards: Wildcards) -> int:
        """Return the receipt's number of the making, or one more if its store was deleted."""
        return self._stores[wildcards.digest].store_making(wildcards.dataset, wildcards.split)

    def joint_layers(self, wildcards: Wildcards) -> str:
        """Return the option with the layers that the main run's pass extracts; other stores are of one layer."""
        layers = self.run.settings.layers
        if not layers or wildcards.digest != self.run.store_digest:
            return ""
        return f" --layers {','.join(dict.fromkeys((self.run.settings.layer, *layers)))}"

    # ---- states: they change with all on which an answer may depend

    def _marker(self, stage: str, output: Path, state: Sequence[Any], why_due: Callable[[], str | None]) -> Path:
        """Set the marker of an output.

        Parameters
        ----------
        state : of contexts what manifest and settings say; of names of splits the state of the pictures; of paths
            size and time; other JSON values as they are
        """
        run = next(item for item in state if isinstance(item, RunContext))
        values = [self._state_of(run, item) for item in state]
        # Each in a folder of its own: Snakemake lists a folder once, and takes what comes later for missing.
        marker = self.run.cache / "due" / f"{stage}-{output.parent.name}-{output.name}" / "marker"
        return set_marker(marker, output, values, why_due)

    def _state_of(self, run: RunContext, item: Any) -> Any:
        if isinstance(item, RunContext):
            return [VERSIONS, item.settings.model_dump(mode="json"), item.facts_of_roles()]
        if isinstance(item, Path):
            return state_of_files(item)
        if isinstance(item, str) and item in run.manifest.splits:
            return self._split_state(run.dataset, item)
        return item

    def _head_state(self, run: RunContext, head: str) -> list[Any]:
        split = run.ws.split_of_rows(run.manifest, head)
        files = (run.ws.table_path(run.dataset, split), run.ws.receipt_path(run.dataset, split))
        return [run, head, split, *files, self._state_of_weights(run.ws.store_digest)]

    def _score_state(self, run: RunContext, head: str) -> list[Any]:
        split = run.manifest.eval
        files = (run.ws.table_path(run.dataset, split), run.ws.receipt_path(run.dataset, split))
        return [*self._head_state(run, head), run.ws.head_path(run.dataset, head), split, *files]

    def _recipe_state(self, run: RunContext, name: str) -> list[Any]:
        runs = _runs_of(run.ws, name)
        weights = sorted({self._state_of_weights(ws.store_digest) for ws in runs})
        splits = (run.manifest.fit, run.manifest.eval)
        tables = sorted({ws.table_path(run.dataset, split) for ws in runs for split in splits})
        return [run, name, *splits, *tables, *weights]

    def _main(self, wildcards: Wildcards) -> RunContext:
        return self._context(self.run, wildcards.dataset)

    def _context(self, ws: Workspace, dataset: str) -> RunContext:
        """Return a context; all of one dataset share what they open."""
        return RunContext(ws, dataset, opened=self._opened[dataset])

    def _find_split_state(self, dataset: str, split: str) -> str:
        """Return a state that changes with any picture, XML or list of the split.

        Where the pictures are gone and the table is there, it is constant: nothing after the store needs pictures.
        """
        try:
            return self.run.dataset_state(self._manifest(dataset), split)
        except MissingDataError:
            if not any(ws.table_path(dataset, split).is_file() for ws in self._tables.values()):
                raise
            return "absent"

    def _find_state_of_weights(self, store_digest: str) -> str:
        """Return a state that changes with a local weights file; where that is gone, a constant one."""
        ws = self._stores[store_digest]
        try:
            ws.check_weights()
        except MissingDataError:
            if not any((ws.cache / "receipts").glob(f"*-{store_digest}.json")):
                raise
            return "absent"
        return ws.weights_state()


RECIPE = "pipeline.recipes.recipe"


def _stage(name: str) -> Any:
    return _load(f"pipeline.stages.{name}")


def _load(module: str) -> Any:
    """Import what needs torch, which most parses of the workflow do without."""
    return import_module(module)


def _seal_of(run: RunContext, split: str) -> Any:
    """Return the making that is due of a store: it changes when the store is deleted behind its receipt."""
    return run.ws.store_making(run.dataset, split)


def _runs_of(ws: Workspace, name: str) -> list[Workspace]:
    """Return the runs of a recipe, one per seed; of a join, those of its members."""
    return [
        recipe_workspace(ws, member, seed) for member in members_of(ws.settings, name) for seed in ws.settings.seeds
    ]
