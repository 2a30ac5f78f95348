"""What to say where a split has no store with the settings of now, but has one with others."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from pipeline.io.errors import StoreError
from pipeline.io.messages import shorten
from pipeline.stages.context import RunContext
from pipeline.stages.receipt import read_receipt
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace

NAMED = 2
"""Stores at most that a message names."""


def name_other_stores(run: RunContext, split: str) -> str:
    """Return which settings lead to stores of a split that are there, the most like those of now first.

    Returns
    -------
    Lines to add to a message, each with a line break before it; none where nothing was extracted
    """
    found = []
    for path in sorted((run.ws.cache / "receipts").glob(f"{run.dataset}-{split}-*.json")):
        try:
            receipt = read_receipt(path)
            stored = RunSettings.model_validate(receipt.settings)
        except (StoreError, ValidationError):  # `pipeline cache verify` names it
            continue
        if (receipt.dataset, receipt.split) == (run.dataset, split):
            others = _deciding(run.settings, stored)
            if others:
                found.append((len(others), ", ".join(others)))
    lines = [f"\n  {text}" for _, text in sorted(set(found))[:NAMED]]
    return "".join(["\nextracted already, to be read with these settings instead:", *lines]) if lines else ""


def _deciding(now: RunSettings, stored: RunSettings) -> list[str]:
    """Return the settings that lead from the one store to the other, as YAML of one line each."""
    differ = {name: value for name in type(now).model_fields if getattr(now, name) != (value := getattr(stored, name))}
    return [_text(name, getattr(now, name), value) for name, value in differ.items() if _decides(name, now, stored)]


def _decides(name: str, now: RunSettings, stored: RunSettings) -> bool:
    pairs = ((now, getattr(stored, name)), (stored, getattr(now, name)))
    return any(_store_digest(s.model_copy(update={name: value})) != _store_digest(s) for s, value in pairs)


def _store_digest(settings: RunSettings) -> str:
    return Workspace(settings).store_digest


def _text(name: str, now: Any, stored: Any) -> str:
    if hasattr(stored, "model_dump") and hasattr(now, "model_dump"):
        before, after = now.model_dump(mode="json"), stored.model_dump(mode="json")
        inner = ", ".join(f"{key}: {_yaml(value)}" for key, value in after.items() if before.get(key) != value)
        return f"{name}: {{{inner}}}"
    return f"{name}: {_yaml(stored)}"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else shorten(json.dumps(value, default=str), 80)
