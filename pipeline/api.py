"""The interface for Python: what `import pipeline` offers, without the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.activations.features import Features
from pipeline.activations.folder import Folder
from pipeline.activations.store import Store
from pipeline.io.yaml import read_mapping
from pipeline.scoring.scores import SplitScores
from pipeline.scoring.scores_file import load_scores as _load_scores
from pipeline.stages import score, stored
from pipeline.stages.context import RunContext
from pipeline.stages.fit_head import find_head
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.workspace import Workspace
from pipeline.views.photos import PhotoReader


def open_workspace(config: str | Path | None = None, **values: Any) -> Workspace:
    """Settings of a run, as ``--config`` and the options of the commands give them.

    Parameters
    ----------
    config : YAML file of settings
    values : settings by name, which win over the file; ``pipeline extract --help`` lists the common ones

    Returns
    -------
    Workspace
        The settings and the names of all files that follow from them.

    Raises
    ------
    SettingsError
        All mistakes at once.

    Examples
    --------
    >>> import pipeline
    >>> pipeline.open_workspace(trunk="random", aggregation=3).settings.trunk
    'random'
    """
    given = read_mapping(Path(config)) if config is not None else {}
    return Workspace(parse_run_settings({**given, **values}, str(config or "settings")))


def open_store(place: str | Path | Folder) -> Features:
    """Open a sealed store by its path or URL: rows and geometry, no labels.

    Raises
    ------
    StoreError
        Not a store, not complete, or damaged.
    """
    return Features(Store(place))


def open_features(dataset: str, split: str, config: str | Path | None = None, **values: Any) -> Features:
    """Open the kept activations of a split, joined with its patch table.

    Parameters
    ----------
    config, values : as of `open_workspace`; those under which the split was extracted

    Raises
    ------
    StoreError
        Not extracted yet; the message names the command.
    """
    return stored.open_features(RunContext(open_workspace(config, **values), dataset), split)


def open_photo_reader(
    dataset: str, head: str | None = None, config: str | Path | None = None, **values: Any
) -> PhotoReader:
    """A fitted head with its trunk, for photos that are in no dataset: ``reader.look(path)``.

    Parameters
    ----------
    dataset : on whose fit split the head was fitted
    head : its name, or its file; None for the configured one

    Raises
    ------
    HeadError
        Not fitted yet, or not by these settings.
    """
    ws = open_workspace(config, **values)
    return PhotoReader(ws, find_head(ws, RunContext(ws, dataset), head))


def load_scores(
    dataset: str,
    split: str | None = None,
    head: str | None = None,
    config: str | Path | None = None,
    **values: Any,
) -> SplitScores:
    """Scores of a split's pictures: ``scores.by(5.0)`` is an array (n_pictures, n_classes).

    Raises
    ------
    StoreError
        Not scored yet.
    """
    run = RunContext(open_workspace(config, **values), dataset)
    return _load_scores(score.path(run, head or run.head, split))
