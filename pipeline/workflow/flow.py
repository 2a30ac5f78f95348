"""What the rules of the workflow ask: which settings a digest in a file's name stands for, inputs, and states.

Plain Python, so that it can be tested without Snakemake: ``stages/common.smk`` only wires it to the rules. Each
method takes Snakemake's wildcards, whose attributes are the placeholders of a rule's output. Nothing here imports
torch or decodes a picture.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import yaml

from pipeline.dataset.manifest import load_manifest
from pipeline.io.atomic import write_atomic
from pipeline.io.digests import digest_of
from pipeline.io.errors import SettingsError
from pipeline.io.yaml import read_json_or_mapping
from pipeline.recipes.catalogue import compared_recipes, find_recipe, heads_run, members_of, parts_of
from pipeline.recipes.paths import recipe_digest, recipe_path, recipe_workspaces
from pipeline.stages.boxes import check_heads, check_trunk, refuse_without_labels
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.workspace import DIGITS, VERSIONS, Workspace


class Wildcards(Protocol):
    """Placeholders of a rule's output; each rule has some of them."""

    dataset: str
    split: str
    head: str
    recipe: str
    digest: str


def refuse_lost_keys(config_files: Iterable[str | Path]) -> None:
    """Refuse settings files in which a key stands twice: Snakemake, which reads them, keeps the last one in silence.

    Raises
    ------
    SettingsError
    """
    for file in map(Path, config_files):
        if file.is_file():  # of a job on another machine it need not be there
            read_json_or_mapping(file)


