"""Libraries that only some commands use: imported when needed, with the command that installs a missing one."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from pipeline.io.errors import MissingDataError

PACKAGES = {"lance": "pylance"}
"""Name of a library's package, where it is not that of the module."""


def import_extra(module: str) -> ModuleType:
    """Import a library that the extra ``export`` of this package brings, or a user adds.

    Parameters
    ----------
    module : such as ``pandas`` or ``pyarrow.parquet``

    Raises
    ------
    MissingDataError
        It is not installed; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        package = PACKAGES.get(library, library)
        raise MissingDataError(
            f"{package} is not installed; install it with: python -m pip install {package}"
        ) from error
