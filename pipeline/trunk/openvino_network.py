"""A frozen network run by OpenVINO on a CPU, in batches of fixed sizes.

OpenVINO is an optional extra: ``pip install 'pipeline[openvino]'``. Networks are converted from torch's trace of them.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.io.errors import SettingsError, TrunkError
from pipeline.trunk.onnx.network import OnnxNetwork

SIZES_HELD = 2
"""Sizes of batches whose compiled form stays in memory."""
TRACED_ROWS = 2
TOLERANCE = 2e-3
"""Largest difference of a converted network from torch's, both in fp32, as a share of a row's norm."""
LARGEST_MAP_BYTES = 2**25
"""Of the largest activation of a batch, in bytes of bf16: with more, batches leave the processor's cache."""


class OpenVinoNetwork(nn.Module):
    """A frozen network that OpenVINO runs.

    A batch of each size is compiled for that size, so that a row depends on nothing but its patch and the size.

    Parameters
    ----------
    network : of an ONNX file; or of torch, in fp32 on the CPU, which is converted; turns a
        Tensor (n, 3, px, px) into a Tensor (n, width)
    px : side of a patch in pixels
    precision : ``fp32`` or ``bf16``

    Raises
    ------
    SettingsError
        This processor has no bfloat16.
    TrunkError
        The network cannot be converted, or gives other rows than torch does.
    """

    def __init__(self, network: nn.Module, px: int, precision: str) -> None:
        super().__init__()
        self._core = start_core(precision)
        self._px, self._precision = px, precision
        self._requests: OrderedDict[int, Any] = OrderedDict()
        if isinstance(network, OnnxNetwork):
            self._model = network.model
            return
        shape = (TRACED_ROWS, 3, px, px)
        traced, patches = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        with _explain_conversion():
            self._model = convert(network, traced)
            found = infer(self._compile(TRACED_ROWS, "fp32"), patches)
        with torch.inference_mode():
            check_conversion(found, network(patches).half())

    @cached_property
    def batch_rows(self) -> int:
        """Rows per batch, by the network alone: a power of two, 64 at most, whose largest map fits the bound."""
        model = self._model.clone()
        model.reshape([1, 3, self._px, self._px])
        sizes = [
            math.prod(output.get_shape())
            for node in model.get_ordered_ops()
            if node.get_type_name() not in ("Constant", "Parameter")
            for output in node.outputs()
            if output.get_partial_shape().is_static
        ]
        fitting = LARGEST_MAP_BYTES // (2 * max(sizes))
        return max(1, min(64, 2 ** int(math.log2(max(1, fitting)))))

    def _compile(self, n: int, precision: str) -> Any:
        """Compile the network for batches of `n`; return what runs them."""
        steps = _steps(self._model, [n, 3, self._px, self._px], precision)
        steps.output().tensor().set_element_type(_type("f16"))
        return _compile(self._core, steps, precision)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the rows of a batch (n, 3, px, px) of fp32 or bf16, as the arithmetic is: float16 (n, width)."""
        n = len(x)
        if n not in self._requests:
            self._requests[n] = self._compile(n, self._precision)
            while len(self._requests) > SIZES_HELD:
                self._requests.popitem(last=False)
        self._requests.move_to_end(n)
        return infer(self._requests[n], x)


class OpenVinoMaps:
    """The part of a network that runs over whole pictures, run by OpenVINO for pictures of any size.

    It is compiled once, for unknown sizes: what is prepared for a size is kept by OpenVINO, at most some thousand
    operations, and not for whole networks.

    Parameters
    ----------
    maps : in fp32 on the CPU; turns a Tensor (1, 3, height, width) into a tuple of maps
    px : side of a patch in pixels
    stride : pixels by which sides may be larger, or a multiple of them; None for inputs of `px` alone
    precision : ``fp32`` or ``bf16``

    Raises
    ------
    SettingsError, TrunkError
        As `OpenVinoNetwork`.
    """

    def __init__(self, maps: nn.Module, px: int, stride: int | None, precision: str) -> None:
        core = start_core(precision)
        self._sides = (px, px) if stride is None else (-1, -1)
        sizes = [(px, px), (px + (stride or 0), px + 3 * (stride or 0))]
        traced, picture = (
            torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed)) for seed, size in enumerate(sizes)
        )
        with _explain_conversion():
            self._model = convert(maps, traced)
            self._compiled = self._compile(core, "fp32")
            found = self(picture)
        with torch.inference_mode():
            for here, there in zip(found, maps(picture), strict=True):
                if here.shape != there.shape:
                    check_conversion(here, there)
                check_conversion(here.flatten(1).half(), there.flatten(1).half())
        if precision != "fp32":
            self._compiled = self._compile(core, precision)

    def _compile(self, core: Any, precision: str) -> Any:
        import openvino

        steps = _steps(self._model, [1, 3, *self._sides], precision)
        for index in range(len(self._model.outputs)):
            steps.output(index).tensor().set_element_type(openvino.Type.f32).set_layout(openvino.Layout("NHWC"))
            steps.output(index).model().set_layout(openvino.Layout("NCHW"))
        return _compile(core, steps, precision)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of one picture (1, 3, height, width) of fp32 or bf16: fp32 (1, channels, rows, columns)."""
        request = self._compiled
        _start(request, x)
        return [torch.from_numpy(out.data.copy()).permute(0, 3, 1, 2) for out in request.output_tensors]


