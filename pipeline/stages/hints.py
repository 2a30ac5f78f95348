"""How to make what is missing, in commands that can work in this folder."""

from __future__ import annotations

from pathlib import Path


def name_way(target: str, commands: str) -> str:
    """Return how to make a file of results: by the workflow where its Snakefile is in this folder, or by commands.

    Parameters
    ----------
    target : the workflow's name of the file
    commands : of the command line, which work in every folder
    """
    return f"snakemake --cores 2 {target}, or {commands}" if Path("Snakefile").is_file() else commands
