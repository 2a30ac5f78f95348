"""To which size a picture is extended for dense extraction. Imports no torch: plans count with it."""

from __future__ import annotations

LEADING_BITS = 5
"""Of the number of cells by which an extended picture is larger than a patch: the others are zeros."""


def extended_size(size: int, px: int, stride: int) -> int:
    """Return to how many pixels a side is extended: patches of `px` and whole cells of `stride`, in few sizes.

    Sizes that differ from `px` by whole strides give every map whole cells more, and paddings that depend on the size
    of the input are those of a patch. Of the number of cells only `LEADING_BITS` are kept, rounded up: the libraries
    prepare for each size of an input anew, and at most a sixteenth is added.

    >>> [extended_size(n, 224, 32) for n in (224, 225, 256, 700, 896, 1195, 1249, 2240)]
    [224, 256, 256, 704, 896, 1216, 1312, 2272]
    """
    cells = -(-(size - px) // stride)
    step = 2 ** max(0, cells.bit_length() - LEADING_BITS)
    return px + stride * step * -(-cells // step)
