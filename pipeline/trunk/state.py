"""Tensors of a weights file, fitted to what one layer of a network needs of them.

A file may hold more than the layer needs (another last layer, an optimiser's copy), and less (no last layer). Names
may have the prefix of a wrapper. A file of a deeper network of the same kind also holds every tensor of the smaller
one, and is refused: it has tensors that the layer's own modules do not have.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.io.errors import TrunkError
from pipeline.io.messages import enumerate_problems

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PREFIXES = ("module.", "model.", "backbone.", "encoder.", "_orig_mod.")
"""Names that wrappers and training scripts put before a network's own names."""
SHOWN = 10


class _TensorRecorder(TorchFunctionMode):
    """Record which of some tensors are arguments of any operation."""

    def __init__(self, tensors: Mapping[int, list[str]]) -> None:
        super().__init__()
        self._tensors = tensors
        self.names: set[str] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in _leaves((args, kwargs or {})):
            if id(value) in self._tensors:
                self.names.update(self._tensors[id(value)])
        return function(*args, **(kwargs or {}))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


def record_used_tensors(network: nn.Module, run: Callable[[], Any]) -> tuple[Any, frozenset[str]]:
    """Run a computation; return its result and the names of the network's tensors that took part in it."""
    tensors: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        tensors.setdefault(id(tensor), []).append(name)
    with _TensorRecorder(tensors) as recorder:
        result = run()
    return result, frozenset(recorder.names)


@dataclass(frozen=True)
class FittedState:
    """A file's tensors under the network's names.

    Attributes
    ----------
    tensors : all of the file that belong to the network, without the prefix
    used : those that the layer needs
    complete : whether the file holds the whole network and nothing else
    notes : what was stripped and what is not used, for people
    """

    tensors: dict[str, Tensor]
    used: dict[str, Tensor]
    complete: bool
    notes: tuple[str, ...]

    @property
    def identity(self) -> dict[str, Tensor]:
        """Tensors that name the trunk: the whole file where it is the whole network, else those that are used."""
        return self.tensors if self.complete else self.used


def prefixes_of(state: Mapping[str, Any]) -> list[str]:
    """List the prefixes of a file's names, the empty one first, then the shorter ones.

    >>> prefixes_of({"module.model.conv1.weight": 0, "module.fc.bias": 0, "epoch": 0})
    ['', 'module.', 'module.model.']
    """
    found = {""}
    for name in state:
        prefix = ""
        while following := next((p for p in PREFIXES if name.startswith(prefix + p)), None):
            prefix += following
            found.add(prefix)
    return sorted(found, key=lambda p: (len(p), p))


def strip_prefix(state: Mapping[str, Tensor], needed: frozenset[str], where: str) -> tuple[str, dict[str, Tensor]]:
    """Find the prefix under which a file holds all needed tensors; return it, and the tensors without it.

    Where none holds all of them, the longest one that all names share is stripped.

    Raises
    ------
    TrunkError
        Several prefixes hold them: the file has several networks.
    """
    choices = prefixes_of(state)
    fitting = [prefix for prefix in choices if all(prefix + name in state for name in needed)]
    if len(fitting) > 1:
        names = ", ".join(repr(prefix) for prefix in fitting)
        raise TrunkError(
            f"{where}: holds several networks that fit, under the prefixes {names}; save one of them alone: "
            f"{{k: v for k, v in state.items() if k.startswith(PREFIX)}}"
        )
    prefix = fitting[0] if fitting else ""
    if not fitting and not any(name in state for name in needed):
        prefix = next((p for p in reversed(choices) if all(name.startswith(p) for name in state)), "")
    return prefix, {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def fit_state(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], modules: set[str], used: frozenset[str], where: str
) -> FittedState:
    """Fit a file's tensors to a layer of a network.

    Parameters
    ----------
    own : the network's tensors, which may be on the meta device
    modules : names of the network's modules
    used : names of the tensors that the layer needs
    where : what is loaded from where, for messages

    Raises
    ------
    TrunkError
        All tensors that the layer needs and that are missing, of another shape or type, or not finite; tensors
        that belong to a module of the layer and that the network does not have.
    """
    needed = frozenset(name for name in used if not name.endswith("num_batches_tracked"))
    prefix, stripped = strip_prefix(state, needed, where)
    problems = [
        f"{name}: missing, expected shape {tuple(own[name].shape)}"
        for name in own
        if name in needed and name not in stripped
    ]
    lacks = bool(problems)
    problems += [f"{name}: unknown" for name in stripped if _belongs_to_layer(name, own, modules, needed)]
    problems += [line for name in own if name in needed and name in stripped for line in _check(name, stripped, own)]
    if problems:
        lines = enumerate_problems(problems, SHOWN)
        if lacks:
            names = [name for name in state if not name.endswith("num_batches_tracked")]
            lines += f"\nthe file has {len(names)} tensors: {_some(names)}"
        raise TrunkError(
            f"{where}: weights do not fit\n{lines}\n"
            "the file must be of the same network, up to the layer (--layer, or NAME@LAYER; pipeline trunk show NAME)"
        )
    fitting = {name: value for name, value in stripped.items() if name in own and value.shape == own[name].shape}
    unused = [name for name in stripped if name not in used and not (name in own and name in fitting)]
    outside = [name for name in state if not name.startswith(prefix)]
    absent = [name for name in own if name not in fitting and not name.endswith("num_batches_tracked")]
    notes = [f"prefix {prefix!r} of the names in the file stripped"] if prefix else []
    if unused or outside:
        notes.append(f"{len(unused) + len(outside)} tensors of the file not used: {_some(unused + outside)}")
    left_out = [name for name in absent if name not in stripped]
    if left_out:
        notes.append(f"{len(left_out)} tensors that the layer does not need are not in the file: {_some(left_out)}")
    complete = not (unused or outside or absent)
    return FittedState(fitting, {k: v for k, v in stripped.items() if k in used}, complete, tuple(notes))


def _belongs_to_layer(name: str, own: Mapping[str, Tensor], modules: set[str], needed: frozenset[str]) -> bool:
    """Whether an unknown tensor lies in a module of which the layer needs tensors."""
    if name in own or name.endswith("num_batches_tracked"):
        return False
    owner = name.rpartition(".")[0]
    while owner and owner not in modules:
        owner = owner.rpartition(".")[0]
    return bool(owner) and any(known.startswith(f"{owner}.") for known in needed)


def _check(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    found, expected = state[name], own[name]
    if found.shape != expected.shape:
        return [f"{name}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"]
    if expected.is_floating_point() and found.dtype not in FLOATS:
        return [f"{name}: holds {str(found.dtype).removeprefix('torch.')}, expected a float type"]
    if not torch.isfinite(found.float()).all():
        return [f"{name}: holds values that are not finite"]
    return []


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def assign_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load fitted tensors into a network, as float32, and leave its other tensors as they are."""
    own = network.state_dict()
    floats = OrderedDict((k, v.float() if v.is_floating_point() else v) for k, v in state.items() if k in own)
    # Versions of modules, which files do not hold; they are an attribute that torch sets on its dict.
    floats._metadata = own._metadata  # type: ignore[attr-defined]
    network.load_state_dict(floats, strict=False, assign=True)
