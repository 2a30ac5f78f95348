"""``pipeline trunk fisher``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import dataset_option, say, this_command

if TYPE_CHECKING:
    from pipeline.settings import FisherSettings
    from pipeline.trunk.card import TrunkCard
    from pipeline.workspace import Workspace


@click.command("fisher")
@dataset_option
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of weights and card.")
@click.option("--name", default="fisher", show_default=True, help="Name of the trunk and of its files.")
@click.option("--words", type=int, help="Gaussians of the mixture; default: 64.")
@click.option("--components", type=int, help="Columns of a descriptor after its projection; default: 32.")
@click.option("--input-px", type=int, help="Side to which a picture is resized; default: 256.")
@click.option("--pictures", type=int, help="At most so many pictures are looked at; default: 1,000.")
@click.option("--samples", type=int, help="Descriptors taken of each; default: 100.")
@click.option("--seed", type=int, help="Default: 0.")
@click.option("--data-root", help="Folder that holds the dataset; default: data, or $PIPELINE_DATA.")
@click.option("--cache", help="Folder of patch tables; default: cache.")
@click.option("--on-error", help="Bad pictures: fail (list them all) or skip (record them).")
@click.option("--threads", type=click.IntRange(0, 1024), help="Default: one a core.")
def fisher(
    dataset: str,
    out: Path,
    name: str,
    data_root: str | None,
    cache: str | None,
    on_error: str | None,
    threads: int | None,
    **options: Any,
) -> None:
    """Make a trunk of hand-made features: Fisher vectors of gradients and colours.

    Its codebook is fitted on pictures of the dataset's fit split, without their labels. Writes
    NAME.safetensors and its card NAME.yaml; --trunk OUT/NAME.yaml uses it, with source: whole.

    \b
    Example:
      pipeline trunk fisher --dataset voc12 --out trunks --name fisher-voc12
    """
    from pydantic import ValidationError

    from pipeline.cli.common import workspace_from
    from pipeline.errors import SettingsError, enumerate_problems
    from pipeline.settings import FisherSettings, explain_validation

    try:
        settings = FisherSettings(**{key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(f"trunk fisher:\n{enumerate_problems(explain_validation(error))}") from error
    given = {"data_root": data_root, "cache": cache, "on_error": on_error, "threads": threads}
    ws = workspace_from({**given, "source": "whole"})
    card = make_fisher_trunk(ws, dataset, settings, out / name, this_command())
    click.echo(f"{out / name}.yaml")
    click.echo(f"  {card.layers['fisher']:,} columns a picture, sha256 {card.weights_sha256}")


def make_fisher_trunk(ws: Workspace, dataset: str, settings: FisherSettings, stem: Path, command: str) -> TrunkCard:
    """Fit and save; pictures come in the same way in which an extraction will see them."""
    from pipeline.activations.extract import StageClock, patches_ahead, plan_rows
    from pipeline.dataset.manifest import load_manifest
    from pipeline.dataset.voc import read_split
    from pipeline.progress import track
    from pipeline.run import current_table, picture_paths, set_threads
    from pipeline.trunk.card import TrunkCard, save_trunk
    from pipeline.trunk.codebook import choose_pictures, fit_codebooks
    from pipeline.trunk.fisher import ARCHITECTURE, LAYER, PIXELS_AS_THEY_ARE, vector_width

    set_threads(ws.settings.threads)
    manifest = load_manifest(dataset)
    table = current_table(ws, dataset, manifest.fit, say)
    paths = picture_paths(read_split(manifest, manifest.fit, ws.settings.data_root))
    rows = choose_pictures(table.n_rows, settings)
    ahead = patches_ahead(plan_rows(table, paths, rows), settings.input_px, StageClock())
    weights = fit_codebooks((patches[0] for patches in track(ahead, "describe", len(rows), "pictures")), settings)
    trained = {
        "source": f"{len(rows):,} pictures of {dataset} {manifest.fit}, without labels",
        "pictures": table.pictures_digest(),
        "command": command,
        "settings": settings.model_dump(mode="json"),
    }
    card = TrunkCard(
        name=stem.name,
        architecture=ARCHITECTURE,
        input_px=settings.input_px,
        layers={LAYER: vector_width(weights)},
        preprocessing=PIXELS_AS_THEY_ARE,
        trained=trained,
    )
    return save_trunk(stem, weights, card)
