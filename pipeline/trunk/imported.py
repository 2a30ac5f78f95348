"""Trunk ``imported/NAME``: rows that were made elsewhere. There is no network."""

from __future__ import annotations

from typing import NoReturn

from pipeline.io.errors import TrunkError
from pipeline.trunk.registry import TrunkRequest


def refuse(request: TrunkRequest) -> NoReturn:
    """Say that there is no network to compute rows with.

    Raises
    ------
    TrunkError
        Always.
    """
    raise TrunkError(
        f"trunk {request.name!r}: its rows were made elsewhere, and there is no network to make more; what reads rows "
        "works: fit-head, score, evaluate, recipe run, compare, sweep, report; further rows come in with: "
        "pipeline import-features"
    )
