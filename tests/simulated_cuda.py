"""A CUDA device in software: real numbers, real threads, and the worst timing that CUDA allows.

A tensor that is moved to ``cuda:0`` becomes a `DeviceTensor`. Its operations join one queue, as in a stream of CUDA.
The CPU computes the values, so rows can be compared bit for bit with those of a run on the CPU.

- ``late``: an operation runs only when something waits for it. Until then, page-locked memory that it will write holds
  NaN, and page-locked memory that it will read is not read. A missing wait shows, and so does a source that is
  overwritten too early.
- ``early``: an operation runs at once. A target that is overwritten before it was read shows.

Tensors of CPU and device do not mix, as on a real device. Counted are waits other than for an event, copies from
pageable memory, and operations.

Gradients are computed there too. Not simulated: speed, several streams, CUDA graphs, memory that runs out.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.trunk import resample
from pipeline.trunk.runner import cpu_has_bf16

Timing = Literal["late", "early"]
CUDA = torch.device("cuda", 0)
NOT_WRITTEN = 0xA5
"""Each byte of integers that nobody has written yet; floats are NaN."""

aten = torch.ops.aten
ASKS_FOR_VALUES = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
}
"""Operations whose answer or whose shape depends on values: the CPU waits for the device."""


class CopiedFunctions:
    """A C++ object that has the virtual functions of another one, some of them replaced.

    Parameters
    ----------
    of : address of an object that holds nothing but the pointer to its functions
    n : number of functions that are copied
    replaced : by index, the index of the function that takes its place

    Attributes
    ----------
    pointer : to the functions
    address : of the object
    """

    def __init__(self, of: int, n: int, replaced: Mapping[int, int], also: Mapping[int, int] | None = None) -> None:
        words = 2  # about the type, before the functions
        start = word_at(of) - 8 * words
        self._table = (ctypes.c_void_p * (words + n)).from_buffer_copy(ctypes.string_at(start, 8 * (words + n)))
        for index, other in replaced.items():
            self._table[words + index] = word_at(word_at(of) + 8 * other)
        for index, function in (also or {}).items():
            self._table[words + index] = function
        self.pointer = ctypes.addressof(self._table) + 8 * words
        self._object = ctypes.c_void_p(self.pointer)
        self.address = ctypes.addressof(self._object)


def word_at(address: int) -> int:
    return int(ctypes.c_void_p.from_address(address).value or 0)


@functools.cache
def allow_cuda_tensors() -> tuple[Any, ...]:
    """Let a torch without CUDA index tensors that say they are on CUDA, and compute their gradients.

    It looks up a guard for each kind of device, and has none for CUDA. The guard of ``meta`` does nothing; a copy of it
    that says it is CUDA's takes that place in the table of this process. torch starts the threads that compute
    gradients on devices with the first gradient of a process, one per device of these guards: this comes before.

    Returns
    -------
    address of the object that torch asks whether it was built with CUDA, functions with which it says yes, and
    whatever has to live as long as the process
    """
    folder = Path(torch.__file__).parent / "lib"
    core, library = (ctypes.CDLL(str(folder / name)) for name in ("libc10.so", "libtorch_cpu.so"))
    guards = (ctypes.c_void_p * 22).in_dll(core, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # c10/core/DeviceType.h
    # c10/core/impl/DeviceGuardImplInterface.h
    type_of, exchange_device, get_device, set_device, get_stream, new_stream, exchange_stream = 0, 1, 2, 3, 5, 8, 9
    record, block, count = 12, 13, 15
    gives_one = word_at(word_at(guards[meta]) + 8 * count)
    # There is 1 device of kind meta; 1 is also CUDA's number, and the bits of its device 0 and of a stream there.
    ones = dict.fromkeys((type_of, exchange_device, get_device, get_stream, new_stream, exchange_stream), count)
    of_cuda = CopiedFunctions(guards[meta], 26, {**ones, record: set_device, block: set_device})
    if not guards[cuda]:
        guards[cuda] = of_cuda.address
    get_hooks = library._ZN2at6detail12getCUDAHooksEv
    get_hooks.restype = ctypes.c_void_p
    is_built, has_primary_context = 2, 4  # ATen/detail/AcceleratorHooksInterface.h
    says_yes = CopiedFunctions(get_hooks(), 56, {}, {is_built: gives_one, has_primary_context: gives_one})
    return get_hooks(), says_yes, of_cuda


@contextlib.contextmanager
def built_with_cuda() -> Iterator[None]:
    """Let torch say that it was built with CUDA: for gradients on a device it asks which accelerator there is."""
    hooks, says_yes, *_ = allow_cuda_tensors()
    pointer = ctypes.c_void_p.from_address(hooks)
    own, pointer.value = pointer.value, says_yes.pointer
    try:
        yield
    finally:
        pointer.value = own


allow_cuda_tensors()


class Cell:
    """The value of a `DeviceTensor`, there as soon as its operation has run."""

    value: Tensor


class DeviceTensor(Tensor):
    """A tensor on the simulated device: shape and strides are known at once, values when the device has computed.

    Attributes
    ----------
    meta : Tensor of device ``meta``: shape, strides, type, and which tensors share memory
    cell : its value
    """

    meta: Tensor
    cell: Cell

    @staticmethod
    def __new__(cls, meta: Tensor, cell: Cell) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            meta.size(),
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            layout=meta.layout,
            device=CUDA,
        )
        made.meta, made.cell = meta, cell
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # In a thread without the mode.
        return _active().run(func, args, kwargs or {})


class SimulatedCuda:
    """The device, its one queue, and what was counted.

    Attributes
    ----------
    waits : reasons why the CPU waited for the whole queue; waiting for an event is none
    pageable : copies from memory that is not page-locked
    operations : number of operations that joined the queue, views included
    """

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.waits: list[str] = []
        self.pageable: list[str] = []
        self.operations = 0
        self._lock = threading.RLock()
        self._queue: list[Callable[[], None]] = []
        self._done = 0
        # Held until the end: an address that is free again may be that of pageable memory next.
        self._page_locked: dict[int, Tensor] = {}

    def forget_counts(self) -> None:
        """Begin to count anew, such as after a network was moved to the device."""
        self.waits, self.pageable, self.operations = [], [], 0

    # The queue

    @property
    def position(self) -> int:
        """Number of operations so far: an event recorded now waits for as many."""
        with self._lock:
            return self._done + len(self._queue)

    def run_until(self, position: int) -> None:
        """Run the operations that joined the queue before a position."""
        with self._lock, torch.inference_mode(), _disable_current_modes():
            while self._queue and self._done < position:
                self._queue.pop(0)()
                self._done += 1

    def wait(self, reason: str) -> None:
        """Run all operations, since the CPU waits for the device."""
        self.waits.append(reason)
        self.run_until(self.position)

    def _join(self, work: Callable[[], None]) -> None:
        self.operations += 1
        self._queue.append(work)
        if self.timing == "early":
            self.run_until(self.position)

    # Memory of the CPU

    def page_lock(self, tensor: Tensor) -> Tensor:
        self._page_locked[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def is_page_locked(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._page_locked

    # Operations

    def run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one operation of torch: on the CPU as it is, on the device by way of the queue."""
        with self._lock:
            leaves = tree_leaves((args, kwargs))
            on_device = any(isinstance(leaf, DeviceTensor) for leaf in leaves)
            target = None if kwargs.get("device") is None else torch.device(kwargs["device"])
            if not on_device and (target is None or target.type != "cuda"):
                return self._run_on_cpu(func, args, kwargs)
            if func is aten.is_pinned.default:
                return False
            if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
                # Inference mode leaves an operation that is made of others whole.
                with _Mode(self):
                    return func.decompose(*args, **kwargs)
            if func is aten._to_copy.default and (not on_device or (target is not None and target.type == "cpu")):
                return self._copy_across(args[0], kwargs)
            if func is aten.copy_.default and {type(args[0]), type(args[1])} != {DeviceTensor}:
                return self._copy_into(*args)
            return self._run_on_device(func, args, kwargs)

    def _run_on_cpu(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func is aten.is_pinned.default:
            return self.is_page_locked(args[0])
        if func in (aten.pin_memory.default, aten._pin_memory.default):
            return self.page_lock(args[0].clone())
        if kwargs.get("pin_memory"):
            return self.page_lock(func(*args, **{**kwargs, "pin_memory": None}))
        return func(*args, **kwargs)

    def _copy_across(self, source: Tensor, kwargs: Mapping[str, Any]) -> Tensor:
        """Run ``Tensor.to`` between CPU and device."""
        others = {key: kwargs[key] for key in ("dtype", "memory_format") if kwargs.get(key) is not None}
        if others.get("dtype") is source.dtype:
            del others["dtype"]
        if others.get("memory_format") is torch.preserve_format:
            del others["memory_format"]
        if isinstance(source, DeviceTensor):
            target = aten._to_copy.default(torch.empty_like(source.meta, device="cpu"), **others)
            # As torch does: memory for a copy that nobody waits for is page-locked.
            if kwargs.get("non_blocking"):
                self.page_lock(target)
            return self._copy_into(target, source, kwargs.get("non_blocking", False))
        if others:
            source = aten._to_copy.default(source, **others)
        shape = torch.empty_like(source, device="meta")
        target = self._new_tensors(shape, {})
        self._join(functools.partial(_allocate_like, target.cell, source))
        return self._copy_into(target, source, kwargs.get("non_blocking", False))

    def _copy_into(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """Run ``Tensor.copy_`` between CPU and device."""
        if isinstance(target, DeviceTensor):
            cell = target.cell
            if not self.is_page_locked(source):
                # The driver reads such memory before it returns.
                self.pageable.append(f"of shape {tuple(source.shape)}")
                source = source.clone()
            self._join(lambda: cell.value.copy_(source))
            if not non_blocking:
                self.wait(f"copy of shape {tuple(source.shape)} to the device")
            return target
        cell = source.cell
        if non_blocking and self.is_page_locked(target):
            spoil(target)
            self._join(lambda: target.copy_(cell.value))
        else:
            self.wait(f"copy of shape {tuple(source.shape)} from the device")
            target.copy_(cell.value)
        return target

    def _run_on_device(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func in (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default):
            args = [args[0], [self._to_index(index) for index in args[1]], *args[2:]]
        foreign = [
            leaf
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor) and not isinstance(leaf, DeviceTensor) and leaf.ndim
        ]
        if foreign:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in foreign)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu: "
                f"{func} with a tensor of the CPU of shape {shapes}"
            )
        kwargs = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "non_blocking")}
        if func in ASKS_FOR_VALUES or any(_is_mask(leaf) for leaf in _indices(func, args)):
            return self._ask(func, args, kwargs)
        owners: dict[int, DeviceTensor] = {}

        def to_meta(leaf: Any) -> Any:
            if isinstance(leaf, DeviceTensor):
                owners[id(leaf.meta)] = leaf
                return leaf.meta
            return leaf

        result = func(*tree_map(to_meta, args), **_placed(tree_map(to_meta, kwargs), "meta"))
        tensors = tree_map(lambda leaf: self._new_tensors(leaf, owners), result)
        cells = [leaf.cell if isinstance(leaf, DeviceTensor) else None for leaf in tree_leaves(tensors)]
        in_cells = tree_map(lambda leaf: leaf.cell if isinstance(leaf, DeviceTensor) else leaf, (args, kwargs))

        # The CPU may lay a result out in another way than CUDA, so that a view of it is none.
        on_cpu = aten.reshape.default if func is aten.view.default else func

        def compute() -> None:
            own_args, own_kwargs = tree_map(lambda leaf: leaf.value if isinstance(leaf, Cell) else leaf, in_cells)
            values = tree_leaves(on_cpu(*own_args, **_placed(own_kwargs, "cpu")))
            for cell, value in zip(cells, values, strict=True):
                if cell is not None:
                    if func._schema.name.startswith(("aten::empty", "aten::new_empty")):
                        spoil(value)
                    cell.value = value

        self._join(compute)
        return tensors

    def _to_index(self, index: Tensor | None) -> Tensor | None:
        """Return an index on the device; torch moves one from the CPU itself, and waits."""
        if index is None or isinstance(index, DeviceTensor):
            return index
        return self._copy_across(index, {"device": CUDA})

    def _ask(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Wait for the device, and compute at once."""
        self.wait(str(func))
        args, kwargs = tree_map(
            lambda leaf: leaf.cell.value if isinstance(leaf, DeviceTensor) else leaf, (args, kwargs)
        )
        result = func(*args, **_placed(kwargs, "cpu"))

        def hold(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            made = self._new_tensors(torch.empty_like(leaf, device="meta"), {})
            made.cell.value = leaf
            return made

        return tree_map(hold, result)

    @staticmethod
    def _new_tensors(leaf: Any, owners: Mapping[int, DeviceTensor]) -> Any:
        """Return the `DeviceTensor` of a result of ``meta``; the operand itself where it was changed in place."""
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in owners:
            return owners[id(leaf)]
        with torch.inference_mode(leaf.is_inference()):
            return DeviceTensor(leaf, Cell())


def _indices(func: Any, args: Sequence[Any]) -> list[Any]:
    return tree_leaves(args[1]) if func in (aten.index.Tensor, aten.index_put_.default) else []


def _is_mask(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8)


def _placed(kwargs: Mapping[str, Any], device: str) -> dict[str, Any]:
    return {key: torch.device(device) if key == "device" and value else value for key, value in kwargs.items()}


def _allocate_like(cell: Cell, source: Tensor) -> None:
    cell.value = torch.empty_like(source)


def spoil(tensor: Tensor) -> None:
    """Fill memory that nobody has written yet, so that reading it shows."""
    if tensor.is_floating_point():
        tensor.fill_(float("nan"))
    elif tensor.dtype is torch.bool:
        tensor.fill_(True)
    else:
        tensor.fill_(NOT_WRITTEN if tensor.dtype is torch.uint8 else -(2**6))


class Event:
    """Stands for ``torch.cuda.Event``."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self._position: int | None = None

    def record(self, stream: object = None) -> None:
        self._position = _active().position

    def query(self) -> bool:
        return self._position is None or _active()._done >= self._position

    def synchronize(self) -> None:
        # One that was never recorded has nothing to wait for.
        if self._position is not None:
            _active().run_until(self._position)


class _Mode(TorchDispatchMode):
    def __init__(self, device: SimulatedCuda) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._device.run(func, args, kwargs or {})


_simulated: list[SimulatedCuda] = []


def _active() -> SimulatedCuda:
    if not _simulated:
        raise RuntimeError("a tensor of the simulated device is used outside of it")
    return _simulated[-1]


def _submit_with_mode(submit: Callable[..., Future[Any]], device: SimulatedCuda) -> Callable[..., Future[Any]]:
    """Wrap ``ThreadPoolExecutor.submit``: modes of torch belong to one thread."""

    def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with _Mode(device):
            return function(*args, **kwargs)

    def submit_with_mode(self: ThreadPoolExecutor, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return submit(self, run, function, *args, **kwargs)

    return submit_with_mode


PROPERTIES = types.SimpleNamespace(
    uuid="simulated", name="simulated", total_memory=2**37, multi_processor_count=132, major=9, minor=0
)


@contextlib.contextmanager
def simulated_cuda(timing: Timing = "late") -> Iterator[SimulatedCuda]:
    """Give this process one simulated CUDA device within a ``with`` block."""
    allow_cuda_tensors()
    device = SimulatedCuda(timing)
    replaced = {
        "Event": Event,
        "current_stream": lambda device=None: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda index=0: PROPERTIES,
        "get_device_capability": lambda index=0: (PROPERTIES.major, PROPERTIES.minor),
        "get_device_name": lambda index=0: PROPERTIES.name,
        "is_bf16_supported": lambda including_emulation=True: cpu_has_bf16(),
        "mem_get_info": lambda index=0: (2**36, 2**37),
        "synchronize": lambda index=None: device.wait("torch.cuda.synchronize"),
        "manual_seed_all": lambda seed: None,
        "_lazy_init": lambda: None,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **replaced))
        stack.enter_context(built_with_cuda())
        submit = _submit_with_mode(ThreadPoolExecutor.submit, device)
        stack.enter_context(mock.patch.object(ThreadPoolExecutor, "submit", submit))
        lifted = torch._C._only_lift_cpu_tensors()
        # Otherwise torch.tensor(..., device="cuda") copies where no mode sees it.
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        # Otherwise Module.to keeps each parameter's own type.
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        # Tensors on this device that the next one would take for its own.
        stack.callback(resample._weights_on.cache_clear)
        _simulated.append(device)
        stack.callback(_simulated.pop)
        stack.enter_context(_Mode(device))
        yield device


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Run on CUDA without values: shapes, types and devices alone, as torch's own FakeTensorMode knows them."""
    allow_cuda_tensors()
    replaced = {"Event": mock.Mock, "current_stream": lambda device=None: None}
    with (
        mock.patch.multiple(torch.cuda, **replaced),
        mock.patch.object(Tensor, "pin_memory", lambda self: self),
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
    ):
        yield mode
