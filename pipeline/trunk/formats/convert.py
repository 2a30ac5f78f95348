"""Convert a file's tensors to a trunk: identify layers and architecture, change the layout, fold the input."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.io.digests import sha256_file
from pipeline.io.errors import MissingDataError, SettingsError, TrunkError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.model import MAX_FC_WIDTH
from pipeline.trunk.alexnet import AlexNet, AlexNetConfig, krizhevsky, make_config
from pipeline.trunk.card import Preprocessing, TrunkCard
from pipeline.trunk.formats.caffemodel import read_caffemodel, read_mean
from pipeline.trunk.formats.numpy_file import read_numpy
from pipeline.trunk.formats.onnx_model import read_onnx
from pipeline.trunk.formats.torch_file import read_safetensors, read_torch
from pipeline.trunk.formats.weight_file import WeightFile
from pipeline.trunk.weight_files import PICKLED_SUFFIXES, refuse_lfs_pointer

READERS = {
    ".caffemodel": read_caffemodel,
    ".onnx": read_onnx,
    ".npy": read_numpy,
    ".npz": read_numpy,
    **dict.fromkeys(PICKLED_SUFFIXES, read_torch),
    ".safetensors": read_safetensors,
}
ARCHITECTURES = ("bvlc_alexnet", "caffenet", "alexnet", "krizhevsky")
OTHER_NETWORKS = "of another network, name it: --architecture torchvision/NAME or timm/NAME (pipeline trunk ls)"
WEIGHT_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
IMAGENET_MEAN_BGR = (104.0, 117.0, 123.0)
"""Mean colour of ImageNet's training pictures, in 0..255, as Caffe's models subtract it."""


def read_weight_file(path: Path) -> WeightFile:
    """Read the tensors of a file in any of the known formats, told by its suffix.

    Raises
    ------
    MissingDataError, TrunkError
    """
    if path.suffix.lower() not in READERS:
        raise TrunkError(f"{path}: expected a file that ends in {', '.join(READERS)}")
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    refuse_lfs_pointer(path)
    return READERS[path.suffix.lower()](path)


def _expected_order(config: AlexNetConfig) -> list[str]:
    order = []
    for conv in config.convs:
        following = (["norm"] if conv.response_norm else []) + (["pool"] if conv.pool else [])
        order += ["conv", *(following[::-1] if config.norm_after_pool else following)]
    return [*order, "linear", "linear"]


def make_imported_config(architecture: str, fc_width: int) -> AlexNetConfig:
    """Make the configuration of an architecture's circulating weights: 227 px without padding, except torchvision's."""
    if architecture == "krizhevsky":
        return krizhevsky(227, fc_width)
    return make_config(architecture, None if architecture == "alexnet" else fc_width)


def _contradictions(source: WeightFile, config: AlexNetConfig) -> list[str]:
    """List the file's statements on its network that contradict a configuration."""
    problems = []
    expected = _expected_order(config)
    if source.order is not None and source.order[: len(expected)] != expected:
        problems.append(f"runs {', '.join(source.order)}; expected {', '.join(expected)}")
    norm = (5, 1e-4, 0.75, config.norm_k)
    for index, found in enumerate(source.norms, start=1):
        if not all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(found, norm, strict=True)):
            problems.append(f"norm{index}: size, alpha, beta, k are {found}, expected {norm}")
    groups = [conv.groups for conv in config.convs]
    if source.groups and source.groups != groups:
        problems.append(f"groups of the convolutions are {source.groups}, expected {groups}")
    return problems


def choose_architecture(source: WeightFile, conv1_channels: int, fc_width: int, asked: str | None, where: str) -> str:
    """Choose the architecture of a file's network: as the file states, else as requested.

    Raises
    ------
    TrunkError
        The file contradicts the request, fits no architecture, or does not state one.
    """
    if asked is not None:
        problems = _contradictions(source, make_imported_config(asked, fc_width))
        if problems:
            raise TrunkError(f"{where}: is no {asked}\n{enumerate_problems(problems)}")
        return asked
    if conv1_channels == 64:
        return choose_architecture(source, conv1_channels, fc_width, "alexnet", where)
    if source.order is None:
        raise TrunkError(
            f"{where}: does not say in which order layers are run; give --architecture: bvlc_alexnet (Caffe's AlexNet: "
            "norm before pool), caffenet (pool before norm), or krizhevsky (the paper's: norm before pool, k = 2)"
        )
    by_form = {
        name: _contradictions(source, make_imported_config(name, fc_width))
        for name in ARCHITECTURES
        if name != "alexnet"
    }
    for name, found in by_form.items():
        if not found:
            return name
    lines = [f"{name}: {problem}" for name, found in by_form.items() for problem in found]
    raise TrunkError(f"{where}: fits none of the known architectures\n{enumerate_problems(lines)}")