class Flow:
    """The main run and the compared recipes of one configuration.

    Parameters
    ----------
    config : settings, as Snakemake's ``config``; None values are left out

    Attributes
    ----------
    run : workspace of the main run
    tables, trunks, stores : workspaces by the digest in names of files
    recipes : workspaces by a recipe's name and digest
    comparisons : workspace and names of the recipes of each comparison, by its name and whether there are boxes

    Raises
    ------
    SettingsError
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.run = Workspace(parse_run_settings({k: v for k, v in config.items() if v is not None}, "--config"))
        for name, place in (("cache", self.run.settings.cache), ("results", self.run.settings.results)):
            if "{" in place or "}" in place:
                raise SettingsError(
                    f"{name}: {place}: in names of files braces are Snakemake's own; choose another folder"
                )
        heads, without_boxes = (Workspace(heads_run(self.run.settings, has_boxes)) for has_boxes in (True, False))
        of_recipes = (self.run, compared_recipes(self.run.settings)[0])
        self.comparisons = {
            ("heads", True): (heads, compared_recipes(heads.settings)[0]),
            ("compare", True): of_recipes,
            ("compare", False): of_recipes,
            ("heads", False): (without_boxes, compared_recipes(without_boxes.settings)[0]),
        }
        self.recipes = {
            (name, recipe_digest(ws, name)): ws
            for ws, names in self.comparisons.values()
            for name in (part for compared in names for part in parts_of(ws.settings, compared))
        }
        runs = [self.run, *(run for (name, _), ws in self.recipes.items() for run in runs_of(ws, name))]
        runs.reverse()  # of two runs with one digest the first is taken
        self.tables = {ws.table_digest: ws for ws in runs}
        self.trunks = {ws.trunk_digest: ws for ws in runs if ws.makes_trunk}
        self.stores = {ws.store_digest: ws for ws in runs}
        self._joint_layers = {
            self.run.with_layer(layer).store_digest
            for layer in self.run.settings.layers
            if layer != self.run.settings.layer
        }
        self.manifest = cache(load_manifest)

    # ---- inputs

    def trunk_inputs(self, wildcards: Wildcards) -> Path:
        manifest = self.manifest(wildcards.dataset)
        check_trunk(manifest, self.trunks[wildcards.digest].settings)
        return self.trunks[wildcards.digest].table_path(wildcards.dataset, manifest.fit)

    def store_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        """Return the table, the card of a trunk made from the dataset, and the pass that extracts this layer too."""
        ws = self.stores[wildcards.digest]
        names = (wildcards.dataset, wildcards.split)
        inputs = {"table": ws.table_path(*names)}
        if ws.makes_trunk:
            inputs["trunk"] = ws.trunk_path(wildcards.dataset)
        if wildcards.digest in self._joint_layers:
            inputs["joint"] = self.run.receipt_path(*names)
        return inputs

    def patch_shares(self, wildcards: Wildcards) -> list[Path]:
        """Return the files of the shares of a split's pictures that jobs of their own inspect; none without scatter."""
        ws, count = self.tables[wildcards.digest], self.run.settings.scatter
        shares = range(1, count + 1) if count > 1 else ()
        return [ws.table_share_path(wildcards.dataset, wildcards.split, index, count) for index in shares]

    def extract_shares(self, wildcards: Wildcards) -> list[Path]:
        """Return the files of the shares of a store that jobs of their own make; none for an extraction in one job."""
        ws, count = self.stores[wildcards.digest], self.run.settings.scatter
        shares = range(1, count + 1) if count > 1 else ()
        return [ws.share_path(wildcards.dataset, wildcards.split, index, count) for index in shares]

    def fit_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        manifest = self.manifest(wildcards.dataset)
        check_heads(manifest, self.run.settings, [wildcards.head])
        split = self.run.split_of_rows(manifest, wildcards.head)
        return self._table_and_receipt(wildcards.dataset, split)

    def score_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        split = self.manifest(wildcards.dataset).eval
        head = self.run.head_path(wildcards.dataset, wildcards.head)
        return {**self._table_and_receipt(wildcards.dataset, split), "head": head}

    def score_shares(self, wildcards: Wildcards) -> list[Path]:
        """Return the files of the shares of scores that jobs of their own make; none for a scoring in one job."""
        count = self.run.settings.scatter
        names = (wildcards.dataset, wildcards.head, wildcards.split)
        shares = range(1, count + 1) if count > 1 else ()
        return [self.run.scores_share_path(*names, index, count) for index in shares]

    def _table_and_receipt(self, dataset: str, split: str) -> dict[str, Path]:
        return {"table": self.run.table_path(dataset, split), "receipt": self.run.receipt_path(dataset, split)}

    def evaluate_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        split = self.manifest(wildcards.dataset).eval
        return {
            "table": self.run.table_path(wildcards.dataset, split),
            "scores": self.run.scores_path(wildcards.dataset, wildcards.head, split),
        }

    def main_run(self, wildcards: Wildcards) -> Path:
        """Return the result of the main head, which the dataset must be able to have."""
        manifest = self.manifest(wildcards.dataset)
        head = self.run.settings.main_head(manifest.has_boxes)
        check_heads(manifest, self.run.settings, [head])
        return self.run.run_dir(wildcards.dataset, head) / "map.json"

    def recipe_inputs(self, wildcards: Wildcards) -> list[Path]:
        """Return tables and receipts of a recipe's runs; of a join, its members' outcomes."""
        ws = self.recipes[wildcards.recipe, wildcards.digest]
        recipe = find_recipe(ws.settings, wildcards.recipe)
        if recipe.join:
            return [recipe_path(ws, wildcards.dataset, member) for member in recipe.join]
        manifest = self.manifest(wildcards.dataset)
        return [
            path(wildcards.dataset, split)
            for run in runs_of(ws, wildcards.recipe)
            for path in (run.table_path, run.receipt_path)
            for split in {run.split_of_rows(manifest, wildcards.recipe), manifest.eval}
        ]

    def heads_inputs(self, wildcards: Wildcards) -> list[Path]:
        return self.outcomes("heads", wildcards.dataset)

    def compare_inputs(self, wildcards: Wildcards) -> list[Path]:
        return self.outcomes("compare", wildcards.dataset)

    def outcomes(self, comparison: str, dataset: str) -> list[Path]:
        """Return the outcomes of those recipes of a comparison that can run on a dataset."""
        refuse_without_labels(self.manifest(dataset), "a comparison")
        has_boxes = self.manifest(dataset).has_boxes
        ws, names = self.comparisons[comparison, has_boxes]
        if not has_boxes:
            names, _ = compared_recipes(ws.settings, has_boxes=False)  # refuses those asked for by name
        return [recipe_path(ws, dataset, name) for name in names]

    def sweep_inputs(self, wildcards: Wildcards) -> list[Path]:
        manifest = self.manifest(wildcards.dataset)
        check_heads(manifest, self.run.settings, self.run.settings.compared_heads(manifest.has_boxes), "compare")
        return [
            path(wildcards.dataset, split)
            for path in (self.run.table_path, self.run.receipt_path)
            for split in (manifest.fit, manifest.eval)
        ]

    def exported_split(self, dataset: str) -> str:
        """Return the split whose rows are exported: the only one, as that of pictures without labels.

        Raises
        ------
        SettingsError
            There are several.
        """
        splits = list(self.manifest(dataset).splits)
        if len(splits) > 1:
            raise SettingsError(
                f"{self.run.features_path(dataset)}: is of datasets with one split, and {dataset} has "
                f"{', '.join(splits)}; export one with: pipeline export --dataset {dataset} --split {splits[0]} "
                f"--to {dataset}_{splits[0]}.parquet, with the same settings"
            )
        return splits[0]

    def features_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        return self._table_and_receipt(wildcards.dataset, self.exported_split(wildcards.dataset))

    # ---- settings of a job, as a file

    def features_config(self, wildcards: Wildcards) -> str:
        key = {"store": self.run.store_digest, "labels": self.run.settings.labels.model_dump(mode="json")}
        return self._settings_file(self.run, "features", digest_of(key)[:DIGITS])

    def table_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self.tables[wildcards.digest], "patches", wildcards.digest)

    def trunk_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self.trunks[wildcards.digest], "trunk", wildcards.digest)

    def store_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self.stores[wildcards.digest], "extract", wildcards.digest)

    def head_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self.run, "fit-head", wildcards.digest)

    def scores_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self.run, "score", wildcards.digest)

    def result_config(self, wildcards: Wildcards) -> str:
        return self._settings_file(self.run, "evaluate", wildcards.digest)

    def recipe_config(self, wildcards: Wildcards) -> str:
        ws = self.recipes[wildcards.recipe, wildcards.digest]
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
        data = yaml.safe_dump(ws.settings.to_file(), sort_keys=False).encode()
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data)
        return shlex.quote(path.as_posix())

    # ---- options of the extraction

    def store_making(self, wildcards: Wildcards) -> int:
        """Return the receipt's number of the making, or one more if its store was deleted."""
        return self.stores[wildcards.digest].store_making(wildcards.dataset, wildcards.split)

    def joint_layers(self, wildcards: Wildcards) -> str:
        """Return the option with the layers that the main run's pass extracts; other stores are of one layer."""
        layers = self.run.settings.layers
        if not layers or wildcards.digest != self.run.store_digest:
            return ""
        return f" --layers {','.join(dict.fromkeys((self.run.settings.layer, *layers)))}"


def runs_of(ws: Workspace, name: str) -> list[Workspace]:
    """Return the runs of a recipe, one per seed and layer; of a join, those of its members."""
    return [
        run
        for member in members_of(ws.settings, name)
        for seed in ws.settings.seeds
        for run in recipe_workspaces(ws, member, seed)
    ]
