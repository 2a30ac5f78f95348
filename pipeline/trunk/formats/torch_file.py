"""``.pth`` and safetensors: tensors by name, through loaders that run no code of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor

from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.trunk.formats.weight_file import WeightFile
from pipeline.trunk.trunk import read_weights
from pipeline.trunk.weight_files import refuse_lfs_pointer

WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict")
"""Keys under which training scripts store the weights of a checkpoint."""


def read_torch(path: Path) -> WeightFile:
    """Read the tensors of a file that ``torch.save`` wrote, read with ``weights_only``.

    Raises
    ------
    TrunkError
        The file is not one, or holds more than weights.
    """
    return WeightFile("torch file", _arrays(read_torch_tensors(path)))


def read_torch_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict, bare or under a key of a checkpoint, as tensors by name; no code of the file is run.

    Raises
    ------
    MissingDataError, TrunkError
        No such file; the file is not one of ``torch.save``, or holds more than weights.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    refuse_lfs_pointer(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise TrunkError(
            f"{path}: holds more than weights, and that is never loaded; save the weights alone, where it was made: "
            f"torch.save(model.state_dict(), FILE) ({brief(str(error).splitlines()[0])})"
        ) from error
    except Exception as error:  # torch's reader raises nearly anything on bytes that are no file of torch.save
        raise TrunkError(f"{path}: not a file of torch.save: {brief(str(error))}") from error
    while isinstance(found, Mapping) and not any(isinstance(v, Tensor) for v in found.values()):
        inner = [key for key in WRAPPERS if isinstance(found.get(key), Mapping)]
        if len(inner) > 1:
            raise TrunkError(f"{path}: holds several networks: {', '.join(inner)}; save one of them alone")
        if not inner:
            keys = ", ".join(brief(key) for key in list(found)[:10])
            raise TrunkError(
                f"{path}: expected a dict of tensors, also under {', '.join(WRAPPERS)}; its keys are: {keys or 'none'}"
            )
        own = _names_of(found[inner[0]])
        if own and (copies := [key for key in found if key != inner[0] and own <= _names_of(found[key])]):
            names = ", ".join(map(str, (inner[0], *copies)))
            raise TrunkError(
                f"{path}: holds several networks with the same tensors: {names}; save the one that is meant alone: "
                "torch.save(checkpoint[KEY], FILE)"
            )
        found = found[inner[0]]
    if not isinstance(found, Mapping):
        raise TrunkError(f"{path}: holds a {type(found).__name__}, expected a dict of tensors")
    tensors = {str(k): v.detach() for k, v in found.items() if isinstance(v, Tensor)}
    if odd := [f"{name}: {what}" for name, tensor in tensors.items() if (what := _why_not_plain(tensor))]:
        raise TrunkError(f"{path}: tensors that hold no plain numbers\n{enumerate_problems(odd, 10)}")
    return tensors


def _names_of(value: object) -> frozenset[str]:
    """Return the names of the tensors that an entry of a checkpoint holds, without a wrapper's prefix."""
    items = value.items() if isinstance(value, Mapping) else ()
    return frozenset(str(name).removeprefix("module.") for name, item in items if isinstance(item, Tensor))


def _why_not_plain(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "without values (device meta)"
    if tensor.layout != torch.strided:
        return "sparse; save tensor.to_dense()"
    if tensor.is_quantized:
        return "quantised; save tensor.dequantize()"
    return "complex" if tensor.is_complex() else ""


def read_safetensors(path: Path) -> WeightFile:
    """Read the tensors of a safetensors file."""
    return WeightFile("safetensors", _arrays(read_weights(path)))


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name.removeprefix("module."): tensor.detach().float().numpy() for name, tensor in tensors.items()}