def assign_layers(tensors: dict[str, np.ndarray], where: str) -> dict[str, str]:
    """Assign our names to a file's tensors: ``conv1.weight`` -> the name in the file, and so on.

    Layers are told by their names (``conv1`` ... ``fc8`` anywhere in them), or, where the names say
    nothing, by their order: five convolutions, then two or three linear layers.

    Raises
    ------
    TrunkError
        Layers that are missing, unknown, or without weight or bias, all of them.
    """
    groups: dict[str, list[str]] = {}
    for name in tensors:
        named = re.search(r"(?<![a-z0-9])(conv[1-5]|fc[678])(?![0-9])", name.lower())
        groups.setdefault(named[1] if named else re.sub(r"[._/][^._/]*$", "", name), []).append(name)
    problems = [
        f"{key}: {len(names)} tensors ({', '.join(names[:4])}), expected a weight and a bias"
        for key, names in groups.items()
        if len(names) != 2
    ]
    if problems:
        raise TrunkError(f"{where}: is no AlexNet\n{enumerate_problems(problems)}\n{OTHER_NETWORKS}")
    pairs = {key: sorted(names, key=lambda n: -tensors[n].size) for key, names in groups.items()}
    rest = sorted((key for key in pairs if key not in WEIGHT_LAYERS), key=_natural)
    if set(WEIGHT_LAYERS[:7]) <= pairs.keys():
        # Layers after FC7 have many names, after their training data.
        layers = {key: key for key in pairs if key in WEIGHT_LAYERS}
        if "fc8" not in layers and len(rest) == 1:
            layers["fc8"] = rest.pop()
        if rest:
            raise TrunkError(f"{where}: unknown layers {', '.join(map(brief, rest[:10]))}")
    else:
        order = sorted(pairs, key=_natural)
        convs = [key for key in order if tensors[pairs[key][0]].ndim == 4 and not _is_linear(tensors[pairs[key][0]])]
        linear = [key for key in order if _is_linear(tensors[pairs[key][0]])]
        if len(convs) != 5 or len(linear) not in (2, 3):
            raise TrunkError(
                f"{where}: {len(convs)} convolutions and {len(linear)} linear layers, expected 5 and 2 or 3; "
                f"it has {', '.join(order[:20])}; {OTHER_NETWORKS}"
            )
        layers = dict(zip(WEIGHT_LAYERS, convs + linear, strict=False))
    return {
        f"{layer}.{part}": pairs[key][i] for layer, key in layers.items() for i, part in enumerate(("weight", "bias"))
    }


def _is_linear(weight: np.ndarray) -> bool:
    # Caffe's old blobs have four sides, also where two are enough.
    return weight.ndim == 2 or (weight.ndim == 4 and weight.shape[:2] == (1, 1))


def _natural(name: str) -> list[tuple[int, str]]:
    """Make a sort key by which ``features.10`` comes after ``features.8``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _as_ours(name: str, value: np.ndarray, channels_last: bool) -> np.ndarray:
    """Bring a tensor into our layout: (out, in / groups, rows, columns), (out, in) or (out,)."""
    layer, part = name.split(".")
    if part == "bias":
        return value.reshape(-1)
    if layer.startswith("fc"):
        value = value.reshape(value.shape[-2:])
        return value.T if channels_last else value
    return value.transpose(3, 2, 0, 1) if channels_last and value.ndim == 4 else value


def _rows_by_channel(fc6: np.ndarray, channels: int, side: int) -> np.ndarray:
    """Reorder FC6 from maps flattened row by column by channel to channel by row by column."""
    if fc6.shape[1] != channels * side**2:
        return fc6  # the check of shapes says so
    return fc6.reshape(-1, side, side, channels).transpose(0, 3, 1, 2).reshape(len(fc6), -1)


def _check_shapes(weights: dict[str, np.ndarray], config: AlexNetConfig, names: dict[str, str], where: str) -> None:
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in AlexNet(config).state_dict().items()}
    if "fc8.weight" in weights:
        n_classes = len(weights["fc8.weight"])
        expected |= {"fc8.weight": (n_classes, config.fc_widths[1]), "fc8.bias": (n_classes,)}
    problems = [
        f"{name} ({names[name]}): shape {weights[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if weights[name].shape != shape
    ]
    problems += [
        f"{name} ({names[name]}): holds values that are not finite"
        for name, value in weights.items()
        if not np.isfinite(value).all()
    ]
    if problems:
        raise TrunkError(f"{where}: weights do not fit\n{enumerate_problems(problems, shown=16)}")


def read_mean_bgr(path: Path) -> tuple[float, float, float]:
    """Read the mean colour of a mean picture, ``.binaryproto`` or ``.npy`` of shape (3, rows, columns) or (3,), BGR.

    Raises
    ------
    MissingDataError, TrunkError
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    if path.suffix == ".npy":
        try:
            mean = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise TrunkError(f"{path}: not an array of numbers: {error}") from error
    else:
        mean = read_mean(path)
    if mean.ndim not in (1, 3) or mean.shape[0] != 3 or mean.size == 0:
        raise TrunkError(f"{path}: a mean of shape {mean.shape}, expected (3, rows, columns) or (3,)")
    blue, green, red = mean.reshape(3, -1).astype(np.float64).mean(1).tolist()
    return blue, green, red


