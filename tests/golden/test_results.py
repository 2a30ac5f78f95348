"""Results of a tiny run, as scripts read them: keys in their order, and values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from surface import read_facts, recipe_path, workspace

MASKED = ("seconds", "extract_seconds", "versions")
"""Objects whose values, and order, change from run to run; their keys are compared."""


def masked(value: Any) -> Any:
    """A result without what differs from run to run."""
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            if key in MASKED and isinstance(item, dict):
                found[key] = dict.fromkeys(sorted(item), "...")
            else:
                found[key] = "..." if key in ("command", "settings") else masked(item)
        return found
    return [masked(item) for item in value] if isinstance(value, list) else value


def read(tiny: Path, path: Path | str) -> Any:
    text = (tiny / path).read_text()
    assert str(tiny) not in text
    return masked(json.loads(text))


@pytest.mark.parametrize("what", ["map", "heads", "compare", "sweep"])
def test_a_result_keeps_its_keys_and_values(what, golden, tiny):
    golden.check_json(f"result_{what}.json", read(tiny, f"results/tiny_{what}.json"))


@pytest.mark.parametrize("name", ["strong", "svm", "strong+svm"])
def test_what_a_recipe_came_to_keeps_its_keys_and_values(name, golden, tiny, settings):
    golden.check_json(f"outcome_{name}.json", read(tiny, recipe_path(workspace(**settings), "tiny", name)))


@pytest.mark.parametrize("name", ["fca", "fcb"])
def test_a_fitted_head_says_the_same_of_itself(name, golden, tiny, settings):
    facts = dict(sorted(read_facts(tiny / workspace(**settings).head_path("tiny", name)).to_dict().items()))

    golden.check_json(f"facts_{name}.json", facts)


def test_a_run_leaves_the_same_files(golden, tiny):
    """Beside stores, whose files have a test of their own."""
    names = [p.relative_to(tiny).as_posix() for p in sorted(tiny.rglob("*")) if p.is_file()]

    golden.check_json("files_of_a_run.json", [name for name in names if ".zarr/" not in name])
