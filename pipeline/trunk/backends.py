"""The choice of the library that runs a network: torch, or OpenVINO on a CPU."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch

from pipeline.io.errors import SettingsError
from pipeline.trunk.onnx.network import OnnxNetwork
from pipeline.trunk.trunk import LayeredNetwork, Trunk
from pipeline.trunk.weight_files import INSTALL_OPENVINO

Backend = Literal["torch", "openvino"]
FASTER = ("efficientnet", "mobilenet", "squeezenet", "resnet", "vit")
"""Families of networks that OpenVINO was measured to run faster than torch, in bf16 on a CPU; AlexNet is none."""


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def resolve_backend(
    asked: str, trunk: Trunk, device: torch.device, precision: str, *, compiled: bool = False, dense: bool = False
) -> Backend:
    """Resolve the setting `backend`: ``auto`` is OpenVINO where it is installed and was measured to be faster.

    Parameters
    ----------
    asked : ``auto``, ``torch`` or ``openvino``
    precision : of the run, resolved
    compiled, dense : whether the trunk is compiled by torch, or runs over whole pictures

    Raises
    ------
    SettingsError
        OpenVINO is asked for and cannot be had.
    """
    problem = _why_not(trunk, device, compiled=compiled, dense=dense)
    if isinstance(trunk.network, OnnxNetwork):
        if asked == "torch":
            raise SettingsError(f"backend torch: trunk {trunk.card.name!r} is an ONNX file, which OpenVINO runs")
        asked = "openvino"
    if asked == "openvino" and problem:
        raise SettingsError(f"backend openvino: {problem}")
    if asked != "auto":
        return "openvino" if asked == "openvino" else "torch"
    family = trunk.card.architecture.rpartition("/")[2].removeprefix("tf_")
    return "openvino" if not problem and precision == "bf16" and family.startswith(FASTER) else "torch"


def _why_not(trunk: Trunk, device: torch.device, *, compiled: bool, dense: bool) -> str:
    """Return why OpenVINO cannot run a trunk here; empty where it can."""
    if device.type != "cpu":
        return f"it runs on a CPU, and the device is {device}; leave backend at auto, or use device: cpu"
    if not has_openvino():
        return f"the package openvino is not installed; install it with: {INSTALL_OPENVINO}"
    if trunk.precision is not None:
        return f"trunk {trunk.card.name!r} computes in {trunk.precision} by itself; use backend: torch"
    if compiled:
        return "a trunk is compiled by torch or by OpenVINO; leave compiled off"
    if dense and isinstance(trunk.network, LayeredNetwork):
        return "method dense: the AlexNet family is run by torch; use method: patches, or backend: torch"
    if dense and isinstance(trunk.network, OnnxNetwork):
        return f"method dense: trunk {trunk.card.name!r} is an ONNX file, which cannot be divided; use method: patches"
    return ""