def convert(
    path: Path,
    name: str,
    architecture: str | None = None,
    mean_bgr: tuple[float, float, float] | None = None,
    preprocessing: str | None = None,
) -> tuple[dict[str, Tensor], TrunkCard]:
    """Convert weights of AlexNet's kind to a trunk with the same activations for the same pixels.

    Weights of Caffe expect blue, green and red in 0..255, less a mean. The order of colours is
    folded into the first convolution; the mean goes into the card, since in a fold it would be wrong where
    a convolution pads with zeros, which are the mean there.

    Parameters
    ----------
    path : a file of one of ``READERS``
    architecture : one of ``ARCHITECTURES``; None: as the file itself states
    mean_bgr : in 0..255; None: ImageNet's
    preprocessing : ``caffe`` or ``torchvision``; None: torchvision's for ``alexnet``, Caffe's for the others

    Raises
    ------
    MissingDataError, TrunkError, SettingsError
    """
    source = read_weight_file(path)
    names = assign_layers(source.tensors, str(path))
    values = {ours: source.tensors[theirs] for ours, theirs in names.items()}
    conv1 = values["conv1.weight"]
    if conv1.ndim != 4 or 3 not in (conv1.shape[1], conv1.shape[2]):
        raise TrunkError(
            f"{path}: conv1.weight ({names['conv1.weight']}): shape {conv1.shape}, which takes no 3 colours"
        )
    channels_last = conv1.shape[1] != 3
    weights = {ours: _as_ours(ours, value, channels_last) for ours, value in values.items()}
    fc_width = len(weights["fc6.weight"])
    if not 1 <= fc_width <= MAX_FC_WIDTH:
        raise TrunkError(
            f"{path}: fc6.weight: shape {weights['fc6.weight'].shape}, expected 1 to {MAX_FC_WIDTH:,} rows"
        )
    architecture = choose_architecture(source, len(weights["conv1.weight"]), fc_width, architecture, str(path))
    config = make_imported_config(architecture, fc_width)
    if channels_last:
        weights["fc6.weight"] = _rows_by_channel(weights["fc6.weight"], config.convs[-1].channels, config.pool5_px)
    _check_shapes(weights, config, names, str(path))

    preprocessing = preprocessing or ("torchvision" if architecture == "alexnet" else "caffe")
    if preprocessing == "torchvision" and mean_bgr is not None:
        raise SettingsError(
            "a mean is subtracted in Caffe's preprocessing, not in torchvision's; leave one of them out"
        )
    pixels = Preprocessing()
    if preprocessing == "caffe":
        mean_bgr = mean_bgr or IMAGENET_MEAN_BGR
        weights["conv1.weight"] = weights["conv1.weight"][:, ::-1]
        pixels = Preprocessing(mean=tuple(m / 255 for m in mean_bgr[::-1]), std=(1 / 255,) * 3)
    trained: dict[str, Any] = {
        "source": f"imported from {path.name} ({source.form}), sha256 {sha256_file(path)}",
        "input": f"{preprocessing}" + (f", mean of blue, green, red {list(mean_bgr)}" if mean_bgr else ""),
        "tensors": names,
    }
    card = TrunkCard(
        name=name,
        architecture=architecture,
        input_px=config.input_px,
        layers=config.widths,
        preprocessing=pixels,
        trained=trained,
    )
    return {k: torch.from_numpy(np.array(v, np.float32, order="C")) for k, v in weights.items()}, card
