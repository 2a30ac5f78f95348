"""Running a frozen trunk: device, arithmetic, memory layout."""

from __future__ import annotations

import re

import numpy as np
import torch

from pipeline.errors import PipelineError, SettingsError
from pipeline.trunk.trunk import Trunk

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises
    ------
    SettingsError
        CUDA is asked for and not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):  # torch knows others, which no trunk is run on
        raise SettingsError(f"device {device!r}: expected auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(f"device {device!r}: torch {torch.__version__} sees no CUDA device; use --device cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(f"device {device!r}: expected auto, cpu, cuda or cuda:N") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"device {device!r}: there are {torch.cuda.device_count()} CUDA devices")
    return found


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` is fp16 on CUDA, bf16 on a CPU that computes in it, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16 itself; emulated it would be slower than fp32."""
    return any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


class TrunkRunner:
    """Turns batches of patches into activations.

    Parameters
    ----------
    trunk : Trunk
    device : torch.device
    precision : {"fp32", "bf16", "fp16"}
    """

    def __init__(self, trunk: Trunk, device: torch.device, precision: str) -> None:
        if precision == "fp16" and device.type == "cpu":
            raise SettingsError("precision 'fp16': not on a CPU; use bf16 or fp32")
        self.trunk = trunk
        self.device = device
        self.precision = precision
        self.dtype = DTYPES[precision]
        self._network = trunk.network.to(device=device, dtype=self.dtype, memory_format=torch.channels_last)
        preprocessing = trunk.card.preprocessing
        self._mean = 255 * torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._gain = 1 / (255 * torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1))

    @property
    def precision_name(self) -> str:
        """Backend and arithmetic, as in a store's identity, such as ``cpu-bf16``."""
        return f"{self.device.type}-{self.precision}"

    @torch.inference_mode()
    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Activations of a batch.

        Parameters
        ----------
        patches : uint8 ndarray of shape (n, px, px, 3), RGB

        Returns
        -------
        float16 ndarray of shape (n, width)
        """
        batch = torch.from_numpy(patches)
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        # (n, px, px, 3) seen as (n, 3, px, px) is channels-last already: nothing is moved.
        batch = batch.permute(0, 3, 1, 2)
        inputs = ((batch.float() - self._mean) * self._gain).to(self.dtype)
        try:
            rows = self._network(inputs)
        except torch.OutOfMemoryError as error:
            raise PipelineError(
                f"the device's memory does not hold a batch of {len(patches)} patches; "
                "use a smaller --batch (another batch size is another store)"
            ) from error
        return rows.to(torch.float16).cpu().numpy()
