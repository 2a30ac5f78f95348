"""``pipeline patches``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import dataset_option, parse_share, say, settings_options, split_option, workspace_from


@click.command("patches")
@dataset_option
@split_option(required=True)
@settings_options
@click.option("--share", help="I/N: only the I-th of N shares of the pictures; a run without it makes the table.")
@click.option("--rehash", is_flag=True, help="Forget remembered file digests and hash every picture again.")
def command(dataset: str, split: str, share: str | None, rehash: bool, **options: Any) -> None:
    """Decode every picture of a split, find the bad ones, and plan its patches.

    Writes the patch table, which fixes the rows of every store of this split. What was found in each picture is
    remembered in the cache: a killed run resumes where it was. Shares may run at the same time.

    \b
    Example:
      pipeline patches --dataset voc12 --split train --data-root ~/VOCdevkit
      pipeline patches --dataset voc12 --split train --share 1/4
    """
    from pipeline.patches.labels import BACKGROUND, UNUSED
    from pipeline.stages.context import RunContext
    from pipeline.stages.patches import current_table, make_share

    ws = workspace_from(options)
    if share is not None:
        click.echo(make_share(RunContext(ws, dataset, say), split, parse_share(share), rehash))
        return
    table = current_table(RunContext(ws, dataset, say), split, rehash)
    click.echo(f"{ws.table_path(dataset, split)}")
    click.echo(f"  pictures  {len(table.ids):>10,}   skipped {len(table.skipped)}")
    click.echo(f"  patches   {table.n_rows:>10,}")
    if not table.classes:
        click.echo("  no labels")
    elif not table.has_boxes:
        click.echo("  no boxes: pictures have labels, patches have none")
    elif table.labelled:
        labels = table.labels(ws.settings.labels)
        reading = f"single_object={ws.settings.labels.single_object}"
        click.echo(f"  positive  {(labels >= 0).sum():>10,}   ({reading})")
        click.echo(f"  background{(labels == BACKGROUND).sum():>10,}")
        click.echo(f"  unused    {(labels == UNUSED).sum():>10,}")
