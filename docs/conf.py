"""How the documentation is built: `make docs`, without a warning."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from pydantic import BaseModel  # noqa: E402
from pydantic_core import PydanticUndefined  # noqa: E402

import pipeline  # noqa: E402
from pipeline.stages.settings import RunSettings  # noqa: E402

project = "pipeline"
author = "the authors of pipeline"
copyright = author
release = version = pipeline.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "measured"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Links to files of the repository that are no pages of the documentation.
suppress_warnings = ["myst.xref_missing"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "pipeline"
html_show_sphinx = False
# Otherwise `--dataset` in running text gets a dash that no shell takes.
smartquotes = False


def name_of(annotation: object) -> str:
    """A type as a person writes it in YAML."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(name_of(each) for each in inner))
    if origin is typing.Annotated:
        return name_of(inner[0])
    if origin in (tuple, list):
        return f"list of {name_of(inner[0])}"
    if origin is dict:
        return f"{name_of(inner[1])}, by name"
    if annotation is typing.Any:
        return "any value"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "nothing"}
    if annotation in plain:
        return plain[annotation]
    return (
        f"[{annotation.__name__}](#{annotation.__name__.lower()})" if isinstance(annotation, type) else str(annotation)
    )


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Settings that a type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in models_in(inner)]


def settings_page() -> str:
    """Every setting with type, default and meaning, from the code."""
    lines = [
        "# Settings",
        "",
        "What a file given as `--config`, and Snakemake's `--config` and `--configfile`, can hold. Made from the code.",
        "",
    ]
    waiting: list[type[BaseModel]] = [RunSettings]
    done: list[type[BaseModel]] = []
    while waiting:
        model = waiting.pop(0)
        if model in done:
            continue
        done.append(model)
        lines += [f"## {model.__name__}", "", *inspect.cleandoc(model.__doc__ or "").splitlines(), ""]
        for name, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            shown = "must be given" if default is PydanticUndefined else f"default: `{default!r}`"
            if isinstance(default, BaseModel):
                shown = "default: as below"
            lines += [f"`{name}`", f": {name_of(field.annotation)}; {shown}", ""]
            if field.description:
                lines += [f"  {field.description}", ""]
            waiting += models_in(field.annotation)
    return "\n".join(lines) + "\n"


def examples_as_code(app: object, context: object, lines: list[str]) -> None:
    """Turn the examples of a command's help, which are lines of a block, into code to copy."""
    made: list[str] = []
    for line in lines:
        text = line.removeprefix("| ")
        if text == line:
            made.append(line)
        elif text.startswith(" "):
            made.append(f"   {text}")
        elif text == "Example:":
            made += [text, "", ".. code-block:: sh", ""]
        else:  # lines that begin with a word, such as "The whole run:   snakemake ..."
            made += ["" if made and made[-1] else "", ".. code-block:: text", "", f"   {text}"]
    lines[:] = made


def setup(app: object) -> None:
    app.connect("sphinx-click-process-description", examples_as_code)  # type: ignore[attr-defined]
    page = HERE / "reference" / "settings.md"
    text = settings_page()
    if not page.is_file() or page.read_text() != text:
        page.write_text(text)
