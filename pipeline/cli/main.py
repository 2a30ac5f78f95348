"""``pipeline``: the group of commands, loaded one at a time, and the exit codes.

0 done; 1 a bug (traceback); 2 something that the user can fix; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from types import MethodType
from typing import Any

import click

from pipeline.cli import signals
from pipeline.cli.common import write_options_by_section
from pipeline.version import __version__

# In the order of the flow: the help reads as the story of the six rooms.
SECTIONS = {
    "Dataset": {"data": ("data", "Fetch, check or describe a dataset.")},
    "Patches": {"patches": ("patches", "Decode every picture and plan the patches of a split.")},
    "Trunk": {
        "trunk": ("trunk", "List, describe, import or make frozen networks."),
        "pretrain": ("pretrain", "Train a trunk on class folders, or on a dataset's patches."),
    },
    "Activations": {
        "extract": ("extract", "Run the trunk once over a split and cache its activations."),
        "cache": ("cache", "List, verify, repair and free what is cached."),
        "import-features": ("import_features", "Take rows that were made elsewhere as those of a split."),
        "export": ("export", "Write activations into a file of another program."),
        "plan": ("plan", "Hours, dollars, bytes and files of an extraction before it runs."),
    },
    "Head": {"fit-head": ("fit_head", "Fit heads on cached activations.")},
    "Scoring": {
        "score": ("score", "Score the pictures of a split with fitted heads."),
        "evaluate": ("evaluate", "Average precision from scores, or files for the evaluation server."),
        "localise": ("localise", "Measure boxes drawn from heat maps: CorLoc, and AP of detection."),
        "recipe": ("recipe", "List, show and run named systems over the same activations."),
        "compare": ("compare", "Compare recipes, with published rows below."),
        "curve": ("curve", "Measure recipes fitted on more and more pictures: learning curves."),
        "ladder": ("ladder", "Measure the same recipes on one trunk after another."),
        "sweep": ("sweep", "Choose head, reading and k on held-out fit pictures."),
        "retrieve": ("retrieve", "Find the pictures of a split that are most like a query."),
        "show": ("show", "Print a result file as a table."),
        "results": ("results", "List all results in one table."),
    },
    "Pictures": {
        "report": ("report", "Write one HTML file of a finished run."),
        "map": ("map", "Draw heat maps: where in photos each class is seen."),
        "ranking": ("ranking", "Draw the highest pictures of each class, right and wrong."),
        "taught": ("taught", "Draw the patches that a head is trained on, with their labels."),
        "serve": ("serve", "Try photos by hand, on a page in the browser."),
    },
    "Machine": {
        "demo": ("demo", "Run the whole job on drawn pictures."),
        "doctor": ("doctor", "Check what a run needs, and estimate its time."),
        "completion": ("completion", "Print the shell's completion of commands and options."),
    },
}
MENDABLE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and start the same command again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check the rights of file and folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is where a folder is needed; choose another one"),
    errno.EISDIR: "a folder is where a file is needed; move it away, or choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "links that lead in a circle; fix them",
}
"""What a user can do about errors of files and folders that no command has words of its own for."""
COMMANDS = {name: module for section in SECTIONS.values() for name, (module, _) in section.items()}


def _be_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    from pipeline.io import progress

    progress.quiet = progress.quiet or value


def _can_be_quiet(command: click.Command) -> None:
    """Give a command, or all commands of a group, the option --quiet."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _can_be_quiet(inner)
    elif not any("--quiet" in param.opts for param in command.params):
        text = "Results and errors alone: no progress, no notes."
        command.params.append(
            click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_be_quiet, help=text)
        )


