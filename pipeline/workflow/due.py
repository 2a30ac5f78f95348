"""What is due: for each rule a marker, set as the rule's stage answers.

A method takes Snakemake's wildcards and returns the marker. Asking a stage needs torch, and reads tables, heads or
scores; so a marker keeps the answer as long as a cheap state stays the same: sizes and times of files, and what
manifest and settings say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.io.errors import MissingDataError
from pipeline.recipes.paths import recipe_path
from pipeline.stages import patches
from pipeline.stages.context import Opened, RunContext
from pipeline.stages.workspace import VERSIONS, Workspace
from pipeline.workflow.flow import Flow, Wildcards, runs_of
from pipeline.workflow.markers import set_marker, state_of_files

RECIPE = "pipeline.recipes.recipe"


def _stage(name: str) -> Any:
    return _load(f"pipeline.stages.{name}")


def _load(module: str) -> Any:
    """Import what needs torch, which most parses of the workflow do without."""
    return import_module(module)


def _seal_of(run: RunContext, split: str) -> Any:
    """Return the making that is due of a store: it changes when the store is deleted behind its receipt."""
    return run.ws.store_making(run.dataset, split)


class Due:
    """Markers of the outputs of one configuration.

    Parameters
    ----------
    flow : says which settings a digest stands for
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._opened: defaultdict[str, Opened] = defaultdict(Opened)
        self._split_state = cache(self._find_split_state)
        self._state_of_weights = cache(self._find_state_of_weights)

    def patches(self, wildcards: Wildcards) -> Path:
        run, split = self._context(self._flow.tables[wildcards.digest], wildcards.dataset), wildcards.split
        return self._marker("patches", patches.path(run, split), [run, split], lambda: patches.why_due(run, split))

    def trunk(self, wildcards: Wildcards) -> Path:
        run = self._context(self._flow.trunks[wildcards.digest], wildcards.dataset)
        table = patches.path(run, run.manifest.fit)
        card = run.ws.trunk_path(run.dataset)
        return self._marker("trunk", card, [run, run.manifest.fit, table], lambda: _stage("trunk").why_due(run))

    def extract(self, wildcards: Wildcards) -> Path:
        run, split = self._context(self._flow.stores[wildcards.digest], wildcards.dataset), wildcards.split
        receipt = run.ws.receipt_path(run.dataset, split)
        state = [
            run,
            split,
            patches.path(run, split),
            self._state_of_weights(run.ws.store_digest),
            _seal_of(run, split),
        ]
        return self._marker("extract", receipt, state, lambda: _stage("extract").why_due(run, split))

    def fit_head(self, wildcards: Wildcards) -> Path:
        run, head = self._main(wildcards), wildcards.head
        output = run.ws.head_path(run.dataset, head)
        return self._marker(
            "fit-head", output, self._head_state(run, head), lambda: _stage("fit_head").why_due(run, head)
        )

    def score(self, wildcards: Wildcards) -> Path:
        run, head = self._main(wildcards), wildcards.head
        output = run.ws.scores_path(run.dataset, head, run.manifest.eval)
        return self._marker("score", output, self._score_state(run, head), lambda: _stage("score").why_due(run, head))

    def evaluate(self, wildcards: Wildcards) -> Path:
        run, head = self._main(wildcards), wildcards.head
        output = run.ws.run_dir(run.dataset, head) / "map.json"
        state = [*self._score_state(run, head), run.ws.scores_path(run.dataset, head, run.manifest.eval)]
        return self._marker("evaluate", output, state, lambda: _stage("evaluate").why_due(run, head))

    def map(self, wildcards: Wildcards) -> Path:
        """The named result is a copy of a run's result, so its bytes are compared."""
        run, result = self._main(wildcards), self._flow.main_run(wildcards)
        named = run.ws.results / f"{run.dataset}_map.json"

        def why_due() -> str | None:
            copied = result.is_file() and named.read_bytes() == result.read_bytes()
            return None if copied else "it is another run's result"

        return self._marker("map", named, [run, result], why_due)

    def report(self, wildcards: Wildcards) -> Path:
        run = self._main(wildcards)
        state = [run, self._flow.main_run(wildcards), run.ws.compare_path(run.dataset), run.ws.heads_path(run.dataset)]
        head, page = run.settings.head, "pipeline.views.report.page"
        return self._marker("report", run.ws.report_path(run.dataset), state, lambda: _load(page).why_due(run, head))

    def recipe(self, wildcards: Wildcards) -> Path:
        run, name = (
            self._context(self._flow.recipes[wildcards.recipe, wildcards.digest], wildcards.dataset),
            wildcards.recipe,
        )
        output = recipe_path(run.ws, run.dataset, name)
        state = [*self._recipe_state(run, name), output]
        return self._marker("recipe", output, state, lambda: _load(RECIPE).why_due(run, name))

    def heads(self, wildcards: Wildcards) -> Path:
        return self._comparison(wildcards, "heads")

    def compare(self, wildcards: Wildcards) -> Path:
        return self._comparison(wildcards, "compare")

    def _comparison(self, wildcards: Wildcards, comparison: str) -> Path:
        run, of_heads = self._main(wildcards), comparison == "heads"
        output = run.ws.heads_path(run.dataset) if of_heads else run.ws.compare_path(run.dataset)
        ws, names = self._flow.comparisons[comparison]
        states = [self._recipe_state(self._context(ws, run.dataset), name) for name in names]
        state = [*(item for of_recipe in states for item in of_recipe), *self._flow.outcomes(comparison, run.dataset)]
        module = "pipeline.recipes.compare"
        return self._marker(comparison, output, state, lambda: _load(module).why_due(run, of_heads))

    def sweep(self, wildcards: Wildcards) -> Path:
        run = self._main(wildcards)
        state: list[Any] = [
            run,
            *(run.settings.head_settings(name).model_dump(mode="json") for name in run.settings.compare),
        ]
        for split in (run.manifest.fit, run.manifest.eval):
            state += [split, run.ws.table_path(run.dataset, split), run.ws.receipt_path(run.dataset, split)]
        return self._marker("sweep", run.ws.sweep_path(run.dataset), state, lambda: _stage("sweep").why_due(run))

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
        marker = self._flow.run.cache / "due" / f"{stage}-{output.parent.name}-{output.name}" / "marker"
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
        runs = runs_of(run.ws, name)
        weights = sorted({self._state_of_weights(ws.store_digest) for ws in runs})
        splits = (run.manifest.fit, run.manifest.eval)
        tables = sorted({ws.table_path(run.dataset, split) for ws in runs for split in splits})
        return [run, name, *splits, *tables, *weights]

    def _main(self, wildcards: Wildcards) -> RunContext:
        return self._context(self._flow.run, wildcards.dataset)

    def _context(self, ws: Workspace, dataset: str) -> RunContext:
        """Return a context; all of one dataset share what they open."""
        return RunContext(ws, dataset, opened=self._opened[dataset])

    def _find_split_state(self, dataset: str, split: str) -> str:
        """Return a state that changes with any picture, XML or list of the split.

        Where the pictures are gone and the table is there, it is constant: nothing after the store needs pictures.
        """
        try:
            return self._flow.run.dataset_state(self._flow.manifest(dataset), split)
        except MissingDataError:
            if not any(ws.table_path(dataset, split).is_file() for ws in self._flow.tables.values()):
                raise
            return "absent"

    def _find_state_of_weights(self, store_digest: str) -> str:
        """Return a state that changes with a local weights file; where that is gone, a constant one."""
        ws = self._flow.stores[store_digest]
        try:
            ws.check_weights()
        except MissingDataError:
            if not any((ws.cache / "receipts").glob(f"*-{store_digest}.json")):
                raise
            return "absent"
        return ws.weights_state()
