"""``pipeline data check``: files, and with stored rows near-duplicates and labels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import echo_json, json_option, say, settings_options, this_command, workspace_from

if TYPE_CHECKING:
    from pipeline.dataset.manifest import Manifest
    from pipeline.dataset.report import CheckReport
    from pipeline.stages.near import Thresholds
    from pipeline.stages.settings import RunSettings
    from pipeline.stages.workspace import Workspace


@click.command("check")
@click.argument("name")
@click.option("--deep", is_flag=True, help="Decode every picture and plan its patches, as 'pipeline patches' does.")
@click.option(
    "--near", is_flag=True, help="Also search near-duplicates, within and across splits, by stored rows and pixels."
)
@click.option(
    "--cosine",
    type=float,
    help="With --near: pairs whose rows have this cosine or more are compared by pixels; default: 0.75.",
)
@click.option(
    "--correlation",
    type=float,
    help="With --near: pairs whose pixels have this correlation or more are one photo; default: 0.75.",
)
@click.option(
    "--labels", is_flag=True, help="Also name pictures to fit on whose labels are contradicted by held-out scores."
)
@json_option
@settings_options
def check_dataset(
    name: str,
    deep: bool,
    near: bool,
    labels: bool,
    cosine: float | None,
    correlation: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say whether all files of a dataset are there, and what stored rows say of its pictures and labels.

    --near and --labels read the stores of the splits. They write results/{name}_near.json and
    results/{name}_labels.json, and results/{name}_data.html with the pictures. Settings go with --deep, --near and
    --labels.

    \b
    Example:
      pipeline data check voc12 --deep
      pipeline data check demo --near --labels
    """
    from pipeline.dataset.fetch import check
    from pipeline.dataset.manifest import data_root as root_of
    from pipeline.dataset.manifest import load_manifest
    from pipeline.dataset.same_files import explain_same_files
    from pipeline.io.errors import DatasetError
    from pipeline.io.messages import enumerate_problems

    data_root = options["data_root"]
    given = [key for key, value in options.items() if value is not None and key != "data_root"]
    if given and not (deep or near or labels):
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise click.UsageError(
            f"{flags}: settings go with --deep, --near and --labels: files are compared without any."
        )
    if (cosine is not None or correlation is not None) and not near:
        raise click.UsageError("--cosine and --correlation go with --near.")
    if as_json and not (near or labels):
        raise click.UsageError("--json goes with --near and --labels.")
    manifest = load_manifest(name)
    ws = workspace_from(options) if deep or near or labels else None
    root = ws.settings.data_root if ws is not None else data_root
    data_root = root_of(root) if root else None
    if ws is not None and deep:
        report = _check_deep(manifest, ws.settings, configured=bool(given))
    else:
        report = check(manifest, data_root)
    tell = say if as_json else click.echo
    tell(f"{name} in {report.elsewhere or report.folder}" if report.folder else f"{name}: not found")
    for split in report.splits:
        tell(f"  {split}")
    if report.folder and (note := explain_same_files(manifest, data_root)):
        say(note)
    if not report.ok:
        problems = "\n".join((f"{name}: {len(report.problems)} problem(s)", enumerate_problems(report.problems)))
        needed = [split for split in report.splits if split.split in (manifest.fit, manifest.eval)]
        if ws is None or deep or not needed or not all(split.complete for split in needed):
            raise DatasetError("\n".join((problems, *report.advice)))
        say(f"NOTE: {problems}")  # of other splits, or of counts alone: a part of an official list is searched as it is
    else:
        tell("complete")
    if ws is not None and (near or labels):
        from pipeline.stages.near import Thresholds

        usual = Thresholds()
        thresholds = Thresholds(
            usual.cosine if cosine is None else cosine, usual.correlation if correlation is None else correlation
        )
        _check_by_rows(ws, name, thresholds if near else None, labels, as_json)


