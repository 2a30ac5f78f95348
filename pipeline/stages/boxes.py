"""On a dataset without boxes or labels: what needs them is refused before any work, with what works in its place."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.dataset.manifest import Manifest
from pipeline.io.errors import DatasetError
from pipeline.stages.settings import RunSettings


def refuse_without_boxes(manifest: Manifest, who: str, instead: str) -> None:
    """Refuse what learns from patches whose labels follow from boxes, where the dataset has none.

    Parameters
    ----------
    who : what needs boxes
    instead : what works, such as "use --head svm"

    Raises
    ------
    DatasetError
    """
    refuse_without_labels(manifest, who)
    if not manifest.has_boxes:
        raise DatasetError(
            f"{who} needs boxes, and dataset {manifest.name} has none, only labels of pictures; {instead}"
        )


def refuse_without_labels(manifest: Manifest, who: str) -> None:
    """Refuse what learns from labels or measures by them, where the dataset has none.

    Parameters
    ----------
    who : what needs labels

    Raises
    ------
    DatasetError
    """
    if not manifest.has_labels:
        name, split = manifest.name, manifest.fit
        raise DatasetError(
            f"{who} needs labels, and dataset {name} has none (layout: pictures)\nyou can:\n"
            f"  - extract and take the features along: pipeline extract --dataset {name} --split {split}, then "
            f"pipeline export --dataset {name} --split {split} --to FILE.parquet\n"
            f"  - find the pictures most like another one: pipeline retrieve --dataset {name} --query PHOTO\n"
            "  - give labels: a table with the columns picture,label, or a folder per class, and pipeline data new "
            "under another name"
        )


def check_heads(manifest: Manifest, settings: RunSettings, heads: Iterable[str], setting: str = "") -> None:
    """Refuse heads that cannot be fitted on a dataset.

    Parameters
    ----------
    setting : that names the heads, for the message; empty where an option does

    Raises
    ------
    DatasetError
        A head needs boxes, and the dataset has none; the message names the heads that work.
    SettingsError
        A head that is not known.
    """
    for name in heads:
        refuse_without_labels(manifest, f"head {name!r}")
    able = ", ".join(heads_without_boxes(settings)) + (f" (setting {setting})" if setting else "")
    for name in heads:
        if settings.head_settings(name).needs_boxes:
            refuse_without_boxes(manifest, f"head {name!r}", f"heads that work: {able}")
    check_trunk(manifest, settings)


def check_trunk(manifest: Manifest, settings: RunSettings) -> None:
    """Refuse the trunk that is trained on the dataset's labelled patches, where there are none.

    Raises
    ------
    DatasetError
    """
    if settings.trunk == "no-pretrain":
        refuse_without_boxes(
            manifest,
            "trunk 'no-pretrain', which learns from patches,",
            "use another trunk, such as alexnet64 or fisher",
        )


def heads_without_boxes(settings: RunSettings) -> list[str]:
    """Return the known heads that learn from labels of pictures alone, the default one first."""
    names = [
        name for name, head in settings.known_heads.items() if not (head.needs_boxes or head.grid or head.kind == "own")
    ]
    return sorted(names, key=lambda name: name != settings.main_head(False))
