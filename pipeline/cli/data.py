"""``pipeline data``: fetch, check, new, list."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import echo_json, json_option, say
from pipeline.cli.data_check import check_dataset
from pipeline.dataset.formats.names import ANNOTATED

ROOT = click.option("--data-root", help="Folder that holds datasets; default: data, or $PIPELINE_DATA.")


@click.group("data")
def command() -> None:
    """Fetch, check or describe a dataset.

    \b
    Example:
      pipeline data fetch demo
      pipeline data check voc12 --data-root ~/VOCdevkit
      pipeline data new --root ~/my-pictures --name mine
    """


command.add_command(check_dataset)


@command.command("list")
@json_option
def list_datasets(as_json: bool) -> None:
    """List the manifests that can be found.

    \b
    Example:
      pipeline data list
    """
    from pipeline.dataset.manifest import load_manifest
    from pipeline.dataset.manifest_places import known_datasets
    from pipeline.io.errors import SettingsError

    if as_json:
        manifests = (load_manifest(name) for name in known_datasets())
        echo_json({m.name: {"title": m.title, "fit": m.fit, "eval": m.eval, "metric": m.metric} for m in manifests})
        return
    broken = []
    for name in known_datasets():
        try:
            manifest = load_manifest(name)
        except SettingsError as error:
            broken.append(str(error))
            continue
        roles = f"fit on {manifest.fit}, evaluated on {manifest.eval} ({manifest.metric})"
        click.echo(f"{name:12} {manifest.title}; {roles if manifest.has_labels else 'no labels'}")
    if broken:
        raise SettingsError("\n".join(broken))


@command.command("fetch")
@click.argument("name")
@ROOT
def fetch_dataset(name: str, data_root: str | None) -> None:
    """Download (or draw) a dataset, check it, and unpack it safely; resumes where it stopped.

    \b
    Example:
      pipeline data fetch voc12
    """
    from pipeline.dataset.fetch import fetch
    from pipeline.dataset.manifest import data_root as root_of
    from pipeline.dataset.manifest import load_manifest

    click.echo(f"{fetch(load_manifest(name), root_of(data_root), say)}")


@command.command("new")
@click.option(
    "--root",
    help="Folder with pictures and their annotations (VOC, COCO, YOLO and others), with class folders "
    "(CLASS/NAME.jpg, perhaps in train/, val/), or with pictures alone. Or a URL, or a list of URLs, of pictures "
    "without labels. Or tar archives, labels next to the pictures (KEY.cls) or none. With --table, the folder of its "
    "pictures, by default the table's.",
)
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    help="CSV file: column picture, then label or one column per class (1, 0, -1 or nothing), perhaps split.",
)
@click.option("--name", required=True, help="Name of the new dataset: lower case letters, digits and _.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the splits, where the folder has none."
)
@click.option(
    "--metric",
    type=click.Choice(["voc07", "voc12"]),
    default="voc12",
    show_default=True,
    help="Rule of average precision.",
)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Annotations that cannot be used: list them all, or leave their pictures out.",
)
@click.option("--overwrite", is_flag=True, help="Replace a manifest of this name.")
@click.option(
    "--folders",
    type=click.Choice(["classes", "splits"]),
    help="What the folders directly below --root are; default: told from their names, refused if in doubt.",
)
@click.option("--no-labels", is_flag=True, help="Take the pictures without labels, in whatever folders they lie.")
@click.option(
    "--annotations",
    multiple=True,
    help="File or folder of annotations, with --layout, where it is not found; once per split, whose name it has.",
)
@click.option(
    "--label", help="Of tar archives: where the label of KEY.jpg is: cls, in KEY.cls, or json:NAME, a key of KEY.json."
)
@click.option("--layout", type=click.Choice(ANNOTATED), help="Format of the annotations; default: recognised.")
@click.option(
    "--label-separator",
    help="Of --table: between several labels in one field, such as '|'; list for ['a', 'b']; none for one label.",
)
@click.option("--zero", type=click.Choice(["absent", "unknown"]), help="Of --table: 0 in the column of a class.")
@click.option("--minus-one", type=click.Choice(["absent", "unknown"]), help="Of --table: -1 in the column of a class.")
def new_dataset(
    root: str | None,
    table: Path | None,
    name: str,
    folders: Any,
    no_labels: bool,
    annotations: tuple[str, ...],
    label: str | None,
    layout: str | None,
    label_separator: str | None,
    zero: str | None,
    minus_one: str | None,
    on_error: str,
    **rest: Any,
) -> None:
    """Describe your own pictures: VOC layout, class folders, a table of pictures and labels, or pictures alone.

    \b
    Example:
      pipeline data new --root ~/my-pictures --name mine
      pipeline data new --root ~/scenes --name scenes
      pipeline data new --table ~/faces/attributes.csv --name faces
      pipeline data new --no-labels --root ~/photos --name photos
      snakemake --cores 2 results/mine_map.json
    """
    from pipeline.dataset.describe.pictures import new_elsewhere_manifest
    from pipeline.dataset.describe.recognise import recognise_folder
    from pipeline.dataset.describe.table import TableOptions, describe_table
    from pipeline.dataset.describe.webdataset import describe_elsewhere
    from pipeline.dataset.places import is_elsewhere

    manifests = Path("data_manifests")
    if label is not None and (root is None or not is_elsewhere(root) or no_labels):
        raise click.UsageError("--label goes with tar archives as --root, such as 'shard-{000..012}.tar'.")
    if label is not None and label != "cls" and not re.fullmatch("json:.+", label):
        raise click.UsageError(f"--label: expected cls or json:NAME, got {label!r}.")
    if table is not None:
        if folders is not None or layout is not None or annotations or no_labels:
            raise click.UsageError("--folders, --annotations, --layout and --no-labels go with --root alone.")
        options = TableOptions(label_separator=label_separator, zero=zero, minus_one=minus_one, **rest)
        path = describe_table(table, None if root is None else Path(root), name, manifests, options)
    elif annotations and layout is None or layout is not None and folders is not None:
        raise click.UsageError("--annotations goes with --layout, and --layout does not go with --folders.")
    elif no_labels and (folders is not None or layout is not None):
        raise click.UsageError("--no-labels goes without --folders and --layout: nothing but pictures is read.")
    elif root is None:
        raise click.UsageError("Missing option '--root' or '--table'.")
    elif is_elsewhere(root) and layout is not None:
        raise click.UsageError("--layout goes with a folder here: pictures from elsewhere are read without labels.")
    elif is_elsewhere(root) and no_labels:
        path = new_elsewhere_manifest(root, name, manifests, overwrite=rest["overwrite"], say=say)
    elif is_elsewhere(root):
        path = describe_elsewhere(root, name, manifests, label=label, say=say, **rest)
    elif label_separator is not None or zero is not None or minus_one is not None:
        raise click.UsageError("--label-separator, --zero and --minus-one go with --table alone.")
    else:
        shape = recognise_folder(Path(root), name, folders, on_error, layout, annotations, no_labels=no_labels)
        path = shape.write(Path(root), name, manifests, **rest)
    _say_what_is_measured(path)
    click.echo(f"{path}")
    say(f"next: {_next_command(path)}")


def _say_what_is_measured(path: Path) -> None:
    """Say on which splits heads are fitted and measured, and which pictures are in both."""
    from pipeline.dataset.manifest import load_manifest
    from pipeline.dataset.same_files import explain_same_files
    from pipeline.io.likeness import join_or

    manifest = load_manifest(path.stem, path.parent)
    if not manifest.has_labels or manifest.fit == manifest.eval:
        return
    others = [name for name, split in manifest.splits.items() if name not in (manifest.fit, manifest.eval)]
    unused = f"; --split measures {join_or(others)} in its place" if others else ""
    say(f"heads are fitted on {manifest.fit} and measured on {manifest.eval}{unused}")
    if note := explain_same_files(manifest):
        say(note)


def _next_command(path: Path) -> str:
    """The command after ``data new`` that works in the working folder, with or without the workflow."""
    from pipeline.dataset.manifest import load_manifest

    name = path.stem
    manifest = load_manifest(name, path.parent)
    if not manifest.has_labels:
        return (
            f"pipeline extract --dataset {name} --split {manifest.fit}; there are no labels, so no head can be fitted"
        )
    has_boxes = manifest.has_boxes
    without = "there are no boxes, so recipes that need them (strong) are left out"
    if Path("Snakefile").is_file():
        if has_boxes:
            return f"snakemake --cores 2 results/{name}_map.json"
        return f"snakemake --cores 2 results/{name}_compare.json; {without}"
    if not has_boxes:
        return f"pipeline compare --dataset {name} --recipe svm; {without}"
    steps = [f"extract --dataset {name} --split {split}" for split in (manifest.fit, manifest.eval)]
    steps += [f"{command} --dataset {name}" for command in ("fit-head", "score", "evaluate")]
    return " && ".join(f"pipeline {step}" for step in steps)
