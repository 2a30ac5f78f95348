"""Trunk ``code/module:Class``: a module of torch of a user's own (docs/how-to/own-trunk.md)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.io.errors import PipelineError, TrunkError
from pipeline.io.messages import brief
from pipeline.io.model import explain_validation
from pipeline.io.own_code import OwnCode, explain, find_code, load_class
from pipeline.trunk.card import Preprocessing, TrunkCard
from pipeline.trunk.registry import CODE, DEFAULT_LAYER, TRUNK_GROUP, TrunkRequest
from pipeline.trunk.trunk import Trunk, digest_weights, load_state, read_weights

LAYER = "output"
"""The one layer: what the class returns."""


def load_code(request: TrunkRequest) -> Trunk:
    """Load a class of a user's own as a trunk.

    The class is a ``torch.nn.Module`` without arguments, with an attribute ``input_px``, the side of its patches in
    pixels, and perhaps ``preprocessing``: a mapping with ``mean``, ``std`` and ``interpolation`` (`Preprocessing`). It
    takes normalised float32 Tensors (n, 3, input_px, input_px) and returns rows (n, width). Without a file of weights
    it has those that its constructor draws, under the seed of the request.

    Raises
    ------
    TrunkError
        The class is none of this kind, raises, or returns something else than rows of finite numbers.
    SettingsError
        It is not found.
    """
    code = find_code(request.name.removeprefix(CODE.prefix), TRUNK_GROUP)
    where = f"trunk {request.name!r}"
    if request.layer not in (None, DEFAULT_LAYER, LAYER):
        raise TrunkError(f"{where}: has one layer, {LAYER}, got {brief(request.layer)}; leave layer out")
    found = load_class(code, ("forward",))
    if not issubclass(found, nn.Module):
        raise TrunkError(f"{where}: {code.reference} ({code.files[0]}) is no torch.nn.Module")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        network = _call(code, where, found)
    if request.weights is not None:
        load_state(network, read_weights(request.weights, request.name), f"{where}, {request.weights}")
    network = network.eval().requires_grad_(False)
    px, preprocessing = _read_attributes(network, where)
    # What the constructor draws need not be among the weights.
    drawn = f", drawn from seed {request.seed}" if request.weights is None else ""
    rows = _call(code, where, network, torch.zeros(2, 3, px, px))
    card = TrunkCard(
        name=request.name,
        architecture=f"{code.reference} of sources {code.sha256}{drawn}",
        input_px=px,
        layers={LAYER: _check_rows(rows, where)},
        preprocessing=preprocessing,
    )
    return Trunk(card, LAYER, card.layers[LAYER], digest_weights(network.state_dict()), network)


def _call(code: OwnCode, where: str, function: Any, *arguments: Any) -> Any:
    try:
        with torch.no_grad():
            return function(*arguments)
    except PipelineError:
        raise
    except Exception as error:
        raise TrunkError(f"{where}: {explain(error, code)}") from error


def _read_attributes(network: nn.Module, where: str) -> tuple[int, Preprocessing]:
    px = getattr(network, "input_px", None)
    if not isinstance(px, int) or isinstance(px, bool) or not 8 <= px <= 4096:
        raise TrunkError(f"{where}: the class needs an attribute input_px, a whole number in 8..4096, got {brief(px)}")
    given = getattr(network, "preprocessing", {})
    try:
        return px, Preprocessing.model_validate(given)
    except ValidationError as error:
        raise TrunkError(f"{where}: attribute preprocessing: {'; '.join(explain_validation(error))}") from error


def _check_rows(rows: object, where: str) -> int:
    """Return the width of the rows of two black patches."""
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        got = f"a Tensor of {rows.dtype}" if isinstance(rows, Tensor) else type(rows).__name__
        raise TrunkError(f"{where}: forward must return a Tensor of floating-point numbers, got {got}")
    if rows.ndim != 2 or rows.shape[0] != 2 or not rows.shape[1]:
        raise TrunkError(
            f"{where}: forward must return rows (n, width), one per patch, got shape {tuple(rows.shape)} of 2 patches"
        )
    if not torch.isfinite(rows).all():
        raise TrunkError(f"{where}: forward returns values that are not finite, of black patches already")
    return rows.shape[1]
