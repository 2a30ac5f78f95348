"""Values inside of attention, by head: queries, keys, values and their products, which look like maps and are none.

A value (n, heads, tokens, tokens) has the shape of a map (n, channels, height, width), and so have queries where a head
has as many columns as there are tokens. What tells them apart is the network: it multiplies two computed values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = {"matmul", "einsum", "scaleddotproductattention"}
"""Operations that multiply two values, as `plain_name` writes them."""
KEEPING = {
    *("transpose", "permute", "swapaxes", "get", "contiguous", "clone", "to", "typeas", "float", "half", "bfloat16"),
    *("add", "iadd", "radd", "sub", "isub", "rsub", "subtract", "mul", "imul", "rmul", "multiply", "neg", "negative"),
    *("div", "idiv", "truediv", "itruediv", "divide", "pow", "power", "sqrt", "exp", "minimum", "maximum", "clamp"),
    *("softmax", "logsoftmax", "sigmoid", "tanh", "relu", "elu", "gelu", "silu", "swish", "dropout", "maskedfill"),
    *("where", "select", "cat", "concat", "split", "variadicsplit", "chunk", "getitem", "slice", "stridedslice"),
    *("convert", "layernorm", "rmsnorm", "normalize", "mvn", "roll", "flip"),
}
"""Operations that keep the axes of what they read, or exchange them; ``get``: properties, such as ``mT``."""
RANK = 4


class Step(NamedTuple):
    """One operation of a network.

    Attributes
    ----------
    name : of the operation, see `plain_name`
    inputs, outputs : values that depend on the patch and have four axes, by any keys
    """

    name: str
    inputs: tuple[Hashable, ...]
    outputs: tuple[Hashable, ...]


def plain_name(name: str) -> str:
    """Return an operation's name as `PRODUCTS` and `KEEPING` have it.

    >>> plain_name("scaled_dot_product_attention"), plain_name("MatMul"), plain_name("__rmul__")
    ('scaleddotproductattention', 'matmul', 'rmul')
    """
    return name.replace("_", "").lower()


def inside_attention(steps: Sequence[Step]) -> set[Hashable]:
    """Return the values that are factors of a product of two computed values, or come from one, with the same axes.

    Parameters
    ----------
    steps : in the order in which they run
    """
    keeping = [step for step in steps if step.name in KEEPING]
    found: set[Hashable] = set()
    factors: set[Hashable] = set()
    for step in steps:
        if step.name in PRODUCTS and len(step.inputs) > 1:
            factors.update(step.inputs)
            found.update(step.outputs)
        elif step.name in KEEPING and not found.isdisjoint(step.inputs):
            found.update(step.outputs)
    for step in reversed(keeping):
        if not factors.isdisjoint(step.outputs):
            factors.update(step.inputs)
    return found | factors


class AttentionRecorder(TorchFunctionMode):
    """Records which values of a network of torch are inside of attention, while the network runs.

    Parameters
    ----------
    patches : what the network is run on
    """

    def __init__(self, patches: Tensor) -> None:
        super().__init__()
        self._computed: dict[int, Tensor] = {id(patches): patches}  # kept, so that no other tensor gets its id
        self._steps: list[Step] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        read = [value for value in _tensors((args, kwargs or {})) if id(value) in self._computed]
        if read:
            made = list(_tensors(result))
            self._computed.update((id(value), value) for value in made)
            ids = (tuple(dict.fromkeys(id(v) for v in of if v.ndim == RANK)) for of in (read, made))
            self._steps.append(Step(plain_name(getattr(function, "__name__", "")), *ids))
        return result

    def values(self) -> Callable[[Any], bool]:
        """Return a function that tells whether a value of the run is inside of attention."""
        found, computed = inside_attention(self._steps), self._computed
        return lambda value: id(value) in found and computed.get(id(value)) is value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
