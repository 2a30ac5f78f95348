"""How much work a row is, counted while the network runs once; no time is measured.

Each operation tells its multiply-adds by torch's table of operations, and the values that it writes by its outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

VALUE_OPERATIONS = 100
"""Multiply-adds in the time of which one value is read and written: networks of few of them wait for memory.

``benchmarks/part_size.py`` measures how near to a minute this brings the parts of a dozen networks.
"""
PATCHES = 2
"""Patches that are counted together: networks are made for batches."""


class OperationCounter(TorchDispatchMode):
    """Counts the operations of everything that runs under it.

    Attributes
    ----------
    multiply_adds : of convolutions, products of matrices and attention
    values : written by operations of any kind; views write none
    """

    def __init__(self) -> None:
        # Imported here: torch's table is needed by extractions alone.
        from torch.utils.flop_counter import flop_registry

        super().__init__()
        self._flops = flop_registry
        self.multiply_adds = 0
        self.values = 0

    @property
    def operations(self) -> int:
        """Both, in multiply-adds."""
        return self.multiply_adds + VALUE_OPERATIONS * self.values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count_flops = self._flops.get(func._overloadpacket)
        if count_flops is None:
            # An operation that is made of others is counted as these.
            with self:
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        out = func(*args, **kwargs)
        if count_flops is not None:
            self.multiply_adds += count_flops(*args, **kwargs, out_val=out) // 2
        for value, declared in zip(
            out if isinstance(out, tuple | list) else (out,), func._schema.returns, strict=False
        ):
            is_view = declared.alias_info is not None and not declared.alias_info.is_write
            if isinstance(value, Tensor) and not is_view:
                self.values += value.numel()
        return out


@contextmanager
def _operations_one_by_one() -> Iterator[None]:
    """Let attention run as products of matrices on every device: fused forms tell no number of operations."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@torch.inference_mode()
def count_operations(network: nn.Module, px: int) -> int:
    """Count the operations per patch of a network, in multiply-adds, by running it on two black patches.

    What is counted follows from shapes alone: device, arithmetic and number of threads change nothing. Of an operation
    that torch's table does not have, and that is not made of others, only the values count.

    Parameters
    ----------
    network : turns a normalised Tensor (n, 3, px, px) into rows; on any device, in any arithmetic
    """
    weights = next((tensor for tensor in network.state_dict().values() if tensor.is_floating_point()), torch.zeros(1))
    # Outside of the counter: only the network counts.
    patches = torch.zeros(PATCHES, px, px, 3, dtype=weights.dtype, device=weights.device).permute(0, 3, 1, 2)
    counter = OperationCounter()
    with _operations_one_by_one(), counter:
        network(patches)
    return counter.operations // PATCHES
