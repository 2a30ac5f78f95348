"""The help of every command, as people and scripts read it."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.testing import CliRunner
from surface import cli

WIDTH = 100


def all_commands(command: click.Command = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of the group, of every command and of every command below one."""
    command._help_option = None  # click keeps the one of whichever context was asked first
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from all_commands(command.get_command(context, name), (*words, name))


def help_of(words: tuple[str, ...]) -> str:
    ended = CliRunner().invoke(
        cli, [*words, "--help"], prog_name="pipeline", terminal_width=WIDTH, max_content_width=WIDTH, color=False
    )
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_every_command_keeps_its_help(golden):
    texts = {"-".join(("pipeline", *words)) + ".txt": help_of(words) for words in all_commands()}

    golden.check_files("help", set(texts))
    for name, text in texts.items():
        golden.check_text(f"help/{name}", text)


def test_every_option_keeps_its_form(golden):
    """Names, type, default and whether it is required: what help does not say."""
    options = {}
    for words in all_commands():
        context = click.Context(cli)
        command = cli
        for word in words:
            command = command.get_command(context, word)
        options[" ".join(("pipeline", *words))] = [form_of(param) for param in command.params]
    golden.check_json("options.json", options)


def form_of(param: click.Parameter) -> str:
    flags = [name for name in ("required", "multiple", "is_flag", "hidden") if getattr(param, name, False)]
    default = "" if isinstance(param, click.Argument) or callable(param.default) else f" = {plain(param.default)}"
    names = "/".join((*param.opts, *param.secondary_opts))
    return " ".join([f"{names}: {param.type.name}{default}", *flags, f"nargs {param.nargs}"])


def plain(default: object) -> str:
    """A default, however click says that there is none."""
    return "none" if default is None or "Sentinel" in type(default).__name__ else repr(default)
