"""Options that several commands share, and the settings that they add up to."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.io import progress

if TYPE_CHECKING:
    from pipeline.stages.workspace import Workspace

Command = Callable[..., Any]


def say(text: str) -> None:
    """A line for the person at the terminal; results go to stdout, this to stderr, unless --quiet was given."""
    if not progress.quiet:
        click.echo(text, err=True)


def names_in(text: str, every: str) -> list[str]:
    """Names that are joined by commas; none for the word that stands for `every` one, or for those to be chosen.

    >>> names_in("ball, crate", "all"), names_in("all", "all")
    (['ball', 'crate'], [])
    """
    return [] if text == every else [name.strip() for name in text.split(",") if name.strip()]


def json_option(function: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def format_option(function: Command) -> Command:
    return click.option(
        "--format",
        "form",
        type=click.Choice(["table", "csv", "markdown", "latex", "json"]),
        default="table",
        show_default=True,
        help="For the terminal, for programs (csv, json) or for a paper.",
    )(function)


def echo_json(value: Any) -> None:
    """A result as JSON, on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def complete_dataset(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of datasets, for the shell."""
    from pipeline.dataset.manifest_places import known_datasets

    return [name for name in known_datasets() if name.startswith(incomplete)]


def complete_head(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of built-in heads, for the shell."""
    from pipeline.head.settings import HEADS

    return [name for name in HEADS if name.startswith(incomplete)]


def dataset_option(function: Command) -> Command:
    return click.option(
        "--dataset", required=True, help="Name of a manifest in data_manifests/.", shell_complete=complete_dataset
    )(function)


def split_option(required: bool) -> Callable[[Command], Command]:
    text = "Split of the dataset" + ("." if required else "; default: its evaluation split.")
    return click.option("--split", required=required, help=text)


def pictures_options(function: Command) -> Command:
    """``--dataset`` and ``--split``, or ``--root``: a folder of pictures, as it is."""
    options = [
        click.option("--dataset", help="Name of a manifest in data_manifests/.", shell_complete=complete_dataset),
        click.option("--split", help="Split of the dataset; may be left out where it has one alone."),
        click.option(
            "--root",
            help="In place of --dataset: pictures without labels: a folder, a URL, a list of URLs, or tar archives "
            "('shard-{000..012}.tar'). The manifest is made.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def find_pictures(ws: Workspace, dataset: str | None, split: str | None, root: str | None) -> tuple[str, str]:
    """Return dataset and split of `pictures_options`; write the manifest of a folder that has none.

    Raises
    ------
    click.UsageError
        Neither of both, or a split that must be named.
    """
    from pipeline.dataset.describe.pictures import manifest_of_folder
    from pipeline.dataset.manifest import load_manifest

    if dataset is None and root is None:
        raise click.UsageError("Missing option '--dataset' or '--root'.")
    if dataset is not None and root is not None:
        raise click.UsageError("--root goes without --dataset: it is the folder of a dataset of its own.")
    if root is not None:
        dataset = manifest_of_folder(root, Path("data_manifests"), say).stem
        if ws.settings.source == "grid":
            say("a row per window of a grid of several scales; --source whole: a row per picture")
    assert dataset is not None
    if split is None:
        splits = list(load_manifest(dataset).splits)
        if len(splits) > 1:
            raise click.UsageError(f"Missing option '--split': dataset {dataset} has {', '.join(splits)}.")
        split = splits[0]
    return dataset, split


def head_option(function: Command) -> Command:
    return click.option(
        "--head",
        "heads",
        multiple=True,
        help="Head by name (fca, fcb, fca2, weak, svm, ... or configured); may be given again.",
        shell_complete=complete_head,
    )(function)


class CommonOption(click.Option):
    """An option that many commands have: in a command's help it stands below the command's own, in its section.

    Parameters
    ----------
    section : heading of the section
    """

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


COMMON_SECTIONS: dict[str, list[tuple[tuple[str, ...], dict[str, Any]]]] = {
    "Settings and folders": [
        (
            ("--config",),
            {"type": click.Path(dir_okay=False), "help": "YAML file with settings; options win over it."},
        ),
        (("--data-root",), {"help": "Folder that holds VOC2012/ or VOCdevkit/VOC2012/."}),
        (("--cache",), {"help": "Folder of patch tables and stores; default: cache."}),
        (("--stores",), {"help": "Folder or URL (s3://bucket/prefix) of the stores; default: the cache folder."}),
        (("--results",), {"help": "Folder of heads, scores and results; default: results."}),
    ],
    "Trunk and patches": [
        (
            ("--trunk",),
            {"help": "alexnet64, random, alexnet, torchvision/NAME@LAYER, timm/NAME@LAYER, a card, ..."},
        ),
        (("--layer",), {"help": "pool5, fc6 or fc7; of other trunks a node: pipeline trunk show NAME lists them."}),
        (("--weights",), {"help": "safetensors file with the trunk's weights."}),
        (("--source",), {"help": "What a row is: grid, windows of several scales (default), whole, or crops."}),
        (("--method",), {"help": "patches, or dense: convolutions once over each rescaled picture."}),
        (("--on-error",), {"help": "Bad pictures: fail (list them all) or skip (record them)."}),
        (("--trunk-seed",), {"type": int, "help": "Of trunks that are drawn or made here; default: 0."}),
    ],
    "Stores": [
        (("--rows",), {"help": "Of the fit split: all, or labelled, those alone that the main head learns from."}),
        (("--dtype",), {"help": "What a store keeps: float16, or 8bit codes over each column's range."}),
        (("--codec",), {"help": "How new stores compress, without loss: small, fast or zstd."}),
    ],
    "Heads and scores": [
        (("--single-object",), {"help": "Reading of condition (iii): fills or touches."}),
        (("--k",), {"help": "Power of the mean, or max; default: 5."}),
        (("--seed",), {"type": int, "help": "Of heads and samples; default: 0."}),
    ],
    "Machine": [
        (("--device",), {"help": "auto, cpu, cuda or cuda:N."}),
        (("--head-device",), {"help": "Of heads: auto, cpu, cuda or cuda:N."}),
        (("--precision",), {"help": "auto, fp32, bf16 or fp16."}),
        (("--backend",), {"help": "Library that runs the trunk: auto, torch or openvino (on a CPU)."}),
        (
            ("--compiled/--not-compiled",),
            {"default": None, "help": "Compile the trunk: faster, needs a C++ compiler."},
        ),
        (("--batch",), {"type": int, "help": "Patches that go through the trunk at once."}),
        (("--threads",), {"type": int, "help": "Default: one per core."}),
    ],
}
"""Settings that are often given by hand, by the section of the help."""


def settings_options(function: Command) -> Command:
    """``--config`` and the settings that are often given by hand; both end in one `RunSettings`."""
    options = [
        click.option(*names, cls=CommonOption, section=section, **form)
        for section, entries in COMMON_SECTIONS.items()
        for names, form in entries
    ]
    for option in reversed(options):
        function = option(function)
    return function


def write_options_by_section(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options of a command's help: its own first, then those of many commands in their sections."""
    own: list[tuple[str, str]] = []
    common: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
        if record is not None:
            rows = common.setdefault(param.section, []) if isinstance(param, CommonOption) else own
            rows.append(record)
    for title, rows in {"Options": own, **common}.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def workspace_from(options: dict[str, Any]) -> Workspace:
    """Settings from ``--config`` and options, checked, all mistakes at once.

    Raises
    ------
    SettingsError
    """
    from pipeline.io.errors import SettingsError
    from pipeline.io.messages import brief
    from pipeline.io.yaml import read_mapping
    from pipeline.stages.parse_settings import parse_run_settings
    from pipeline.stages.workspace import Workspace

    values: dict[str, Any] = {}
    config = options.pop("config", None)
    if config is not None:
        values = read_mapping(Path(config))
    single_object = options.pop("single_object", None)
    if single_object is not None and isinstance(values.get("labels") or {}, dict):  # if not, the check below says so
        values["labels"] = {**(values.get("labels") or {}), "single_object": single_object}
    k = options.pop("k", None)
    if k is not None:
        try:
            values["aggregation"] = k if k == "max" else float(k)
        except ValueError as error:
            raise SettingsError(f"--k: expected a number or max, got {brief(k)}") from error
    values.update({name: value for name, value in options.items() if value is not None})
    return Workspace(parse_run_settings(values, config or "settings"))


def check_output(output: Path | None, kind: str, results: Sequence[str] = ()) -> None:
    """Refuse a file for a result that would replace something else, such as the scores that are measured.

    Parameters
    ----------
    kind : of the result, see `pipeline.views.tables.results.KINDS`; ``page`` of a report
    results : names of those that would be written to it, where there may be several

    Raises
    ------
    SettingsError
    """
    from pipeline.io.errors import SettingsError

    if output is None:
        return
    if len(results) > 1:
        raise SettingsError(f"--output takes the result of one head, got {', '.join(results)}; give --head once")
    if output.exists() and not _is_of_kind(output, kind):
        what = "a report" if kind == "page" else "such a result"
        raise SettingsError(f"--output {output}: there already, and not {what}; remove it, or choose another name")


def _is_of_kind(file: Path, kind: str) -> bool:
    from pipeline.io.atomic import read_json
    from pipeline.views.tables.results import kind_of

    if not file.is_file():
        return False
    if kind == "page":
        with open(file, "rb") as stream:
            return stream.read(100).lstrip().lower().startswith(b"<!doctype html>")
    try:
        return kind_of(read_json(file)) == kind
    except (OSError, ValueError):
        return False


scheduler_option = click.option(
    "--scheduler",
    help="Spread extraction and scoring: local:N processes, or a dask scheduler such as tcp://HOST:8786.",
)


def parse_share(text: str) -> tuple[int, int]:
    """Read ``I/N``, the value of --share.

    Raises
    ------
    SettingsError
    """
    from pipeline.io.errors import SettingsError
    from pipeline.io.numbers import parse_count

    index, count = map(parse_count, text.partition("/")[::2])
    if index is None or count is None or index > count:
        raise SettingsError(f"--share: expected I/N with 1 <= I <= N, such as 2/4, got {text!r}")
    return index, count


def this_command() -> str:
    """The command line as it was given."""
    return shlex.join(["pipeline", *sys.argv[1:]])
