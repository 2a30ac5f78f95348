"""``.pth`` and safetensors: tensors by name, through loaders that run no code of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor

from pipeline.io.errors import TrunkError
from pipeline.io.messages import brief
from pipeline.trunk.formats.weight_file import WeightFile
from pipeline.trunk.trunk import read_weights

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts store the weights of a checkpoint."""


def read_torch(path: Path) -> WeightFile:
    """Read the tensors of a file that ``torch.save`` wrote, read with ``weights_only``.

    Raises
    ------
    TrunkError
        The file is not one, or holds more than weights.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise TrunkError(
            f"{path}: holds more than weights, and that is never loaded; save the weights alone, where it was made: "
            f"torch.save(model.state_dict(), FILE) ({brief(str(error).splitlines()[0])})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise TrunkError(f"{path}: not a file of torch.save: {brief(str(error))}") from error
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not any(isinstance(v, Tensor) for v in found.values()):
        raise TrunkError(f"{path}: holds a {type(found).__name__}, expected a dict of tensors")
    return WeightFile("torch file", _arrays({str(k): v for k, v in found.items() if isinstance(v, Tensor)}))


def read_safetensors(path: Path) -> WeightFile:
    """Read the tensors of a safetensors file."""
    return WeightFile("safetensors", _arrays(read_weights(path)))


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name.removeprefix("module."): tensor.detach().float().numpy() for name, tensor in tensors.items()}
