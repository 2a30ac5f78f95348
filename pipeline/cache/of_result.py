"""Results that were evaluated before: with which settings, and whether they are what an evaluation would give now.

A result names its head and digests of its settings; the receipts of its stores have the other settings. Its file is
named by a digest of all of them: settings that give that name are those that it was made with.
"""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.cache.inventory import CachedReceipt, read_receipts, without_code
from pipeline.io.atomic import read_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import MissingDataError, PipelineError, SettingsError
from pipeline.io.names import write_as_setting
from pipeline.stages import evaluate
from pipeline.stages.context import Opened, RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace

SCORED = ("mAP", "AP")
"""What a recipe keeps of the result of each of its runs."""


@dataclass
class EvaluatedBefore:
    """Compares results with the files of the run that each is of; what is opened is opened once for all of them."""

    _opened: defaultdict[str, Opened] = field(default_factory=lambda: defaultdict(Opened))
    _receipts: dict[Path, list[CachedReceipt]] = field(default_factory=dict)
    _reasons: dict[Path, str | None] = field(default_factory=dict)

    def why_due(self, result: Mapping[str, Any], file: Path) -> str | None:
        """Return why a result is not what an evaluation would give now.

        Parameters
        ----------
        result : of a run (``..._map.json``), of a recipe, or a comparison of recipes or heads
        file : from which it was read

        Returns
        -------
        The first reason. None if there is none, and where it cannot be told: the files of the run, the receipts of its
        stores, or both pictures and patch tables are not here; paths in it are of another folder than this one.
        """
        is_here = file.resolve().is_relative_to(Path.cwd())
        if not is_here and not all(path.is_absolute() for path in _paths_in(result)):
            return None
        for recipe in _recipes_in(result):
            reason = self._of_recipe(recipe)
            if reason is not None:
                return f"{recipe['name']}: {reason}"
        return self._of_recipe(result) if "runs" in result else self._of_run(result)

    def context(self, ws: Workspace, dataset: str) -> RunContext:
        """Return the context of a dataset under some settings."""
        return RunContext(ws, dataset, opened=self._opened[dataset])

    def _of_recipe(self, outcome: Mapping[str, Any]) -> str | None:
        """Compare the runs of a recipe, one per seed, or the recipes that it joins."""
        if outcome.get("join"):
            return self._of_join(outcome)
        for index, run in enumerate(outcome["runs"]):
            found = _read(Path(run["result"]))
            if found is None:
                continue
            # The stores of an outcome are those of its first run: with each seed a trunk may be drawn anew.
            is_of_others = index == 0 and outcome["fingerprints"] != found["fingerprints"]
            if is_of_others or any(run[name] != found[name] for name in SCORED):
                return f"{run['result']} was evaluated again since, and differs"
            reason = self._of_run(found)
            if reason is not None:
                return reason
        return None

    def _of_join(self, outcome: Mapping[str, Any]) -> str | None:
        """Compare the recipes of a join: those from whose digests its own digest follows."""
        folder = Path(outcome["runs"][0]["scores"]).parents[1] / "recipes"
        made_from = outcome.get("made_from")
        if made_from is None:  # in a comparison
            same = [found for found in self._outcomes(folder, outcome["name"]) if found["runs"] == outcome["runs"]]
            if not same:
                return None
            made_from = same[0]["made_from"]
        candidates = [self._outcomes(folder, name) for name in outcome["join"]]
        if not all(candidates):
            return None
        for members in product(*candidates):
            if digest_of([member["made_from"] for member in members]) == made_from:
                reasons = ((member["name"], self._of_recipe(member)) for member in members)
                return next((f"{name}: {reason}" for name, reason in reasons if reason is not None), None)
        return f"{', '.join(outcome['join'])}: run again since, or not there any more"

    @staticmethod
    def _outcomes(folder: Path, name: str) -> list[dict[str, Any]]:
        """Return the outcomes of recipes of a name, whatever their dataset and settings."""
        found = [_read(file) for file in sorted(folder.glob(f"*-{glob.escape(name)}-*.json"))]
        return [outcome for outcome in found if outcome is not None and outcome.get("name") == name]

    def _of_run(self, result: Mapping[str, Any]) -> str | None:
        if "result" not in result.get("paths", {}):
            return None
        file = Path(result["paths"]["result"])
        found = _read(file)
        if found is None:
            return None
        decided = {name for name in (*result, *found) if name not in evaluate.NOT_DECIDED}
        differing = sorted(name for name in decided if result.get(name) != found.get(name))
        if differing:
            return f"{file} was evaluated again since, and differs: {', '.join(differing[:5])}"
        if file not in self._reasons:
            self._reasons[file] = self._of_stages(result)
        return self._reasons[file]

    def _of_stages(self, result: Mapping[str, Any]) -> str | None:
        run = self.context_of(result)
        if run is None:
            return None
        try:
            return evaluate.why_due(run, result["head"], result["split"])
        except MissingDataError:
            return None
        except PipelineError as error:  # weights that changed, annotations that cannot be read
            return str(error).partition("\n")[0]

    def context_of(self, result: Mapping[str, Any]) -> RunContext | None:
        """Return the context in which a result was evaluated; None where it is not known here."""
        for ws in self._candidates(result):
            run = self.context(ws, result["dataset"])
            if evaluate.path(run, result["head"]).as_posix() == result["paths"]["result"]:
                return run
        return None

    def _candidates(self, result: Mapping[str, Any]) -> Iterator[Workspace]:
        """Yield workspaces with the folders of a result, of which one may be that in which it was evaluated."""
        results = write_as_setting(Path(result["paths"]["result"]).parents[2].as_posix())
        stores = write_as_setting(result["paths"]["store"].rpartition("/")[0])
        prints = {result["fingerprints"][side] for side in ("fit", "eval")}
        own = {
            "results": results,
            "head": result["head"],
            "seed": result["seed"],
            "labels": result["recipe"]["reading"],
        }
        # What neither says, or only some results say: as in the receipt, or as other runs have it.
        others: tuple[list[dict[str, Any]], ...] = (
            [{}, {"aggregations": list(result["k_sweep"])}],
            [{}, {"aggregation": result["k"]}],
            [{}, *({"head_device": name} for name in ("auto", "cpu", "cuda"))],
        )
        for cache in dict.fromkeys((stores, RunSettings().cache)):
            places = {"cache": cache, "stores": None if stores == cache else stores}
            for found in self._receipts_in(Path(cache)):
                if found.receipt.fingerprint not in prints:
                    continue
                made = without_code(found.receipt.settings)
                heads = {**made.get("heads", {}), result["head"]: result["recipe"]["head"]}
                for of_aggregations, of_k, of_device in product(*others):
                    values = {**made, **own, **places, "heads": heads, **of_aggregations, **of_k, **of_device}
                    try:
                        yield Workspace(parse_run_settings(values, str(found.path)))
                    except SettingsError:  # of another version, or the class of a head that is not here
                        continue

    def _receipts_in(self, cache: Path) -> list[CachedReceipt]:
        if cache not in self._receipts:
            self._receipts[cache] = read_receipts(Workspace(RunSettings(cache=write_as_setting(cache.as_posix()))))[0]
        return self._receipts[cache]


def _recipes_in(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the recipes of a comparison with their runs; learning curves name theirs alone."""
    return [item for item in result.get("recipes", ()) if isinstance(item, dict) and "runs" in item]


def _paths_in(result: Mapping[str, Any]) -> list[Path]:
    """Return the paths of the files of its runs that a result names."""
    of_runs = [run for item in (result, *_recipes_in(result)) for run in item.get("runs", ())]
    named = [result.get("paths", {}).get("result"), *(run.get("result") or run.get("scores") for run in of_runs)]
    return [Path(path) for path in named if path is not None]


def _read(file: Path) -> dict[str, Any] | None:
    """Read a result; None where there is none, or none that can be read."""
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
