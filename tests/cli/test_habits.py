"""What is the same for all commands: quiet, JSON, completion, the doctor."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.table import Table

from pipeline.cli.common import COMMON_SECTIONS
from pipeline.cli.show import print_table


def test_quiet_leaves_results_and_errors(run):
    loud, quiet = (run(f"fit-head --dataset tiny --config config.yaml {flag}") for flag in ("", "--quiet"))
    assert loud.out == quiet.out and loud.err and not quiet.err
    ended = run("fit-head --dataset nosuch --quiet")
    assert ended.code == 2 and "nosuch" in ended.err
    assert run("cache ls --quiet").code == 0  # of a group within the group


def test_evaluate_as_json(run, work):
    one = json.loads(run("evaluate --dataset tiny --config config.yaml --json").out)
    assert one["head"] == "fca" and one["mAP"] is not None
    both = json.loads(run("evaluate --dataset tiny --config config.yaml --head fca --head fcb --json").out)
    assert [result["head"] for result in both] == ["fca", "fcb"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(run, shell):
    ended = run(f"completion {shell}")
    assert ended.code == 0 and "_PIPELINE_COMPLETE" in ended.out


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("pipeline ext", {"extract"}),
        ("pipeline score --dataset de", {"demo", "demo_action", "demo_action_pictures"}),
        ("pipeline score --head fc", {"fca", "fcb", "fca2"}),
        ("pipeline cache re", {"repair"}),
        ("pipeline extract --qui", {"--quiet"}),
    ],
)
def test_completion_knows_commands_options_and_names(typed, expected, tmp_path):
    words = typed.split()
    env = {
        **os.environ,
        "_PIPELINE_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    found = {line.partition(",")[2] for line in ended.stdout.splitlines()}
    assert found == expected, ended.stderr


def test_doctor_finds_all_that_a_run_needs(run):
    ended = run("doctor --dataset tiny --config config.yaml --json")
    findings = {item["what"]: item for item in json.loads(ended.out)}
    assert ended.code == 0
    assert findings["tiny train"]["found"].startswith("6 pictures, 102 patches")
    assert findings["trunk"]["state"] == "ok"
    assert {"Python", "libraries", "CPU", "memory", "GPU", "cache", "results"} <= set(findings)


def test_doctor_names_what_is_missing_and_its_mend(run, work):
    ended = run("doctor --dataset tiny --trunk krizhevsky --data-root nowhere --device cuda")
    assert ended.code == 2
    for words in ("BAD  trunk", "BAD  tiny train", "pipeline data check tiny", "BAD  GPU"):
        assert words in ended.out, ended.out


def test_doctor_says_when_the_disk_is_too_small(run, monkeypatch):
    monkeypatch.setattr("pipeline.activations.folder.LocalFolder.free_bytes", lambda self: 1000)
    ended = run("doctor --dataset tiny --trunk alexnet64")
    assert ended.code == 2 and "BAD  the run's disk" in ended.out and "--stores" in ended.out


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("data list", "tiny"),
        ("compare --dataset tiny --heads --config config.yaml", "recipes"),
        ("sweep --dataset tiny --config config.yaml", "chosen"),
        ("trunk show alexnet64", "weights"),
        ("cache ls", 0),
        ("recipe ls --config config.yaml", 0),
        ("plan --images 1000", "stages"),
        ("doctor", 0),
    ],
)
def test_what_reports_can_report_as_json(run, line, key):
    ended = run(f"{line} --json")
    assert ended.code in (0, 2), ended.err
    assert json.loads(ended.out)[key] is not None


def test_help_has_the_options_of_a_command_before_those_of_all(run):
    for line in ("map", "cache ls", "evaluate", "recipe run"):
        text = run(f"{line} --help").out
        own, common = text.index("\nOptions:"), text.index("\nSettings and folders:")
        assert own < text.index("--quiet") < common < text.index("--config") < text.index("\nMachine:")
        assert max(map(len, text[own:].splitlines())) <= 80
    every = [option for options in COMMON_SECTIONS.values() for (name, *_), _ in options for option in name.split("/")]
    assert all(option in text for option in every) and len(every) == len(set(every))


@pytest.mark.parametrize("width", [40, 80])
def test_a_table_that_is_too_wide_is_printed_as_blocks(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    table = Table(show_footer=True)
    for name, footer in (("store", "all"), ("rows", "3"), ("state", "")):
        table.add_column(name, footer=footer)
    table.add_row("a" * 72, "1", "sealed")
    table.add_row("b", "2", "a state of several words that are folded")
    print_table(table)
    out = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= width
    flat = out.replace("\n", "")
    assert "a" * 72 in flat and "sealed" in out and "all" in out and "\u2503" not in out
    narrow = Table("store", "rows")
    narrow.add_row("a store", "1")
    print_table(narrow)
    assert "\u2503" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "is_colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_are_left_out_where_they_are_not_wanted(variables, is_colored, tmp_path):
    """On a terminal, which the command takes a pseudo-terminal for."""
    inner, outer = pty.openpty()
    env = {**os.environ, "TERM": "xterm", **variables}
    env = {name: value for name, value in env.items() if name != "NO_COLOR" or name in variables}
    command = [sys.executable, "-m", "pipeline.cli.main", "patches", "--dataset", "nosuch", "--split", "train"]
    ended = subprocess.run(command, env=env, stderr=outer, stdout=subprocess.DEVNULL, cwd=tmp_path, timeout=60)
    os.close(outer)
    said = os.read(inner, 10_000).decode()
    os.close(inner)
    assert ended.returncode == 2 and "nosuch" in said and ("\x1b[31m" in said) == is_colored
