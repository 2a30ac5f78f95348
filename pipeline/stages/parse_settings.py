"""Check the settings of a run: all mistakes are reported at once."""

from __future__ import annotations

import copy
import re
from typing import Any

from pydantic import ValidationError

from pipeline.head.settings import HEAD_KINDS
from pipeline.io.errors import SettingsError
from pipeline.io.messages import enumerate_problems
from pipeline.io.model import explain_validation
from pipeline.stages.settings import RunSettings

MISTAKES_SHOWN = 30
MOST_LEVELS = 10
"""Rounds in which mistakes are taken out and the rest is checked."""


def parse_run_settings(values: dict[str, Any], where: str = "settings") -> RunSettings:
    """Check settings; all mistakes are reported at once.

    Raises
    ------
    SettingsError
    """
    try:
        return RunSettings.model_validate(values)
    except ValidationError as error:
        problems = _all_mistakes(values, error)
        raise SettingsError(
            f"{where}: {len(problems)} mistake(s)\n{enumerate_problems(problems, MISTAKES_SHOWN)}"
        ) from error


def _all_mistakes(values: dict[str, Any], error: ValidationError) -> list[str]:
    """List the mistakes of all levels: checks that come after others run once the others' mistakes are taken out."""
    problems = explain_validation(error, HEAD_KINDS, RunSettings)
    rest = copy.deepcopy(values)
    for _ in range(MOST_LEVELS):
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            _take_out(rest, item["loc"], item["type"])
        try:
            RunSettings.model_validate(rest)
            break
        except ValidationError as following:
            new = [line for line in explain_validation(following, HEAD_KINDS, RunSettings) if line not in problems]
            if not new:
                break
            problems += new
            error = following
    return problems


def _rename_heads(values: dict[str, Any]) -> None:
    """Give heads plain names where theirs are refused, also where settings name them."""
    plain = {name: re.sub(r"[^A-Za-z0-9._-]+", "-", str(name)).lstrip(".-")[:64] or "head" for name in values["heads"]}
    values["heads"] = {plain[name]: head for name, head in values["heads"].items()}
    if isinstance(values.get("head"), str):
        values["head"] = plain.get(values["head"], values["head"])
    if isinstance(values.get("compare"), list | tuple):
        values["compare"] = [plain.get(name, name) if isinstance(name, str) else name for name in values["compare"]]


def _take_out(values: dict[str, Any], loc: tuple[int | str, ...], kind: str) -> None:
    """Take a refused value out of settings, so that it has its default; heads and recipes keep their names."""
    if not loc:
        for name in {"unknown_layer": ("layer", "layers"), "unknown_head": ("head", "compare")}.get(kind, ()):
            values.pop(name, None)
        return
    place: Any = values
    path: list[tuple[dict[Any, Any], Any]] = []  # a key of YAML may be a number, or a truth value
    for part in loc:
        if isinstance(place, dict) and part in place:
            path.append((place, part))
            place = place[part]
    if not path:
        return
    parent, key = path[-1]
    if len(loc) == 1 and key == "heads" and isinstance(place, dict):
        _rename_heads(values)
        return
    named = parent is values.get("heads") or parent is values.get("recipes")
    if named and kind != "extra_forbidden":
        parent[key] = {} if parent is values.get("heads") else {"head": {}}
    else:
        parent.pop(key)
