"""Classes of a user's own: found without running them, digested by their sources, and imported when they are needed.

A class is named by ``module:Class``, or by an entry point that a package declares. Its module is found as Python finds
it, and in the working folder. Whatever was made by a class is named by the digest of its sources. So a changed class
makes its files anew.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from pathlib import Path
from typing import Any

from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import SettingsError
from pipeline.io.likeness import suggest
from pipeline.io.messages import brief

PACKAGE_FOLDERS = ("site-packages", "dist-packages")
"""Folders of installed packages: of these, sources of other packages are not part of a class."""
NOT_OWN = "pipeline"
"""This package has versions of its own, and is no part of a class that imports it."""
_imported: dict[str, str] = {}
"""Digest of the sources of each module at its import in this process."""
_working_folder: list[str] = []
"""The working folder that was put behind the other places of ``sys.path``; at most one."""


@dataclass(frozen=True)
class OwnCode:
    """A class of a user's own, not imported yet.

    Attributes
    ----------
    reference : ``module:Class``
    files : sources, the module's own first: those that it imports from its package or folder are among them
    package : name and version of the installed package that it is in; None where there is none
    sources : digest of all sources
    sha256 : of the class's name, the sources and the package; the folder in which they lie does not count
    """

    reference: str
    files: tuple[Path, ...]
    package: str | None
    sources: str
    sha256: str

    @property
    def module(self) -> str:
        return self.reference.partition(":")[0]

    @property
    def name(self) -> str:
        return self.reference.partition(":")[2]


def find_code(text: str, group: str) -> OwnCode:
    """Find the sources of a class; nothing of its module is run, but of the packages above it.

    Parameters
    ----------
    text : ``module:Class``, or the name of an entry point
    group : of the entry points, such as ``pipeline.heads``

    Raises
    ------
    SettingsError
        No such entry point or module, several of one name, or a source that is no Python.
    """
    reference, package = text, None
    if ":" not in text:
        point = _find_entry_point(text, group)
        reference = point.value.partition("[")[0].strip()
        package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else None
    module, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise SettingsError(f"expected module:Class, such as my_heads:Logistic, or an entry point, got {brief(text)}")
    spec = _find_module(module)
    file = Path(str(spec.origin))
    if package is None and _is_installed(file):
        package = _distribution_of(module)
    sources = _read_sources(spec, file)
    of_sources = digest_of([[place, sha256_bytes(data)] for place, data in sorted(sources.values())])
    return OwnCode(reference, tuple(sources), package, of_sources, digest_of([name, package, of_sources]))


def load_class(code: OwnCode, methods: Sequence[str]) -> type[Any]:
    """Import a class; sources that changed since this process imported them are imported anew.

    Parameters
    ----------
    methods : that it must have

    Raises
    ------
    SettingsError
        Its module cannot be imported, or has no such class, or the class lacks methods.
    """
    if _imported.get(code.module) != code.sources:
        files = set(map(str, code.files))
        for name in [n for n, m in sys.modules.items() if getattr(m, "__file__", None) in files]:
            del sys.modules[name]
        importlib.invalidate_caches()
        _imported[code.module] = code.sources
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a file may change twice within a second
    try:
        module = importlib.import_module(code.module)
    except Exception as error:
        _imported.pop(code.module, None)
        raise SettingsError(f"{code.reference}: cannot be imported: {explain(error, code)}") from error
    finally:
        sys.dont_write_bytecode = writes
    found = getattr(module, code.name, None)
    if not isinstance(found, type):
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        raise SettingsError(f"{code.files[0]}: no class {code.name!r}{suggest(code.name, classes)}")
    lacking = [name for name in methods if not callable(getattr(found, name, None))]
    if lacking:
        raise SettingsError(
            f"{code.reference} ({code.files[0]}): the class lacks {', '.join(lacking)}; expected {', '.join(methods)}"
        )
    return found


def explain(error: BaseException, code: OwnCode) -> str:
    """Return an exception of a user's code in one line, with the place in the user's sources where it arose."""
    files = set(map(str, code.files))
    places = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    text = f"{type(error).__name__}: {error}"
    return f"{text} ({places[-1].filename}, line {places[-1].lineno})" if places else text


def _find_entry_point(name: str, group: str) -> EntryPoint:
    points = entry_points(group=group)
    found = {point.value: point for point in points if point.name == name}
    if not found:
        known = suggest(name, sorted({point.name for point in points}))
        raise SettingsError(
            f"no entry point {brief(name)} in the group {group}{known}; a class without one is named module:Class"
        )
    if len(found) > 1:
        raise SettingsError(
            f"the entry point {name!r} of the group {group} is declared {len(found)} times: "
            f"{', '.join(sorted(found))}; name the class that is meant as module:Class"
        )
    return next(iter(found.values()))


def _find_module(module: str) -> ModuleSpec:
    """Find a module as Python does, and last in the working folder."""
    here = Path.cwd()
    if _working_folder != [str(here)]:
        sys.path[:] = [place for place in sys.path if place not in _working_folder]
        _working_folder[:] = [str(here)]
    if not {"", str(here)} & set(sys.path):
        sys.path.append(str(here))
    top = module.partition(".")[0]
    beside = [here / f"{top}.py", here / top / "__init__.py"]
    loaded = sys.modules.get(top)
    if loaded is not None and any(file.is_file() and str(file) != loaded.__file__ for file in beside):
        # Of another working folder: what this process imported there says nothing here.
        _forget(top)
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError, SyntaxError) as error:
        raise SettingsError(f"module {module!r} cannot be found: {type(error).__name__}: {error}") from error
    if spec is None:
        raise SettingsError(
            f"no module {module!r}, neither installed nor in the working folder {here}; start the command in its "
            "folder, install its package, or set PYTHONPATH, on all machines that work"
        )
    if not spec.has_location or not str(spec.origin).endswith(".py"):
        raise SettingsError(f"module {module!r} has no Python source ({spec.origin}), which its results are named by")
    first = Path(str(spec.origin)).parents[module.count(".") + (spec.submodule_search_locations is not None)]
    clash = next((file for file in beside if file.is_file() and first != here), None)
    if clash is not None:
        raise SettingsError(f"two modules are called {top!r}: {clash} and {spec.origin}; rename the one that is yours")
    return spec


def _forget(top: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        del sys.modules[name]


def _is_installed(file: Path) -> bool:
    return any(folder in file.parts for folder in PACKAGE_FOLDERS)


def _distribution_of(module: str) -> str | None:
    names = packages_distributions().get(module.partition(".")[0], [])
    return ", ".join(f"{name} {version(name)}" for name in sorted(set(names))) or None


def _read_sources(spec: ModuleSpec, first: Path) -> dict[Path, tuple[str, bytes]]:
    """Read a module and all that it imports from its package or, outside of packages, its folder.

    Returns
    -------
    place in that folder and bytes, by file
    """
    is_package = spec.submodule_search_locations is not None
    folder = first.parents[spec.name.count(".") + is_package]
    top = spec.name.partition(".")[0]
    # A package's sources are its own; a module beside others is read with those that it imports.
    alone = is_package or "." in spec.name or _is_installed(first)
    found: dict[Path, tuple[str, bytes]] = {}
    waiting = [first]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        place = file.relative_to(folder)
        try:
            data = file.read_bytes()
            names = list(_imports(data, place))
        except (OSError, SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise SettingsError(f"{file}{line}: cannot be read as Python: {error}") from error
        found[file] = place.as_posix(), data
        for name in names:
            parts = name.split(".")
            if parts[0] == NOT_OWN or (alone and parts[0] != top):
                continue
            for n in range(1, len(parts) + 1):
                stem = folder.joinpath(*parts[:n])
                waiting += [f for f in (stem.with_suffix(".py"), stem / "__init__.py") if f.is_file()]
    return found


def _imports(data: bytes, place: Path) -> Iterator[str]:
    """Yield the names of all modules that a source may import, wherever in it."""
    parts = place.with_suffix("").parts
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*parts[: -node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names if base)
            if not base:
                yield from (alias.name for alias in node.names)
