"""The AlexNet family: C1 to FC7 in five configurations, one table of layers.

A configuration is a value (`AlexNetConfig`); one module runs them all. The layers that can be returned
are ``pool5`` (flattened, channel by row by column), ``fc6`` and ``fc7``, each after its ReLU.

Sources: Krizhevsky et al. (NIPS 2012) section 3; Oquab et al. (CVPR 2014) section 3.1; Jia et al. (Caffe, 2014)
for ``bvlc_alexnet`` and ``caffenet``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.trunk.registry import DEFAULT_LAYER


@dataclass(frozen=True)
class Conv:
    """One convolution, followed by ReLU and, where set, by response normalisation and 3/2 max pooling."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    response_norm: bool = False
    pool: bool = False


@dataclass(frozen=True)
class AlexNetConfig:
    """One row of the family: input size in pixels, five convolutions, widths of FC6 and FC7.

    Response normalisation divides by ``(norm_k + 1e-4 / 5 * sum of squares of 5 maps) ** 0.75``.
    """

    input_px: int
    convs: tuple[Conv, Conv, Conv, Conv, Conv]
    fc_widths: tuple[int, int]
    norm_k: float = 2.0
    norm_after_pool: bool = False
    norm_in_float32: bool = False

    @property
    def pool5_px(self) -> int:
        """Side of the pool5 map in cells, by the usual floor arithmetic of convolution and pooling."""
        side = self.input_px
        for conv in self.convs:
            side = (side + 2 * conv.padding - conv.kernel) // conv.stride + 1
            if conv.pool:
                side = (side - 3) // 2 + 1
        return side

    @property
    def stride(self) -> int:
        """Pixels of the input from one cell of pool5 to the next."""
        return math.prod(conv.stride * (2 if conv.pool else 1) for conv in self.convs)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each layer."""
        pool5 = self.convs[-1].channels * self.pool5_px**2
        return {"pool5": pool5, "fc6": self.fc_widths[0], "fc7": self.fc_widths[1]}


KRIZHEVSKY = AlexNetConfig(
    input_px=224,
    convs=(
        # 227 px without padding and 224 px with padding 2 give the same 55 cells; see `krizhevsky`.
        Conv(96, 11, stride=4, padding=2, response_norm=True, pool=True),
        Conv(256, 5, padding=2, groups=2, response_norm=True, pool=True),
        Conv(384, 3, padding=1),
        Conv(384, 3, padding=1, groups=2),
        Conv(256, 3, padding=1, groups=2, pool=True),
    ),
    fc_widths=(4096, 4096),
)

# Caffe's reading of the same network: k = 1, and inputs of -128 to 151 instead of -2 to 3, so that the squares in
# the response normalisation do not fit float16.
BVLC_ALEXNET = replace(
    KRIZHEVSKY,
    input_px=227,
    convs=(replace(KRIZHEVSKY.convs[0], padding=0), *KRIZHEVSKY.convs[1:]),
    norm_k=1.0,
    norm_in_float32=True,
)
CAFFENET = replace(BVLC_ALEXNET, norm_after_pool=True)

ALEXNET = AlexNetConfig(
    input_px=224,
    convs=(
        Conv(64, 11, stride=4, padding=2, pool=True),
        Conv(192, 5, padding=2, pool=True),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1),
        Conv(256, 3, padding=1, pool=True),
    ),
    fc_widths=(4096, 4096),
)

ALEXNET64 = AlexNetConfig(
    input_px=64,
    convs=(
        Conv(48, 5, stride=2, padding=2, pool=True),
        Conv(96, 5, padding=2, pool=True),
        Conv(192, 3, padding=1),
        Conv(192, 3, padding=1),
        Conv(128, 3, padding=1, pool=True),
    ),
    fc_widths=(1024, 1024),
)

CONFIGS = {
    "krizhevsky": KRIZHEVSKY,
    "alexnet": ALEXNET,
    "alexnet64": ALEXNET64,
    "bvlc_alexnet": BVLC_ALEXNET,
    "caffenet": CAFFENET,
}


def krizhevsky(input_px: int = 224, fc_width: int = 4096) -> AlexNetConfig:
    """Make the paper's configuration at 224 or 227 px, with FC6 and FC7 `fc_width` (4096 or 6144) wide.

    >>> krizhevsky(227).pool5_px == krizhevsky(224).pool5_px == 6
    True
    """
    if input_px not in (224, 227):
        raise ValueError(f"input_px must be 224 or 227, got {input_px}")
    first = replace(KRIZHEVSKY.convs[0], padding=2 if input_px == 224 else 0)
    return replace(
        KRIZHEVSKY,
        input_px=input_px,
        convs=(first, *KRIZHEVSKY.convs[1:]),
        fc_widths=(fc_width, fc_width),
    )


def make_config(architecture: str, fc_width: int | None = None) -> AlexNetConfig:
    """Make a configuration by name, with FC6 and FC7 `fc_width` wide if given.

    >>> make_config("alexnet64", 2048).widths["fc7"], make_config("alexnet64").widths["fc7"]
    (2048, 1024)
    """
    config = CONFIGS[architecture]
    return config if fc_width is None else replace(config, fc_widths=(fc_width, fc_width))


class AlexNet(nn.Module):
    """C1 to FC7 of one configuration.

    Parameters
    ----------
    config : AlexNetConfig
    batch_norm : bool
        Batch normalisation before each ReLU; for pre-training only. `fold_batch_norm` gives the
        plain network that computes the same.
    dropout : float
        Share of the inputs of FC6 and FC7 that is dropped in training mode.
    """

    def __init__(self, config: AlexNetConfig, batch_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        channels = 3
        for index, conv in enumerate(config.convs, start=1):
            layer = nn.Conv2d(
                channels,
                conv.channels,
                conv.kernel,
                conv.stride,
                conv.padding,
                groups=conv.groups,
                bias=not batch_norm,
            )
            self.add_module(f"conv{index}", layer)
            if batch_norm:
                self.add_module(f"norm{index}", nn.BatchNorm2d(conv.channels))
            channels = conv.channels
        n_inputs = config.widths["pool5"]
        for index, width in enumerate(config.fc_widths, start=6):
            self.add_module(f"fc{index}", nn.Linear(n_inputs, width, bias=not batch_norm))
            if batch_norm:
                self.add_module(f"norm{index}", nn.BatchNorm1d(width))
            n_inputs = width
        self.batch_norm = batch_norm
        self.response_norm = nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=config.norm_k)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)
        self.dropout = nn.Dropout(dropout)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        """Apply the layer `name` (conv1 ... fc7) and, in pre-training, its batch norm."""
        x = self.get_submodule(name)(x)
        return self.get_submodule(f"norm{name[-1]}")(x) if self.batch_norm else x

    def _normalise(self, x: Tensor) -> Tensor:
        return self.response_norm(x.float()).to(x.dtype) if self.config.norm_in_float32 else self.response_norm(x)

    def forward(self, x: Tensor, layers: Iterable[str] = (DEFAULT_LAYER,)) -> dict[str, Tensor]:
        """Compute the activations of the given layers; nothing beyond the last one is computed.

        Parameters
        ----------
        x : Tensor of shape (n, 3, input_px, input_px), float, normalised
        layers : names out of `pipeline.trunk.registry.LAYERS`

        Returns
        -------
        dict of layer -> Tensor of shape (n, width), non-negative
        """
        return self.connect(torch.flatten(self.convolve(x), 1), layers)

    def convolve(self, x: Tensor) -> Tensor:
        """Compute C1 to C5: the map of pool5 over pictures of any size, one cell per ``config.stride`` pixels."""
        for index, conv in enumerate(self.config.convs, start=1):
            x = self._linear(f"conv{index}", x)
            # The order ReLU, response norm, pool is the published one; CaffeNet pools first. Max and ReLU
            # commute exactly, and pooling first leaves ReLU a quarter of the cells.
            if conv.response_norm and not self.config.norm_after_pool:
                x = self._normalise(torch.relu(x))
                x = self.pool(x) if conv.pool else x
            elif conv.response_norm:
                x = self._normalise(torch.relu(self.pool(x) if conv.pool else x))
            else:
                x = torch.relu(self.pool(x) if conv.pool else x)
        return x

    def connect(self, pool5: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Compute FC6 and FC7, as far as requested, from pool5 of shape (n, width); otherwise as `forward`."""
        wanted = set(layers)
        out = {"pool5": pool5} if "pool5" in wanted else {}
        x = pool5
        for name in ("fc6", "fc7"):
            if wanted <= out.keys():
                break
            x = torch.relu(self._linear(name, self.dropout(x)))
            if name in wanted:
                out[name] = x
        return out


@torch.no_grad()
def fold_batch_norm(trained: AlexNet) -> dict[str, Tensor]:
    """Make the weights of the plain network that computes the same as `trained` in eval mode.

    Returns
    -------
    dict of name -> float32 Tensor, loadable into ``AlexNet(trained.config)``
    """
    folded = {}
    for name in [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7"]:
        layer, norm = trained.get_submodule(name), trained.get_submodule(f"norm{name[-1]}")
        assert isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None  # they are tracked, as by default
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        folded[f"{name}.weight"] = layer.weight * factor.view(-1, *[1] * (layer.weight.ndim - 1))
        folded[f"{name}.bias"] = norm.bias - norm.running_mean * factor
    return {name: tensor.float().contiguous() for name, tensor in folded.items()}