def _group_options(command: click.Command) -> None:
    """Let the help of a command, or of all commands of a group, have its own options first."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _group_options(inner)
    else:
        # Of all commands alike, whatever their class: a command of its own class would be forgotten somewhere.
        command.format_options = MethodType(write_options_by_section, command)  # type: ignore[method-assign]


def _expand_homes(command: click.Command) -> None:
    """Let ``~`` in the paths of a command, or of all commands of a group, be the home folder."""
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _expand_homes(inner)
    for param in command.params:
        if isinstance(param.type, click.Path) and not isinstance(param.type, HomePath):
            param.type = HomePath(param.type)


class HomePath(click.Path):
    """A path option that expands ``~``.

    Parameters
    ----------
    path : the type of the option, whose checks apply to the expanded path
    """

    def __init__(self, path: click.Path) -> None:
        self.__dict__.update(vars(path))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pipeline.io.names import expand_home

        try:
            expanded = type(value)(expand_home(os.fspath(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return super().convert(expanded, param, ctx)


def _never_fail_to_print() -> None:
    """Print characters that the terminal's encoding lacks as ``\\x``: no command ends because of a name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")


class LazyGroup(click.Group):
    """Imports a command's module when it is called, so that help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"pipeline.cli.{COMMANDS[name]}").command
        _can_be_quiet(command)
        _expand_homes(command)
        _group_options(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, (_, summary) in commands.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pipeline")
@click.option("--debug", is_flag=True, help="Show the traceback of errors that you can fix, too.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Image classification on frozen CNN features, computed once and cached.

    Pictures with boxes go in; patches are cut, a frozen network runs once on each, and its
    activations are cached. Every head, aggregation and result after that reads the cache.

    \b
    The whole run:   snakemake --cores 8 results/voc12_map.json
    Step by step:    pipeline data fetch demo
                     pipeline extract --dataset demo --split train
                     pipeline extract --dataset demo --split val
                     pipeline fit-head --dataset demo
                     pipeline score --dataset demo
                     pipeline evaluate --dataset demo
    """
    ctx.obj = {"debug": debug}


def _read_names_as_utf8() -> None:
    """Start again in Python's UTF-8 mode where file names would be read as anything else, such as under LANG=C.

    Python chooses this mode itself under LANG=C, unless PYTHONUTF8=0 says otherwise, and not under ISO-8859-1. Names of
    classes come from file names, which are UTF-8 nearly everywhere; the workers of a command inherit the mode.
    """
    if sys.getfilesystemencoding().lower() != "utf-8" and os.environ.get("PYTHONUTF8") != "1" and os.name == "posix":
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})


def main(argv: list[str] | None = None) -> Any:
    """Entry point: turn mendable errors into one message and exit code 2."""
    if argv is None:
        _read_names_as_utf8()
    from pipeline.io import progress
    from pipeline.io.errors import PipelineError

    progress.quiet = False
    _never_fail_to_print()
    arguments = sys.argv[1:] if argv is None else argv
    # click leaves colours out where there is no terminal; these two say that a terminal shall not, or cannot show any.
    color = False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
    debug = "--debug" in arguments or bool(os.environ.get("PIPELINE_DEBUG"))
    try:
        with signals.sigterm_as_interrupt():
            cli.main(args=arguments, prog_name="pipeline", standalone_mode=False, color=color)
    except SystemExit as end:
        # click ends so on its own where the reader of our output went away.
        sys.exit(141 if isinstance(end.__context__, BrokenPipeError) else end.code)
    except PipelineError as error:
        if debug:
            raise
        click.secho(f"error: {error}", fg="red", err=True, color=color)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        click.secho(
            "interrupted: what is recorded is kept; start the same command again to resume",
            fg="yellow",
            err=True,
            color=color,
        )
        sys.exit(signals.exit_code_of(error))
    except BrokenPipeError:
        # The reader of our output went away (head, less): nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except MemoryError as error:
        if debug:
            raise
        click.secho(
            f"error: out of memory{f': {error}' if str(error) else ''}; close other programs, use fewer --threads or a "
            "smaller --batch (another batch size is another store), and start the same command again to go on",
            fg="red",
            err=True,
            color=color,
        )
        sys.exit(2)
    except OSError as error:
        if debug or error.errno not in MENDABLE:
            raise
        click.secho(
            f"error: {error.filename or 'writing'}: {error.strerror}; {MENDABLE[error.errno]}",
            fg="red",
            err=True,
            color=color,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
