"""Weights of a library's network in any file, as the safetensors file that its trunk takes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pipeline.io.errors import SettingsError
from pipeline.trunk.formats.torch_file import read_torch_tensors
from pipeline.trunk.registry import TrunkRequest, find_source
from pipeline.trunk.trunk import read_weights


def convert_zoo(path: Path, trunk: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Convert the weights of a network of torchvision or timm.

    Parameters
    ----------
    path : safetensors, or a file of ``torch.save``
    trunk : the network, ``torchvision/NAME`` or ``timm/NAME``, also with ``@LAYER``

    Returns
    -------
    tensors under the network's own names, without a wrapper's prefix, and notes on what was left out

    Raises
    ------
    MissingDataError, TrunkError, SettingsError
    """
    source = find_source(trunk)
    if source is None or not source.fitter:
        raise SettingsError(f"--architecture {trunk}: expected torchvision/NAME or timm/NAME")
    state = read_weights(path, trunk) if path.suffix == ".safetensors" else read_torch_tensors(path)
    tensors, notes = source.import_fitter()(TrunkRequest(trunk), state, path)
    # Tied tensors share their memory, which a safetensors file cannot hold.
    return {name: torch.clone(value).contiguous() for name, value in tensors.items()}, notes
