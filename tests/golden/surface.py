"""Everything of the package that the golden tests reach, in one place.

Where a module moves, this file alone follows: the tests beside it, and what they expect, stay as they are.
"""

from __future__ import annotations

import pipeline
from pipeline.activations import SEAL
from pipeline.activations import VERSION as ACTIVATIONS_VERSION
from pipeline.activations.identity import FORMAT as STORE_FORMAT
from pipeline.activations.identity import Identity, fingerprint
from pipeline.activations.partition import parts_of
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.cli.main import cli
from pipeline.dataset import VERSION as DATASET_VERSION
from pipeline.dataset.picture import DECODER
from pipeline.head import VERSION as HEAD_VERSION
from pipeline.head.facts import FORMAT as HEAD_FORMAT
from pipeline.head.facts import HeadFacts, read_facts
from pipeline.head.file import STORED_NAMES, save_head
from pipeline.head.head import Head
from pipeline.head.kinds import KINDS
from pipeline.io.checksummed import USER_BLOCK, checksummed_json
from pipeline.io.digests import canonical_json
from pipeline.io.errors import PipelineError
from pipeline.patches import VERSION as PATCHES_VERSION
from pipeline.patches.table import FORMAT as TABLE_FORMAT
from pipeline.patches.table import ROWS_FORMAT
from pipeline.patches.table_file import read_table
from pipeline.recipes.catalogue import builtin_recipes
from pipeline.recipes.paths import recipe_digest, recipe_path, recipe_workspace
from pipeline.scoring import VERSION as SCORING_VERSION
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.scores import ScoreFacts, SplitScores
from pipeline.scoring.scores_file import FORMAT as SCORES_FORMAT
from pipeline.scoring.scores_file import save_scores
from pipeline.stages.context import RunContext
from pipeline.stages.extract import extraction_of, without_pictures
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace
from pipeline.trunk import VERSION as TRUNK_VERSION
from pipeline.views.photos import Look, PhotoReader

__all__ = [
    "DOCUMENTED",
    "FORMATS",
    "KINDS",
    "SEAL",
    "USER_BLOCK",
    "Aggregation",
    "Head",
    "Identity",
    "PipelineError",
    "RunContext",
    "ScoreFacts",
    "SplitScores",
    "StoreWriter",
    "Workspace",
    "builtin_recipes",
    "canonical_json",
    "cli",
    "create_store",
    "extraction_of",
    "fingerprint",
    "make_head",
    "parts_of",
    "pipeline",
    "read_facts",
    "read_table",
    "recipe_digest",
    "recipe_path",
    "recipe_workspace",
    "save_head",
    "save_scores",
    "checksummed_json",
    "without_pictures",
    "workspace",
]

FORMATS = {
    "patch table": TABLE_FORMAT,
    "rows": ROWS_FORMAT,
    "store": STORE_FORMAT,
    "head": HEAD_FORMAT,
    "scores": SCORES_FORMAT,
    "decoder": DECODER,
    "seal": SEAL,
    "bytes of a user block": USER_BLOCK,
    "rooms": {
        "dataset": DATASET_VERSION,
        "patches": PATCHES_VERSION,
        "trunk": TRUNK_VERSION,
        "activations": ACTIVATIONS_VERSION,
        "head": HEAD_VERSION,
        "scoring": SCORING_VERSION,
    },
}
"""What files and keys say of their own form."""

DOCUMENTED = {**{name: getattr(pipeline, name) for name in pipeline.__all__}, "PhotoReader": PhotoReader, "Look": Look}
"""What docs/reference/python.md documents, by name."""


def workspace(**settings) -> Workspace:
    """The files of runs with these settings, all others as they are by default."""
    return Workspace(RunSettings.model_validate(settings))


def make_head(width: int, classes: list[str], settings: dict, facts: dict, fill) -> Head:
    """A head that was not fitted: `fill` gives each tensor its values, by name and shape."""
    checked = workspace(heads={"made": settings}).settings.head_settings("made")
    network = KINDS[checked.kind].make_network(width, len(classes), checked, **facts.get("network", {}))
    network.load_state_dict(
        {name: fill(STORED_NAMES.get(name, name), tensor.shape) for name, tensor in network.state_dict().items()}
    )
    stated = {"format": HEAD_FORMAT, "classes": classes, "width": width, "settings": checked.model_dump(mode="json")}
    return Head(network.eval(), HeadFacts.from_dict({**stated, **facts}))
