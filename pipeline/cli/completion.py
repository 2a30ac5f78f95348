"""``pipeline completion``."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what a shell needs to complete commands, options, datasets and heads.

    \b
    Example:
      pipeline completion bash > ~/.local/share/bash-completion/completions/pipeline
      pipeline completion fish > ~/.config/fish/completions/pipeline.fish
      eval "$(pipeline completion zsh)"
    """
    from click.shell_completion import get_completion_class

    from pipeline.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None  # one of the choices above
    click.echo(found(cli, {}, "pipeline", "_PIPELINE_COMPLETE").source())
