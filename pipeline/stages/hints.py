"""How to make what is missing, in commands that can work in this folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.io.atomic import read_json


def name_way(target: str, commands: str) -> str:
    """Return how to make a file of results: by the workflow where its Snakefile is in this folder, or by commands.

    Parameters
    ----------
    target : the workflow's name of the file
    commands : of the command line, which work in every folder
    """
    return f"snakemake --cores 2 {target}, or {commands}" if Path("Snakefile").is_file() else commands


def name_command(*words: str) -> str:
    """Return the command of these words, as it is typed; its settings are those of the file that it makes.

    >>> name_command("data check", "my set", "--near")
    "pipeline data check 'my set' --near, with the same settings"
    """
    command, *arguments = words
    return f"pipeline {shlex.join([*command.split(), *arguments])}, with the same settings"


def read_if_sound(file: Path) -> Mapping[str, Any]:
    """Return what a file says of itself, to name the command that made it; nothing where it cannot be read."""
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