def _check_by_rows(ws: Workspace, name: str, thresholds: Thresholds | None, labels: bool, as_json: bool) -> None:
    """Search near-duplicates, judge labels, write the page, and print what was found.

    Parameters
    ----------
    thresholds : of near-duplicates; None where they are not searched
    """
    from pipeline.stages import label_faults, near
    from pipeline.stages.boxes import refuse_without_labels
    from pipeline.stages.context import RunContext
    from pipeline.views.report.sections.data_page import write_page

    run = RunContext(ws, name, say, this_command())
    if labels:
        refuse_without_labels(run.manifest, "--labels")  # before anything is read
    found = None if thresholds is None else near.make(run, thresholds)
    judged = label_faults.make(run) if labels else None
    page = write_page(run)
    if as_json:
        echo_json({"near": found, "labels": judged} if found and judged else found or judged)
        return
    if found is not None:
        print_near(found)
        click.echo(f"pairs:  {near.path(run)}")
    if judged is not None:
        print_label_faults(judged)
        click.echo(f"labels: {label_faults.path(run)}")
    click.echo(f"page:   {page}")


MOST_PAIRS = 20
"""Pairs of near-duplicates that are printed; the file has all."""


def print_near(found: dict[str, Any]) -> None:
    """How many pairs of near-duplicates there are, and the first of them: leaks come first."""
    pairs = found["pairs"]
    leaks = sum(pair["leak"] for pair in pairs)
    within = {split: sum(not p["leak"] and p["first"]["split"] == split for p in pairs) for split in found["splits"]}
    text = ", ".join(f"{n:,} within {split}" for split, n in within.items())
    of = f"{found['trunk']} {found['layer']}, {found['compared']:,} pairs compared by pixels"
    click.echo(f"near-duplicates: {leaks:,} pairs across splits, {text} ({of})")
    for pair in pairs[:MOST_PAIRS]:
        first, second = (f"{pair[which]['split']} {pair[which]['id']}" for which in ("first", "second"))
        what = "the same file" if pair["same_file"] else f"pixels {pair['correlation']:.2f}, rows {pair['cosine']:.2f}"
        mirrored = ", mirrored" if pair["mirrored"] else ""
        click.secho(f"{'  LEAK ' if pair['leak'] else '       '}{first} = {second}  ({what}{mirrored})")
    if len(pairs) > MOST_PAIRS:
        click.echo(f"       and {len(pairs) - MOST_PAIRS:,} more")
    for split, n in found["skipped"].items():
        if n:
            click.secho(f"NOTE: {split}: {n:,} bad pictures were left out, and not compared", fg="yellow")
    for split, n in found.get("rows_of_zeros", {}).items():
        if n:
            what = f"rows of {n:,} pictures are zeros: these were compared by the bytes of their files alone"
            click.secho(f"NOTE: {split}: {what}", fg="yellow")
    click.echo(f"near-duplicate: {found['definition']}")


MOST_FAULTS = 20
"""Contradicted labels that are printed; the file has all."""


def print_label_faults(found: dict[str, Any]) -> None:
    """How many labels are contradicted by held-out scores, and the first of them, by falling margin."""
    faults, mean = found["faults"], found["held_out_mAP"]
    measured = "-" if mean is None else f"{100 * mean:.1f}"
    by_label = {word: sum(fault["label"] == word for fault in faults) for word in ("absent", "present")}
    click.echo(
        f"contradicted labels of {found['split']}: {by_label['absent']:,} say absent and {by_label['present']:,} "
        f"present, of {found['pictures']:,} pictures; held-out mAP {measured} "
        f"({found['head']} on {found['trunk']} {found['layer']}, {found['folds']} folds)"
    )
    for fault in faults[:MOST_FAULTS]:
        click.echo(
            f"  {fault['margin']:.2f}  {fault['id']}: {fault['class']} {fault['label']}, P {fault['probability']:.3f}"
        )
    if len(faults) > MOST_FAULTS:
        click.echo(f"        and {len(faults) - MOST_FAULTS:,} more")
    for name, why in found["left_out"].items():
        click.secho(f"NOTE: {name}: not judged: {why}", fg="yellow")
    click.echo(found["definition"])


def _check_deep(manifest: Manifest, settings: RunSettings, configured: bool) -> CheckReport:
    """Check as the stage ``patches`` would.

    Parameters
    ----------
    configured : whether settings were given; without, persons have the only source that goes with them
    """
    from pipeline.patches.check import check_for_patches

    sources = settings.sources
    if not configured and manifest.by_person:
        sources = sources.model_copy(update={"source": "boxes"})
    return check_for_patches(
        manifest,
        settings.data_root,
        sources,
        on_error=settings.on_error,
        max_skipped=settings.max_skipped,
        workers=settings.threads or len(os.sched_getaffinity(0)),
        say=say,
    )
