"""Examples of commands: those in their help, and those on the pages of the documentation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.cli.main import cli

CHECKOUT = Path(__file__).resolve().parents[2]


def all_commands(command: click.Command = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from all_commands(found, (*words, name))


def examples_of(words: tuple[str, ...]) -> list[str]:
    """Examples in the help of a command, a line each."""
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    _, _, block = inspect.cleandoc(command.help or "").partition("\b\nExample:\n")
    return [line.strip() for line in block.partition("\n\n")[0].splitlines() if line.strip()]


def lines_of_page(path: Path) -> list[str]:
    """Command lines in the code blocks of a page, with continued lines joined."""
    text = path.read_text()
    blocks = [
        body
        for language, body in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.S | re.M)
        if language in ("", "sh", "bash", "console")
    ]
    joined = re.sub(r"\\\n\s*", "", "\n".join(blocks))
    return [line.strip().removeprefix("$ ") for line in joined.splitlines() if line.strip()]
