"""On a dataset without boxes: what needs boxes is refused before any work, with what works in its place."""

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
    if not manifest.has_boxes:
        raise DatasetError(
            f"{who} needs boxes, and dataset {manifest.name} has none, only labels of pictures; {instead}"
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
    names = [name for name, head in settings.known_heads.items() if not head.needs_boxes and head.kind != "own"]
    return sorted(names, key=lambda name: name != settings.main_head(False))
