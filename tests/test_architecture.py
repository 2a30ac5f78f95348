"""The house: which room may import which, how long modules are, what help costs, and that every command has some."""

import ast
import functools
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipeline.cli.main import COMMANDS, SECTIONS, cli

ROOT = Path(__file__).resolve().parents[1]

# Exceptions to the rules below. None may be added without a reason; what no longer needs one is struck.

MAX_MODULE_LINES = 350
LONG_MODULES = {
    "dataset/demo/figures.py",
    "trunk/pretrain/training.py",
}
MAX_BODY_LINES = 60
LONG_FUNCTIONS: set[str] = set()
MAX_PARAMETERS = 8
"""Without ``self``. Of a command they are its options, and have no limit."""
MANY_PARAMETERS = {
    "head/classifier.py:__init__",
    "head/fit.py:fit_heads",
    "stages/pretrain.py:pretrain_on_folders",
}
IMPORTS_IN_FUNCTIONS = {
    # Seconds of imports that most runs do not need.
    "stages/extract.py": {"pipeline.activations.dask_engine"},
    "dataset/fetch.py": {"pipeline.dataset.demo.actions", "pipeline.dataset.demo.scenes"},
    # Planning needs no torch; the doctor reports a torch that is broken.
    "preflight/doctor.py": {"pipeline.trunk.runner"},
}
IMPORTS_FOR_TYPES = {"__init__.py"}
"""Modules that import others of this package under ``TYPE_CHECKING``: ``import pipeline`` is lazy."""
NAMES_WITH_A = {
    # Keys of costs.yaml.
    "bytes_a_row",
    "disk_bytes_a_unit",
    "memory_bytes_a_row",
    # Of pydantic's validators: here "a" does not stand for "per".
    "_is_a_head_or_a_join",
    "_there_is_a_crop",
    "_trunk_is_a_name_or_a_card",
}
"""Identifiers that say "a" where others say "per"."""
WITHOUT_TORCH = (
    "io.atomic",
    "io.model",
    "metrics.average_precision",
    "metrics.bootstrap",
    "dataset.read",
    "patches.table",
    "stages.settings",
    "stages.workspace",
    "stages.patches",
    "recipes.catalogue",
    "preflight.plan",
    "preflight.costs",
)
"""Modules that planning, listing and "nothing to do" need: torch costs seconds."""
STAGES = {
    "patches": "patches",
    "trunk": "trunk make",
    "extract": "extract",
    "fit_head": "fit-head",
    "score": "score",
    "evaluate": "evaluate",
    "sweep": "sweep",
}
"""The command of each stage, by the name of its rule and module."""

HEAVY = ("torch", "torchvision", "numpy", "pydantic", "zarr", "h5py", "PIL", "yaml", "rich")


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_a_room_imports_only_from_rooms_before_it():
    ended = run(sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Contracts: 4 kept, 0 broken." in ended.stdout


@pytest.fixture(scope="module")
def drawing():
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "tools/draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_room_is_on_a_floor(drawing):
    rooms = {p.parent.name for p in (ROOT / "pipeline").glob("*/__init__.py")}

    assert {room for floor in drawing.floors() for room in floor} == rooms | {"api", "version"}


def test_every_module_is_in_a_room():
    loose = {p.name for p in (ROOT / "pipeline").iterdir() if p.is_file()}

    assert loose == {"__init__.py", "api.py", "version.py", "py.typed"}


def test_the_page_of_the_architecture_is_current(drawing):
    page = drawing.PAGE.read_text()

    assert page == drawing.updated(page, drawing.draw()), "run: python tools/draw_architecture.py"
    assert "0 of them not downwards" in page


def test_the_page_names_only_what_there_is(drawing):
    """Places in backticks; the right-hand column of the table also names what a file must define."""
    named = set(re.findall(r"`((?:pipeline|stages|tests|tools)/[\w/.]+)`", drawing.PAGE.read_text()))
    assert len(named) > 10

    missing = [name for name in sorted(named) if not (ROOT / name).exists()]
    assert not missing


# --- modules


@functools.cache
def modules() -> list[tuple[str, ast.Module, int]]:
    """Every module of the package: its path, its tree, its lines."""
    paths = sorted((ROOT / "pipeline").rglob("*.py"))
    texts = [path.read_text() for path in paths]
    return [
        (path.relative_to(ROOT / "pipeline").as_posix(), ast.parse(text), len(text.splitlines()))
        for path, text in zip(paths, texts, strict=True)
    ]


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, tree, _ in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def imports_of_ours(node: ast.AST) -> set[str]:
    """Modules of this package that are imported anywhere below a node."""
    found = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom) and child.module:
            found.add(child.module)
    return {name for name in found if name.split(".")[0] == "pipeline"}


