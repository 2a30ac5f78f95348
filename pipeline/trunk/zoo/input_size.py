"""Networks at another input size than their own: what can be had, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

from pipeline.io.errors import TrunkError

T = TypeVar("T")


def check_px(name: str, px: int, patch_px: Any) -> None:
    """Refuse a size that a transformer's tokens do not cover.

    Parameters
    ----------
    px : side of the input
    patch_px : side of the square that becomes a token, or a pair of them; None for a network without

    Raises
    ------
    TrunkError
    """
    side = patch_px[0] if isinstance(patch_px, tuple | list) else patch_px
    if isinstance(side, int) and side and px % side:
        near = [n for n in (px // side * side, (px // side + 1) * side) if n]
        raise TrunkError(
            f"trunk {name!r}: got trunk_px {px}, expected a multiple of {side}, since a token is {side} px wide; "
            f"such as {' or '.join(map(str, near))}"
        )


def at_size(name: str, model: nn.Module, px: int, own: int, do: Callable[[], T]) -> T:
    """Make or run a network at a size, and say what hinders where it cannot be.

    Parameters
    ----------
    model : whose pools are watched
    px, own : side of the input, and the network's own
    do : makes or runs it

    Raises
    ------
    TrunkError
        The network cannot take this size, or pools a map to the size that its classifier expects: at its own size the
        map has that size, so that the weights know no such pooling.
    """
    if px == own:
        return do()
    try:
        with _pools_kept(model, px, own):
            return do()
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrunkError(
            f"trunk {name!r}: takes no patches of {px} px (trunk_px): {first}; its own size is {own} px"
        ) from error


def _places_read(module: nn.Module) -> tuple[Any, ...]:
    """Height and width of the map that fc layers read behind a pool, or in it; empty for other modules."""
    size = module.output_size if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) else None
    if size is None:
        size = getattr(module, "input_kernel_size", None)  # fc layers of timm's VGG, as convolutions
    return () if size is None else tuple(size) if isinstance(size, tuple | list) else (size, size)


@contextmanager
def _pools_kept(model: nn.Module, px: int, own: int) -> Iterator[None]:
    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        expected = _places_read(module)
        got = tuple(inputs[0].shape[-2:])
        if any(places not in (None, 1, here) for places, here in zip(expected, got, strict=True)):
            raise TrunkError(
                f"trunk_px {px}: a map of {got[0]} x {got[1]} places, expected {expected[0]} x {expected[1]}, which "
                "the fc layers behind it read, each place by weights of its own; take a convolutional node, or a size "
                f"that gives such a map: its own is {own} px"
            )

    hooks = [module.register_forward_pre_hook(check) for module in model.modules() if _places_read(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
