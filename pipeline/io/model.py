"""Base of all settings: closed pydantic models, where an unknown key or a value out of range is an error."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from pipeline.io.errors import SettingsError
from pipeline.io.likeness import suggest, suggest_nearest
from pipeline.io.messages import brief, shorten

# Bounds far above any use, and below values that make a machine stop without a message.
MAX_BATCH = 65_536
MAX_WIDTH = 65_536
MAX_FC_WIDTH = 16_384
MAX_EPOCHS = 10_000
MAX_UPDATES = 100_000_000
MAX_SEED = 2**32 - 1
MAX_THREADS = 1024


OWN_TEXT = ("missing", "value_error", "unknown_head", "unknown_layer")
"""Kinds of mistakes whose message names the value itself."""


class Settings(BaseModel):
    """Base of all settings: frozen, and closed against unknown keys."""

    # `explain_validation` reports inputs, except refused URLs; pydantic's own message would report all.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_values(cls, value: object, info: ValidationInfo) -> object:
        """Refuse values that pydantic accepts: ``true`` as the number 1, and text that no file name can hold."""
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        assert info.field_name is not None  # it is None in validators of types alone
        if any(isinstance(item, bool) for item in items) and _is_numeric(cls.model_fields[info.field_name].annotation):
            raise ValueError(f"must be a number, got {brief(value)}")
        if any(isinstance(item, str) and re.search("[\0\ud800-\udfff]", item) for item in items):
            raise ValueError(f"must not hold NUL or half a character, got {brief(value)}")
        return value


def _is_numeric(annotation: object) -> bool:
    return annotation in (int, float) or any(_is_numeric(part) for part in get_args(annotation))


def nested_models(annotation: object) -> list[type[BaseModel]]:
    """List the settings that a type holds, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = [model for field in annotation.model_fields.values() for model in nested_models(field.annotation)]
        return [annotation, *inner]
    return [model for part in get_args(annotation) for model in nested_models(part)]


def _suggest_key(model: type[BaseModel] | None, loc: tuple[int | str, ...]) -> str:
    """Return the end of a message about an unknown key: the keys of that place that are most like it."""
    if model is None:
        return ""
    models = [model]
    for part in loc[:-1]:
        fields = [m.model_fields[part] for m in models if isinstance(part, str) and part in m.model_fields]
        # Other parts are names that the user gave, and tags of unions.
        models = [found for field in fields for found in nested_models(field.annotation)] if fields else models
    name, names = str(loc[-1]), list(dict.fromkeys(name for m in models for name in m.model_fields))
    return suggest_nearest(name, names) or suggest(name, names) or "; docs/reference/settings.md lists all settings"


def explain_validation(
    error: ValidationError, hide: Collection[str] = (), model: type[BaseModel] | None = None
) -> list[str]:
    """List the mistakes, one line each: where, what, and the value.

    Parameters
    ----------
    hide : parts of a place that are no keys: tags by which pydantic tells the members of a union apart
    model : that was validated: for an unknown key, the keys that are most like it are named
    """
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        # The first two parts are always keys: a head may have the name of a kind.
        keys = [part for index, part in enumerate(item["loc"]) if index < 2 or part not in hide]
        where = ".".join(shorten(str(part)) for part in keys) or "settings"
        # A URL may carry a password, also under a key that is mistyped.
        got = "" if item["type"] in OWN_TEXT else f", got {brief(item['input'])}"
        got = "" if "://" in got else got
        end = _suggest_key(model, item["loc"]) if item["type"] == "extra_forbidden" else ""
        # One validator may find several mistakes.
        lines += [f"{where}: {text}{got}{end}" for text in item["msg"].removeprefix("Value error, ").split("\n")]
    return lines


def refuse_credentials(url: str, what: str = "stores") -> None:
    """Refuse a URL with a user, a password or a query: URLs end in logs and receipts.

    Raises
    ------
    SettingsError
        Without the URL's secret part.
    """
    scheme, separator, rest = url.partition("://")
    if separator and ("@" in rest or "?" in rest):
        raise SettingsError(
            f"{what} {scheme}://...: credentials and options do not belong into a URL; give them through the "
            "environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )
