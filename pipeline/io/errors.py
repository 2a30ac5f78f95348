"""Errors that a user can fix.

``PipelineError`` means: the input, the settings or the machine is at fault, not the code. The CLI
prints its message and exits with 2. Anything else that escapes is a bug: traceback, exit 1.
"""

from __future__ import annotations


class PipelineError(Exception):
    """An error that the user can fix; the message says what, where, and what to do next."""


class SettingsError(PipelineError, ValueError):
    """A setting or a manifest is out of its range, unknown or malformed."""


class DatasetError(PipelineError, ValueError):
    """A dataset's folder, lists or annotations disagree with its manifest."""


class MissingDataError(PipelineError, FileNotFoundError):
    """Pictures, annotations or weights of a run are not on this machine."""


class BadPictureError(PipelineError, ValueError):
    """A picture cannot be decoded in full, or yields no sensible grid.

    Parameters
    ----------
    remedy : setting that would let the picture pass, and its value; no part of the message, which is recorded
    """

    def __init__(self, message: str, remedy: tuple[str, float] | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class TrunkError(PipelineError, ValueError):
    """A trunk's name, card or weights file is wrong."""


class StoreError(PipelineError, ValueError):
    """A store is missing, incomplete, damaged, or not the requested one."""


class StoreNotFoundError(StoreError):
    """There is no store at this place, or none was extracted yet."""


class StoreNotExtractedError(StoreNotFoundError):
    """No receipt names a store for these settings: nothing was extracted with them yet, or not here."""


class StoreIncompleteError(StoreError):
    """A store has no seal: parts are missing, or only the seal is."""


class StoreDamagedError(StoreError):
    """A store's bytes disagree with their record or seal, or files are missing."""


class HeadError(PipelineError, ValueError):
    """A head cannot be fitted, loaded, or used with these activations."""