def _type(name: str) -> Any:
    import openvino

    return getattr(openvino.Type, name)


def _element(precision: str) -> Any:
    return _type("bf16" if precision == "bf16" else "f32")


def start_core(precision: str) -> Any:
    """Start OpenVINO.

    Raises
    ------
    SettingsError
        This processor has no bfloat16.
    """
    import openvino

    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise SettingsError("backend openvino: this processor has no bfloat16; use precision: fp32")
    return core


@contextmanager
def _explain_conversion() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # its errors, and those of the trace, have no class in common
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
        why = next((line for line in lines if "No conversion rule" in line), lines[0] if lines else repr(error))
        raise TrunkError(f"backend openvino: the network cannot be converted: {why}; use backend: torch") from error


def _steps(model: Any, shape: list[int], precision: str) -> Any:
    """Begin to prepare a model for inputs of a shape (-1: any) that are channels-last in memory."""
    import openvino

    model = model.clone()
    model.reshape(shape)
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(_element(precision)).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    return steps


def _compile(core: Any, steps: Any, precision: str) -> Any:
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Several processes of one machine would be pinned to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(steps.build(), "CPU", options).create_infer_request()


def infer(request: Any, x: Tensor) -> Tensor:
    """Run one batch (n, 3, px, px); no copy is made of it where it is channels-last. Return float16 (n, width)."""
    _start(request, x)
    # The request writes its next batch into the same memory.
    return torch.from_numpy(request.get_output_tensor().data.copy())


def _start(request: Any, x: Tensor) -> None:
    import openvino

    pixels = x.permute(0, 2, 3, 1).contiguous()
    is_bf16 = x.dtype == torch.bfloat16
    # numpy has no bfloat16: its bits go as integers.
    values = (pixels.view(torch.int16) if is_bf16 else pixels).numpy()
    shape = openvino.Shape(list(pixels.shape))
    request.infer([openvino.Tensor(values, shape, _element("bf16" if is_bf16 else "fp32"))])


def check_conversion(found: Tensor, expected: Tensor) -> None:
    """Refuse rows, float16 (n, width), that differ from torch's: a trace may have fixed what depends on the patch.

    Raises
    ------
    TrunkError
    """
    if found.shape != expected.shape:
        shapes = f"{tuple(found.shape)}, torch gives {tuple(expected.shape)}"
        raise TrunkError(f"backend openvino: rows of shape {shapes}; use backend: torch")
    apart, norm = (found.float() - expected.float()).norm(dim=1), expected.float().norm(dim=1)
    # Of tiny values float16 keeps a multiple of 2**-24.
    rounding = 2**-24 * math.sqrt(expected.shape[1])
    if not bool((apart <= TOLERANCE * norm + rounding).all()):
        share = float((apart / norm.clamp(min=rounding)).max())
        raise TrunkError(
            f"backend openvino: rows differ from torch's by {share:.2g} of their norm in fp32, expected at most "
            f"{TOLERANCE:g}; use backend: torch"
        )


@torch.inference_mode()
def convert(network: nn.Module, patches: Tensor) -> Any:
    """Convert a network to OpenVINO's model, by torch's trace of it.

    OpenVINO's `convert_model` would do the same, and report each use to its maker over the network.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from torch.jit import TracerWarning  # type: ignore[attr-defined]

    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        decoder = TorchScriptPythonDecoder(network, example_input=patches)
    return frontend.convert(frontend.load(decoder))
