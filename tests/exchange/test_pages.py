"""The pages on files of other programs: their commands and their Python run, in the order in which they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.cli import run_command
from support.demo import copy_demo

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["export"])
def test_a_page_runs(demo_extracted, tmp_path, monkeypatch, page):
    folder = copy_demo(demo_extracted, tmp_path / "demo")
    monkeypatch.chdir(folder)
    namespace: dict[str, object] = {}
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", (ROOT / f"docs/how-to/{page}.md").read_text(), re.S):
        if language == "python":
            exec(compile(block, page, "exec"), namespace)
            continue
        for line in block.splitlines():
            if line.startswith("pipeline "):
                ended = run_command(folder, *line.split()[1:])
                assert ended.code == 0, f"{line}: {ended.err}"
