"""Import torchvision even if its compiled operators cannot load.

torchvision's wheels on PyPI are built for CUDA; with a CPU-only torch their operator library does
not load, and ``import torchvision`` stops at the missing operator ``torchvision::nms``. Models,
feature extraction and transforms need none of these operators, so declaring the two that are named
at import is enough. Where the library loads, nothing is declared.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def import_torchvision() -> ModuleType:
    """Import ``torchvision``, and declare its operators first if they are missing."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in OPERATORS:
            library.define(operator)
        # The declarations live as long as the library object does.
        _DECLARED.append(library)
        import torchvision
    return torchvision


_DECLARED: list[torch.library.Library] = []
