"""Stage ``trunk``: a trunk that is made from the fit split of a dataset, where extraction looks for it."""

from __future__ import annotations

from pathlib import Path

from pipeline.io.errors import TrunkError
from pipeline.stages import patches
from pipeline.stages.context import RunContext
from pipeline.stages.patches import TableDueError
from pipeline.stages.pretrain import digest_of_part, fit_fisher, pretrain_on_patches
from pipeline.trunk.card import TrunkCard, read_card
from pipeline.trunk.pretrain.training import OtherTrainingError


def path(run: RunContext) -> Path:
    """Return the card of the trunk that is made from the dataset's fit split."""
    return run.ws.trunk_path(run.dataset)


def why_due(run: RunContext) -> str | None:
    """Return why the trunk must be made, or None if it is current or is made from no dataset."""
    card = path(run)
    if not run.ws.makes_trunk:
        return None
    if not card.is_file():
        return "it has not been made yet"
    try:
        made_from = read_card(card).trained
    except TrunkError as error:
        return str(error)
    try:
        table = patches.require(run, run.manifest.fit)
    except TableDueError as due:
        return str(due)
    now = {"labels_digest": table.labels_digest(run.settings.labels), "pictures": table.pictures_digest()}
    if any(key in made_from and made_from[key] != value for key, value in now.items()):
        return "pictures or labels changed since"
    settings = run.settings.no_pretrain.model_copy(update={"seed": run.settings.trunk_seed})
    is_of_part = run.settings.trunk == "no-pretrain" and settings.part is not None
    if is_of_part and made_from.get("part_digest") != digest_of_part(table, settings):
        return f"part {settings.part} is of other pictures now"
    return None


def make(run: RunContext) -> TrunkCard:
    """Make the trunk that the settings name, from the dataset's fit split."""
    s, card = run.settings, path(run)
    seed = {"seed": s.trunk_seed}
    if s.trunk == "fisher":
        return fit_fisher(run, card.parent, card.stem, s.fisher.model_copy(update=seed))
    settings = s.no_pretrain.model_copy(update=seed)
    while True:
        try:
            return pretrain_on_patches(run, None, card.parent, card.stem, settings)
        except OtherTrainingError as error:
            # Nobody chose this place: a file here of other pictures or settings is of no use any more.
            run.say(f"{error.path}: of other pictures or settings; training anew")
            error.path.unlink()
