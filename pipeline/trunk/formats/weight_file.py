"""Content of a weights file in any format: tensors by name, and facts of the network around them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class WeightFile:
    """Tensors of a file, and its statements on their use.

    Attributes
    ----------
    form : name of the file's format
    tensors : name -> float ndarray; convolutions (out, in / groups, rows, columns), linear (out, in),
        unless `channels_last` is set: (rows, columns, in / groups, out) and (in, out), maps flattened in
        the order row, column, channel
    order : layer kinds in the order in which they are run, out of conv, linear, norm, pool; None if the
        file does not state it
    norms : (size, alpha, beta, k) of each response normalisation
    groups : of each convolution
    """

    form: str
    tensors: dict[str, np.ndarray]
    channels_last: bool = False
    order: list[str] | None = None
    norms: list[tuple[int, float, float, float]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
