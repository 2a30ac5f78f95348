"""A frozen network, ready to run, and the one way in which weights are read."""

from __future__ import annotations

import re
import shlex
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.messages import enumerate_problems
from pipeline.io.names import make_file_part
from pipeline.trunk.alexnet import AlexNet
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.hubs import cached_by_torch, require_hub
from pipeline.trunk.registry import LAYERS
from pipeline.trunk.state import FLOATS
from pipeline.trunk.weight_files import PICKLED_SUFFIXES, refuse_lfs_pointer


class LayeredNetwork(nn.Module):
    """A network of the AlexNet family that returns one layer when called, and several on request."""

    def __init__(self, network: AlexNet, layer: str, available: Collection[str] = LAYERS) -> None:
        super().__init__()
        self.network = network
        self.layer = layer
        self.available = available

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each layer that the weights suffice for."""
        return {layer: width for layer, width in self.network.config.widths.items() if layer in self.available}

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, (self.layer,))[self.layer]


@dataclass(frozen=True)
class Trunk:
    """A frozen network, ready to run.

    Attributes
    ----------
    card : description that accompanies the weights
    layer : the one layer whose activations it returns
    width : columns of that layer
    weights_sha256 : digest of the weights in use
    network : turns a normalised float Tensor (n, 3, px, px) into a Tensor (n, width)
    classifier : ``weight`` (n_outputs, width of FC7) and ``bias`` of the last layer that the network was
        trained with, where the weights hold it and the trunk is of the AlexNet family
    precision : the one arithmetic that it can be run in, such as ``fp32``; None for any
    notes : what was stripped from, or left unused of, a weights file; for people
    resize : makes the network for another input size in pixels, with positions resampled; None where it needs none,
        or its source knows none
    """

    card: TrunkCard
    layer: str
    width: int
    weights_sha256: str
    network: nn.Module
    classifier: dict[str, Tensor] | None = None
    precision: str | None = None
    notes: tuple[str, ...] = ()
    resize: Callable[[int], nn.Module] | None = field(default=None, compare=False)

    @property
    def slug(self) -> str:
        """The trunk's name as a part of a file name."""
        return make_file_part(self.card.name, "_.+", ascii_only=True, merge=True)

    def at(self, layer: str) -> Trunk:
        """Return a trunk of the same weights with another layer; nothing is loaded or copied.

        Raises
        ------
        TrunkError
            This trunk has no such layer.
        """
        if layer == self.layer:
            return self
        network = self.network
        widths = network.widths if isinstance(network, LayeredNetwork) else {self.layer: self.width}
        if not isinstance(network, LayeredNetwork) or layer not in widths:
            raise TrunkError(f"trunk {self.card.name!r} has no layer {layer!r}; it has {', '.join(widths)}")
        return replace(
            self,
            layer=layer,
            width=widths[layer],
            network=LayeredNetwork(network.network, layer, network.available).eval(),
        )


def read_weights(path: Path, architecture: str = "") -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Parameters
    ----------
    architecture : of the network that they are for, as ``trunk import`` names it

    Raises
    ------
    MissingDataError, TrunkError
        No such file; a pickle or otherwise no safetensors file.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: weights file not found")
    refuse_lfs_pointer(path)
    with open(path, "rb") as stream:
        head = stream.read(9)
    # A safetensors file begins with the length of its header, which can look like a pickle's start,
    # and then the header's brace.
    pickled = head[:2] in (b"PK", b"\x80\x02", b"\x80\x04") and head[8:] != b"{"
    if pickled or path.suffix in PICKLED_SUFFIXES:
        stem = re.sub(r"[^A-Za-z0-9._-]+|(\.(pth|pt|tar|ckpt|pkl|bin))+$", "-", path.name).strip("-.") or "weights"
        line = ["pipeline", "trunk", "import", str(path), "--out", "trunks", "--name", stem]
        line += ["--architecture", architecture] if architecture else []
        raise TrunkError(
            f"{path}: pickled weights are never loaded, since a pickle can run any code; expected safetensors; "
            f"convert them, without running their code, with: {shlex.join(line)}"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise TrunkError(f"{path}: not a safetensors file: {error}") from error


def digest_weights(state: Mapping[str, Tensor]) -> str:
    """Digest weights by name with SHA-256; the file that they came from does not matter."""
    return sha256_bytes(save({name: tensor.contiguous() for name, tensor in sorted(state.items())}))


def load_state(network: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load weights into a network, which may be on the meta device, after comparing every name and shape.

    Raises
    ------
    TrunkError
        All tensors that are missing, unknown, of another shape or type, or not finite.
    """
    own = network.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    problems = [
        f"{k}: missing, expected shape {tuple(own[k].shape)}" for k in own if k not in state and k not in optional
    ]
    problems += [f"{k}: unknown" for k in state if k not in own]
    for key in own:
        if key in state and state[key].shape != own[key].shape:
            problems.append(f"{key}: shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}")
        elif key in state and own[key].is_floating_point() and state[key].dtype not in FLOATS:
            problems.append(f"{key}: holds {str(state[key].dtype).removeprefix('torch.')}, expected a float type")
        elif key in state and not torch.isfinite(state[key].float()).all():
            problems.append(f"{key}: holds values that are not finite")
    if problems:
        raise TrunkError(f"{where}: weights do not fit\n{enumerate_problems(problems)}")
    floats = OrderedDict((k, v.float() if v.is_floating_point() else v) for k, v in state.items())
    floats |= {name: torch.zeros((), dtype=torch.int64) for name in optional - state.keys()}
    # Versions of modules, which files do not hold; all shapes are those of this version (MNASNet checks it).
    # They are an attribute that torch sets on its dict, unknown to its types.
    floats._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(floats, assign=True)


def download_weights(name: str, entry: Any, *, download: bool = True) -> Any:
    """Take weights from torch's cache, or download them through torchvision's API, which checks their digest.

    Parameters
    ----------
    entry : member of a model's enum of weights
    download : False: raise `NotDownloadedError` where they are not cached and could be downloaded

    Raises
    ------
    MissingDataError
        They are not cached and cannot be downloaded.
    """
    ways = (
        f"you can: connect once (torch caches them); or download {entry.url} elsewhere, then: "
        f"pipeline trunk import FILE.pth --architecture {name} --out trunks --name NAME, and "
        "--weights FILE.safetensors; or use the embedded trunk alexnet64"
    )
    if not cached_by_torch(entry.url):
        require_hub(name, "torchvision", entry.url, ways, download=download)
    try:
        return entry.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise MissingDataError(
            f"trunk {name!r}: torchvision's weights are not on this machine and could not be downloaded: "
            f"{error}\n{ways}"
        ) from error
