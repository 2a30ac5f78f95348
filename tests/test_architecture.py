"""The house: which room may import which, what help costs, and that every command has some."""

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from pipeline.cli.main import COMMANDS, SECTIONS, cli

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "numpy", "pydantic", "zarr", "h5py", "PIL", "yaml", "rich")


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_a_room_imports_only_from_rooms_before_it():
    ended = run(sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Contracts: 1 kept, 0 broken." in ended.stdout


def test_every_room_and_module_is_in_the_contract():
    layers = (ROOT / "pyproject.toml").read_text()
    modules = {p.stem for p in (ROOT / "pipeline").glob("*.py")} - {"__init__"}
    rooms = {p.parent.name for p in (ROOT / "pipeline").glob("*/__init__.py")}

    missing = [name for name in sorted(modules | rooms) if f"pipeline.{name}" not in layers]
    assert not missing


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom pipeline.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )

    ended = run(sys.executable, "-c", code)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "LOADED []"
    assert "Usage: pipeline" in ended.stdout


def test_help_is_quick():
    seconds = []
    for _ in range(5):
        # User and system time: what the command costs, however busy the machine is.
        before = os.times()
        started = time.perf_counter()
        ended = run(sys.executable, "-m", "pipeline.cli.main", "--help")
        elapsed = time.perf_counter() - started
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        assert ended.returncode == 0
        seconds.append(min(elapsed, used))

    assert min(seconds) < 0.3, seconds


def all_commands() -> dict[str, click.Command]:
    """Every command and subcommand by its words."""
    found = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        found[name] = command
        if isinstance(command, click.Group):
            found.update({f"{name} {sub}": entry for sub, entry in command.commands.items()})
    return found


@pytest.mark.parametrize("name", all_commands())
def test_every_command_has_help_with_an_example(name):
    command = all_commands()[name]

    text = command.get_help(click.Context(command, info_name=f"pipeline {name}"))

    summary = (command.help or "").strip().splitlines()[0]
    assert summary.endswith(".") and len(summary) < 110
    assert "Example:" in text
    assert f"pipeline {name}" in text.split("Example:")[1]


def test_every_command_is_in_one_section_of_the_help():
    text = cli.get_help(click.Context(cli, info_name="pipeline"))

    listed = [name for section in SECTIONS.values() for name in section]
    assert sorted(listed) == sorted(set(listed))
    for name, (_, summary) in (item for section in SECTIONS.values() for item in section.items()):
        assert f"  {name} " in text
        assert " ".join(summary.split()[:3]) in text


def test_every_module_of_a_command_is_reachable():
    files = {p.stem for p in (ROOT / "pipeline/cli").glob("*.py")} - {"__init__", "main", "common"}

    assert files == {command.callback.__module__.rpartition(".")[2] for command in all_commands().values()}


def test_an_unknown_command_is_a_mistake_of_the_user():
    ended = run(sys.executable, "-m", "pipeline.cli.main", "extrakt")

    assert ended.returncode == 2
    assert "No such command 'extrakt'" in ended.stderr
