"""A run context: what one command has opened. Each input is read and checked once per command."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.dataset.read import read_split
from pipeline.dataset.split import Split
from pipeline.io.progress import Say, silent
from pipeline.patches.table import PatchTable
from pipeline.stages.boxes import refuse_without_labels
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace


@dataclass
class Opened:
    """Inputs that were opened, by what names them, and what was said; shared by all workspaces of one command."""

    manifest: Manifest | None = None
    splits: dict[tuple[str, str | None, str], Split] = field(default_factory=dict)
    tables: dict[Path, PatchTable] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class RunContext:
    """One dataset under one set of settings, for the length of one command.

    It opens inputs and remembers them. It names no file (`Workspace` does), decides nothing (the stages do)
    and draws nothing.

    Parameters
    ----------
    ws : settings and names of files
    dataset : name of a manifest
    say : takes lines for the user
    command : the command line of the user, recorded in results
    scheduler : of dask, over which extractions and scorings are spread; None for this process
    """

    ws: Workspace
    dataset: str
    say: Say = silent
    command: str = ""
    scheduler: str | None = None
    opened: Opened = field(default_factory=Opened, repr=False, compare=False)

    def on(self, ws: Workspace) -> RunContext:
        """Return the context of the same dataset under other settings, with the same opened inputs."""
        return replace(self, ws=ws)

    @property
    def settings(self) -> RunSettings:
        return self.ws.settings

    @property
    def manifest(self) -> Manifest:
        """The dataset's manifest.

        Raises
        ------
        SettingsError
            There is no such manifest, or it is malformed.
        """
        if self.opened.manifest is None:
            self.opened.manifest = load_manifest(self.dataset)
        return self.opened.manifest

    def facts_of_roles(self) -> list[Any]:
        """Return what the manifest says beside its pictures that decides a result: metric, roles, counts, classes."""
        entry = self.manifest
        roles = (entry.fit, entry.eval)
        pictures = [entry.splits[role].pictures for role in roles]
        return [entry.metric, *roles, entry.official, pictures, list(entry.unscored), list(entry.classes)]

    @property
    def head(self) -> str:
        """Name of the main head on this dataset; says once where it is not the usual one, for want of boxes.

        Raises
        ------
        SettingsError
            There is no such manifest, or it is malformed.
        DatasetError
            The dataset has no labels.
        """
        refuse_without_labels(self.manifest, "a head")
        head = self.settings.main_head(self.manifest.has_boxes)
        if head != self.settings.head:
            self._say_once(f"the main head is {head}; --head for another")
        return head

    @property
    def compared_heads(self) -> tuple[str, ...]:
        """Names of the heads that are compared; says once where they are not the usual ones, for want of boxes.

        Raises
        ------
        SettingsError
            There is no such manifest, or it is malformed.
        DatasetError
            The dataset has no labels.
        """
        refuse_without_labels(self.manifest, "a comparison of heads")
        heads = self.settings.compared_heads(self.manifest.has_boxes)
        if heads != self.settings.compare:
            self._say_once(f"the compared heads are {', '.join(heads)}; setting compare for others")
        return heads

    def _say_once(self, what: str) -> None:
        """Say what follows from the want of boxes, once per command."""
        if what not in self.opened.said:
            self.say(f"{self.dataset}: no boxes, only labels of pictures, so {what}")
            self.opened.said.add(what)

    def split(self, name: str) -> Split:
        """Return a split: its pictures, objects and labels.

        Raises
        ------
        MissingDataError, DatasetError
        """
        key = (name, self.settings.data_root, self.settings.on_error)
        if key not in self.opened.splits:
            self.opened.splits[key] = read_split(self.manifest, *key)
        return self.opened.splits[key]
