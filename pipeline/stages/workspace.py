"""Where a run keeps what: file names from settings alone, the same for CLI and Snakefile.

Each name holds a digest of exactly the settings that the file depends on, so that runs with other
settings stand side by side, and a changed setting never meets a file of the old one. Nothing here
imports torch or opens a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.activations import SEAL
from pipeline.activations import VERSION as ACTIVATIONS_VERSION
from pipeline.activations.folder import Folder, open_folder
from pipeline.dataset import VERSION as DATASET_VERSION
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.read import state_of_split
from pipeline.head import VERSION as HEAD_VERSION
from pipeline.io.atomic import read_json
from pipeline.io.digests import digest_of
from pipeline.io.messages import shorten
from pipeline.patches import VERSION as PATCHES_VERSION
from pipeline.scoring import VERSION as SCORING_VERSION
from pipeline.scoring.aggregation import Aggregation, reported_aggregation
from pipeline.stages.settings import RunSettings
from pipeline.trunk import VERSION as TRUNK_VERSION
from pipeline.trunk.registry import MADE_TRUNKS, SEEDED_TRUNKS, is_imported, names_layer, sources_of
from pipeline.trunk.weight_files import check_weights, digest_weights_state, has_weights

VERSIONS = {
    "dataset": DATASET_VERSION,
    "patches": PATCHES_VERSION,
    "trunk": TRUNK_VERSION,
    "activations": ACTIVATIONS_VERSION,
    "head": HEAD_VERSION,
    "scoring": SCORING_VERSION,
}
DIGITS = 10


def versions_to(room: str) -> list[int]:
    """Versions of a room and of all before it."""
    rooms = list(VERSIONS)
    return [VERSIONS[name] for name in rooms[: rooms.index(room) + 1]]


@dataclass(frozen=True, repr=False)
class Workspace:
    """Files of runs with one set of settings.

    >>> ws = Workspace(RunSettings())
    >>> ws.heads_path("demo").as_posix()
    'results/demo_heads.json'
    """

    settings: RunSettings

    def __repr__(self) -> str:
        s = self.settings
        changed = [
            f"{name}={shorten(repr(getattr(s, name)), 40)}"
            for name in sorted(s.model_fields_set - {"cache", "results"})
        ]
        text = shorten(", ".join(changed), 600) or "all settings as they are without a file"
        return f"<Workspace {self.cache.as_posix()}, {self.results.as_posix()}: {text}>"

    def with_layer(self, layer: str) -> Workspace:
        """The same settings with another layer of the trunk."""
        return Workspace(self.settings.model_copy(update={"layer": layer}))

    @property
    def cache(self) -> Path:
        return Path(self.settings.cache)

    @property
    def stores(self) -> Folder:
        """Where the zarr stores are: beside tables and receipts, or elsewhere."""
        return open_folder(self.settings.stores or self.settings.cache)

    @property
    def results(self) -> Path:
        return Path(self.settings.results)

    @property
    def digest_memory(self) -> Path:
        return self.cache / "file-digests.sqlite"

    # What each file depends on. A key that is missing here is a stale file waiting to happen, so
    # each takes all of the one before, and the versions of the rooms that made it.

    def _table_key(self) -> dict[str, Any]:
        s = self.settings
        return {
            "versions": versions_to("patches"),
            "data_root": s.data_root,
            "source": s.source,
            **s.sources.own(),
            "grid": s.grid.model_dump(mode="json"),
            "on_error": s.on_error,
            "max_skipped": s.max_skipped,
        }

    @property
    def dense(self) -> bool:
        """Whether rows are read off the maps of whole pictures: only windows of a grid can be."""
        return self.settings.method == "dense" and self.settings.source == "grid"

    def _store_key(self) -> dict[str, Any]:
        s = self.settings
        if is_imported(s.trunk):
            # Nothing here computes them: which rows there are is all that settings decide.
            return {**self._table_key(), "trunk": s.trunk, "versions": versions_to("activations")}
        how = {name: getattr(s, name) for name in ("trunk", "layer", "weights", "precision", "batch", "stores")}
        # Which of several like devices is used decides nothing.
        how["device"] = s.device.partition(":")[0]
        # Left out where they are the usual ones, so that receipts from before these settings go on to be found.
        if s.trunk_px is not None:
            how["trunk_px"] = s.trunk_px
        if s.compiled:
            how["compiled"] = True
        if s.backend != "auto":
            how["backend"] = s.backend
        if self.dense:
            how["method"] = s.method
            if names_layer(s.trunk):
                how["dense"] = 2  # rows of networks of libraries were others before
        if s.dtype != "float16":
            how["dtype"] = s.dtype
        if s.rows != "all":
            how["rows"] = {
                "head": s.head_settings(s.head).model_dump(mode="json"),
                "labels": s.labels.model_dump(mode="json"),
                "seeds": s.all_seeds,
            }
        key = {**self._table_key(), **how, "versions": versions_to("activations")}
        if self.makes_trunk:
            return {**key, "made": self.trunk_digest}
        sources = sources_of(s.trunk)
        if sources is not None:
            return {**key, "code": sources, "trunk_seed": s.trunk_seed}
        return {**key, "trunk_seed": s.trunk_seed} if s.trunk in SEEDED_TRUNKS else key

    def _head_key(self, head: str, held_out: bool = False) -> dict[str, Any]:
        s = self.settings
        key = {
            **self._store_key(),
            "versions": versions_to("head"),
            "head": s.head_settings(head).model_dump(mode="json"),
            "labels": s.labels.model_dump(mode="json"),
            "seed": s.seed,
        }
        if s.head_device != "auto":
            key["head_device"] = s.head_device.partition(":")[0]
        return {**key, "held_out": s.held_out} if held_out else key

    def _scores_key(self, head: str, held_out: bool = False) -> dict[str, Any]:
        return {
            **self._head_key(head, held_out),
            "versions": versions_to("scoring"),
            "aggregations": [aggregation.to_json() for aggregation in self.settings.all_aggregations],
        }

    @property
    def table_digest(self) -> str:
        return digest_of(self._table_key())[:DIGITS]

    @property
    def store_digest(self) -> str:
        return digest_of(self._store_key())[:DIGITS]

    def head_digest(self, head: str, held_out: bool = False) -> str:
        return digest_of(self._head_key(head, held_out))[:DIGITS]

    def scores_digest(self, head: str, held_out: bool = False) -> str:
        return digest_of(self._scores_key(head, held_out))[:DIGITS]

    def aggregation_of(self, head: str) -> Aggregation:
        """Return the aggregation of a head's results: the configured one where it applies to the head's scores."""
        s = self.settings
        return reported_aggregation(s.head_settings(head).model_dump(mode="json"), s.main_aggregation)

    def run_digest(self, head: str) -> str:
        return digest_of({**self._scores_key(head), "name": head, "aggregation": self.aggregation_of(head).to_json()})[
            :DIGITS
        ]

    def table_path(self, dataset: str, split: str) -> Path:
        return self.cache / "patches" / f"{dataset}-{split}-{self.table_digest}.h5"

    def table_share_path(self, dataset: str, split: str, index: int, count: int) -> Path:
        """What a job that inspects the `index`-th of `count` shares of a split's pictures leaves."""
        return self.cache / "shares" / f"{dataset}-{split}-{self.table_digest}-{index}of{count}-patches.json"

    @property
    def makes_trunk(self) -> bool:
        """Whether the trunk is made from the fit split of each dataset."""
        return self.settings.trunk in MADE_TRUNKS

    @property
    def trunk_digest(self) -> str:
        """Of a trunk that is made from a dataset: what decides its weights, beside the dataset itself."""
        s = self.settings
        making = getattr(s, s.trunk.replace("-", "_")) if self.makes_trunk else None
        key = {
            **self._table_key(),
            "versions": versions_to("trunk"),
            "trunk": s.trunk,
            "making": making.model_dump(mode="json") if making is not None else None,
            "labels": s.labels.model_dump(mode="json"),
            "seed": s.trunk_seed,
        }
        if s.trunk == "no-pretrain":
            key["held_out_by"] = "file digest"  # before, by id: other pictures, so other weights
        return digest_of(key)[:DIGITS]

    def trunk_path(self, dataset: str) -> Path:
        """The card of a trunk that is made from the fit split of `dataset`."""
        return self.cache / "trunks" / f"{dataset}-{self.settings.trunk}-{self.trunk_digest}.yaml"

    def receipt_path(self, dataset: str, split: str) -> Path:
        """The small file that says which store holds a split's activations."""
        return self.cache / "receipts" / f"{dataset}-{split}-{self.store_digest}.json"

    def share_path(self, dataset: str, split: str, index: int, count: int) -> Path:
        """What a job that makes the `index`-th of `count` shares of a store leaves for the one that seals it."""
        return self.cache / "shares" / f"{dataset}-{split}-{self.store_digest}-{index}of{count}.json"

    def head_path(self, dataset: str, head: str, held_out: bool = False) -> Path:
        """A head; with `held_out`, the one that was fitted without the held-out pictures."""
        return self.results / "heads" / f"{dataset}-{head}-{self.head_digest(head, held_out)}.safetensors"

    def scores_path(self, dataset: str, head: str, split: str, held_out: bool = False) -> Path:
        """Scores of a split; with `held_out`, of the fit split's held-out pictures alone."""
        return self.results / "scores" / f"{dataset}-{split}-{head}-{self.scores_digest(head, held_out)}.h5"

    def scores_share_path(
        self, dataset: str, head: str, split: str, index: int, count: int, held_out: bool = False
    ) -> Path:
        """Scores of the `index`-th of `count` shares of a split, for the one that joins them."""
        name = self.scores_path(dataset, head, split, held_out).stem
        return self.cache / "shares" / f"{name}-{index}of{count}.h5"

    def run_dir(self, dataset: str, head: str | None = None) -> Path:
        """Folder of one run, named by everything that its result depends on."""
        head = head or self.settings.head
        return self.results / "runs" / f"{dataset}-{head}-{self.run_digest(head)}"

    def heads_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_heads.json"

    def features_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_features.parquet"

    def compare_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_compare.json"

    def report_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_report.html"

    def curve_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_curve.json"

    def ladder_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_ladder.json"

    def near_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_near.json"

    def label_faults_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_labels.json"

    def data_page_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_data.html"

    def sweep_path(self, dataset: str) -> Path:
        return self.results / f"{dataset}_sweep.json"

    def split_of_rows(self, manifest: Manifest, head: str, held_out: bool = False) -> str:
        """The split whose rows a head is made from: one that is not fitted needs none of the fit split."""
        fitted = self.settings.head_settings(head).kind != "own"
        return manifest.fit if fitted or held_out else manifest.eval

    # What a workflow engine cannot see by itself.

    def dataset_state(self, manifest: Manifest, split: str) -> str:
        """Changes when a picture, an XML or a list file changes size or time.

        Raises
        ------
        MissingDataError, DatasetError
        """
        return state_of_split(manifest, split, self.settings.data_root)

    def weights_state(self, dataset: str | None = None) -> str:
        """Changes when a local weights file or card changes size or time; of `dataset` where it is made from one."""
        made = str(self.trunk_path(dataset)) if dataset and self.makes_trunk else None
        return digest_weights_state((self.settings.weights, self.settings.trunk, made))[:DIGITS]

    def has_weights(self) -> bool:
        """Whether every local file that the trunk needs exists."""
        return has_weights(self.settings.trunk, self.settings.weights)

    def check_weights(self) -> None:
        """Raise MissingDataError early if the trunk's weights are not available."""
        check_weights(self.settings.trunk, self.settings.weights)

    def store_making(self, dataset: str, split: str) -> int:
        """Which making of the store is due: the receipt's number, or one more if its store is gone.

        As a rule's parameter this reruns the extraction when a store was deleted behind its receipt,
        and stays the same afterwards.
        """
        path = self.receipt_path(dataset, split)
        try:
            receipt = read_json(path)
            made, store = int(receipt["made"]), str(receipt["store"])
        except (OSError, ValueError, KeyError, TypeError):
            return 1
        return made if self.stores.child(store).exists(SEAL) else made + 1