def test_no_module_is_too_long():
    long = {path for path, _, n_lines in modules() if n_lines > MAX_MODULE_LINES}

    assert long <= LONG_MODULES


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its head and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_no_function_is_too_long():
    long = {f"{path}:{f.name}" for path, f in functions() if body_lines(f) > MAX_BODY_LINES}

    assert long <= LONG_FUNCTIONS


def test_no_function_has_too_many_parameters():
    many = set()
    for path, function in functions():
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        if len([name for name in names if name not in ("self", "cls")]) > MAX_PARAMETERS:
            many.add(f"{path}:{function.name}")

    assert {name for name in many if not name.startswith("cli/")} <= MANY_PARAMETERS


def test_imports_stand_at_the_top():
    """Inside of a function they hide a circle; the command line alone is lazy."""
    found = {}
    for path, function in functions():
        names = imports_of_ours(function) - IMPORTS_IN_FUNCTIONS.get(path, set())
        if names and not path.startswith("cli/"):
            found[f"{path}:{function.name}"] = names

    assert found == {}


def test_types_open_no_circles():
    """Imports for types alone count as imports; in the command line they are its laziness."""
    found = set()
    for path, tree, _ in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and imports_of_ours(node):
                found.add(path)

    assert {path for path in found if not path.startswith("cli/")} <= IMPORTS_FOR_TYPES


def test_names_say_per_and_not_a():
    found = set()
    for _, tree, _ in modules():
        for node in ast.walk(tree):
            name = getattr(node, "name", None) or getattr(node, "id", None) or getattr(node, "attr", None)
            name = name or getattr(node, "arg", None)
            if isinstance(name, str) and re.search(r"_a_[a-z]+", name):
                found.add(name)

    assert found <= NAMES_WITH_A


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_it_imports_no_torch(name):
    code = (
        f"import sys, pipeline.{name}; print([m for m in ('torch', 'zarr', 'matplotlib', 'flask') if m in sys.modules])"
    )

    ended = run(sys.executable, "-c", code)

    assert ended.stdout == "[]\n", ended.stderr


# --- stages


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_a_rule_a_command_and_a_module_of_one_name(stage):
    rules = "\n".join(p.read_text() for p in (ROOT / "stages").glob("*.smk"))

    assert re.search(rf"^ *rule {stage}:", rules, re.M)
    assert f"pipeline {STAGES[stage]} " in rules
    assert STAGES[stage] in all_commands()
    assert (ROOT / f"pipeline/stages/{stage}.py").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_tells_where_why_and_how(stage):
    module = importlib.import_module(f"pipeline.stages.{stage}")

    assert [name for name in ("path", "why_due", "make") if not callable(getattr(module, name, None))] == []


# --- help


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
    files = {p.stem for p in (ROOT / "pipeline/cli").glob("*.py")} - {"__init__", "main", "common", "signals"}

    assert files == {command.callback.__module__.rpartition(".")[2] for command in all_commands().values()}


def test_an_unknown_command_is_a_mistake_of_the_user():
    ended = run(sys.executable, "-m", "pipeline.cli.main", "extrakt")

    assert ended.returncode == 2
    assert "No such command 'extrakt'" in ended.stderr


PATH = re.compile(r"(?<![\w./-])(?:pipeline|stages|tests|tools|benchmarks)/[\w/]+\.(?:py|yaml|tsv|smk)\b")


def test_every_file_that_documentation_or_code_names_is_there():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    pages = [
        name
        for name in tracked
        if name.endswith((".md", ".py", ".smk", ".yaml", ".cfg", ".toml")) or name == "Makefile"
    ]
    named = {
        (page, path)
        for page in pages
        if page != "CHANGELOG.md" and not page.startswith("tests/") and (ROOT / page).is_file()
        for path in PATH.findall((ROOT / page).read_text(encoding="utf-8"))
    }
    assert len(named) > 30
    assert not [f"{page}: {path}" for page, path in sorted(named) if not (ROOT / path).exists()]
