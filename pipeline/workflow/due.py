"""What is due: for each rule a marker, set as the rule's stage answers.

A method takes Snakemake's wildcards and returns the marker. Asking a stage needs torch, and reads tables, heads or
scores; so a marker keeps the answer as long as a cheap state stays the same: sizes and times of files, and what
manifest and settings say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
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
COMPARE = "pipeline.recipes.compare"
EXPORT = "pipeline.exchange.export"
REPORT = "pipeline.views.report.render"


def _stage(name: str) -> Any:
    return _load(f"pipeline.stages.{name}")


def _load(module: str) -> Any:
    """Import what needs torch, which most parses of the workflow do without."""
    return import_module(module)


@dataclass(frozen=True)
class State:
    """All on which the answer of a stage may depend, next to manifest and settings.

    Attributes
    ----------
    splits : whose pictures and annotations it depends on
    files : whose size and time it depends on
    values : other JSON values
    """

    splits: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    values: tuple[Any, ...] = ()

    def __add__(self, other: State) -> State:
        return State(self.splits + other.splits, self.files + other.files, self.values + other.values)


class Due:
    """Markers of the outputs of one configuration; each method sets one and returns its path.

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
        why_due = partial(patches.why_due, run, split)
        return self._marker(run, "patches", patches.path(run, split), State((split,)), why_due)

    def trunk(self, wildcards: Wildcards) -> Path:
        run = self._context(self._flow.trunks[wildcards.digest], wildcards.dataset)
        fit = run.manifest.fit
        state = State((fit,), (patches.path(run, fit),))
        return self._marker(run, "trunk", run.ws.trunk_path(run.dataset), state, lambda: _stage("trunk").why_due(run))

    def extract(self, wildcards: Wildcards) -> Path:
        run, split = self._context(self._flow.stores[wildcards.digest], wildcards.dataset), wildcards.split
        # The making that is due changes when the store is deleted behind its receipt.
        values = (self._state_of_weights(run.ws.store_digest), run.ws.store_making(run.dataset, split))
        state = State((split,), (patches.path(run, split),), values)
        receipt = run.ws.receipt_path(run.dataset, split)
        return self._marker(run, "extract", receipt, state, lambda: _stage("extract").why_due(run, split))

    def fit_head(self, wildcards: Wildcards) -> Path:
        run, head = self._main(wildcards), wildcards.head
        output, state = run.ws.head_path(run.dataset, head), self._state_of_head(run, head)
        return self._marker(run, "fit-head", output, state, lambda: _stage("fit_head").why_due(run, head))

    def score(self, wildcards: Wildcards) -> Path:
        run, head = self._main(wildcards), wildcards.head
        output = run.ws.scores_path(run.dataset, head, run.manifest.eval)
        state = self._state_of_scores(run, head)
        return self._marker(run, "score", output, state, lambda: _stage("score").why_due(run, head))

    def evaluate(self, wildcards: Wildcards) -> Path:
        run, head = self._main(wildcards), wildcards.head
        output = run.ws.run_dir(run.dataset, head) / "map.json"
        scores = run.ws.scores_path(run.dataset, head, run.manifest.eval)
        state = self._state_of_scores(run, head) + State(files=(scores,))
        return self._marker(run, "evaluate", output, state, lambda: _stage("evaluate").why_due(run, head))

    def named_result(self, wildcards: Wildcards) -> Path:
        """The named result is a copy of a run's result, so its bytes are compared."""
        run, result = self._main(wildcards), self._flow.main_run(wildcards)
        named = run.ws.results / f"{run.dataset}_map.json"

        def why_due() -> str | None:
            if not result.is_file():
                return "the result of these settings is not there yet"
            return None if named.read_bytes() == result.read_bytes() else "it is another run's result"

        return self._marker(run, "map", named, State(files=(result,)), why_due)

    def features(self, wildcards: Wildcards) -> Path:
        run, split = self._main(wildcards), self._flow.exported_split(wildcards.dataset)
        output, state = run.ws.features_path(run.dataset), self._state_of_rows(run, split)
        return self._marker(run, "features", output, state, lambda: _load(EXPORT).why_due(run, split, str(output)))

    def report(self, wildcards: Wildcards) -> Path:
        run = self._main(wildcards)
        output, head = run.ws.report_path(run.dataset), run.settings.main_head(run.manifest.has_boxes)
        result, ws, name = self._flow.main_run(wildcards), run.ws, run.dataset
        joined = (ws.compare_path(name), ws.heads_path(name), ws.curve_path(name), ws.ladder_path(name))
        of_data = (ws.near_path(name), ws.label_faults_path(name))
        # Boxes of each split, and results of which one may be that of the run before.
        of_runs = (*sorted(result.parent.glob("boxes_*.json")), *sorted((ws.results / "runs").glob("*/map.json")))
        state = State(files=(result, *joined, *of_data, *of_runs))
        return self._marker(run, "report", output, state, lambda: _load(REPORT).why_due(run, head))

    def recipe(self, wildcards: Wildcards) -> Path:
        name = wildcards.recipe
        run = self._context(self._flow.recipes[name, wildcards.digest], wildcards.dataset)
        output, state = recipe_path(run.ws, run.dataset, name), self._state_of_recipe(run, name)
        return self._marker(run, "recipe", output, state, lambda: _load(RECIPE).why_due(run, name))

    def heads(self, wildcards: Wildcards) -> Path:
        return self._comparison(wildcards, "heads")

    def compare(self, wildcards: Wildcards) -> Path:
        return self._comparison(wildcards, "compare")

    def _comparison(self, wildcards: Wildcards, comparison: str) -> Path:
        run, of_heads = self._main(wildcards), comparison == "heads"
        output = run.ws.heads_path(run.dataset) if of_heads else run.ws.compare_path(run.dataset)
        ws, names = self._flow.comparisons[comparison, run.manifest.has_boxes]
        state = State(files=tuple(self._flow.outcomes(comparison, run.dataset)))
        for name in names:
            state += self._state_of_recipe(self._context(ws, run.dataset), name)
        return self._marker(run, comparison, output, state, lambda: _load(COMPARE).why_due(run, of_heads))

    def sweep(self, wildcards: Wildcards) -> Path:
        run = self._main(wildcards)
        state = sum((self._state_of_rows(run, split) for split in (run.manifest.fit, run.manifest.eval)), State())
        return self._marker(run, "sweep", run.ws.sweep_path(run.dataset), state, lambda: _stage("sweep").why_due(run))

    def _marker(
        self, run: RunContext, stage: str, output: Path, state: State, why_due: Callable[[], str | None]
    ) -> Path:
        """Set the marker of an output, and return its path."""
        values = [
            [VERSIONS, run.settings.model_dump(mode="json"), run.facts_of_roles()],
            [self._split_state(run.dataset, split) for split in dict.fromkeys(state.splits)],
            [[str(file), *state_of_files(file)] for file in dict.fromkeys(state.files)],
            state.values,
        ]
        # Each in a folder of its own: Snakemake lists a folder once, and takes what comes later for missing.
        marker = self._flow.run.cache / "due" / f"{stage}-{output.parent.name}-{output.name}" / "marker"
        return set_marker(marker, output, values, why_due)

    def _state_of_rows(self, run: RunContext, split: str) -> State:
        files = (run.ws.table_path(run.dataset, split), run.ws.receipt_path(run.dataset, split))
        return State((split,), files, (self._state_of_weights(run.ws.store_digest),))

    def _state_of_head(self, run: RunContext, head: str) -> State:
        return self._state_of_rows(run, run.ws.split_of_rows(run.manifest, head)) + State(values=(head,))

    def _state_of_scores(self, run: RunContext, head: str) -> State:
        fitted = State(files=(run.ws.head_path(run.dataset, head),))
        return self._state_of_head(run, head) + self._state_of_rows(run, run.manifest.eval) + fitted

    def _state_of_recipe(self, run: RunContext, name: str) -> State:
        splits, workspaces = (run.manifest.fit, run.manifest.eval), runs_of(run.ws, name)
        tables = sorted({ws.table_path(run.dataset, split) for ws in workspaces for split in splits})
        weights = sorted({self._state_of_weights(ws.store_digest) for ws in workspaces})
        return State(splits, tuple(tables), (name, *weights))

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
