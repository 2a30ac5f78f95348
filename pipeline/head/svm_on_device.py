"""SVMs of a head on a GPU: all classes, folds and costs in one solve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.head.device import BLOCK_BYTES, upload, upload_numbers
from pipeline.head.newton import solver_bytes
from pipeline.head.svm_network import Svm
from pipeline.head.svm_newton import Problems, solve

PASSES = 200
"""Products with the vectors that a fit is taken to need, to say how large the work is."""


def operations(n_vectors: int, n_columns: int, n_svms: int) -> int:
    """Multiplications of a fit, about."""
    return 2 * PASSES * n_vectors * n_columns * n_svms


def working_bytes(n_vectors: int, n_columns: int, n_svms: int, n_forms: int) -> int:
    """Return the most bytes of the device's memory that a fit takes."""
    return solver_bytes(n_vectors, n_columns, n_svms, n_forms)


def fit(
    networks: Sequence[Svm],
    vectors: np.ndarray,
    labels: np.ndarray,
    insides: Sequence[np.ndarray],
    costs: Sequence[float],
    device: torch.device,
) -> list[list[int]]:
    """Set the weights of networks that have their standardisation; see `svm._fit_classes` for one of them.

    Parameters
    ----------
    vectors : float64 ndarray (n, n_columns)
    labels : int8 ndarray (n, n_classes), 1, 0, -1
    insides : of each network, bool ndarray (n,): the vectors that it is fitted on
    costs : C of each network

    Returns
    -------
    of each network the classes that did not converge
    """
    n_classes = labels.shape[1]
    signs = [labels * inside[:, None] for inside in insides]
    # A class of one side alone has no SVM: as if it saw no vector.
    usable = [(sign == 1).any(0) & (sign == -1).any(0) for sign in signs]
    seen = np.concatenate([sign * both for sign, both in zip(signs, usable, strict=True)], axis=1)
    solved = solve(
        Problems(
            _upload_vectors(vectors, device),
            upload(torch.stack([network.mean for network in networks]), device).double(),
            upload(torch.stack([network.inv_std for network in networks]), device).double(),
            upload_numbers(np.repeat(np.arange(len(networks)), n_classes).tolist(), device),
            upload(torch.from_numpy(seen.astype(np.int8)), device).double(),
            upload_numbers(np.repeat(costs, n_classes).tolist(), device, torch.float64),
        )
    )
    weight, bias, settled = (found.cpu().split(n_classes) for found in solved)
    for index, network in enumerate(networks):
        network.weight.copy_(weight[index])
        one_side = np.where((signs[index] == 1).any(0), 1.0, -1.0)
        network.bias.copy_(torch.where(torch.from_numpy(usable[index]), bias[index], torch.from_numpy(one_side)))
    return [np.flatnonzero(~of_network.numpy()).tolist() for of_network in settled]


def _upload_vectors(vectors: np.ndarray, device: torch.device) -> Tensor:
    """Copy vectors to the device block by block: float64 Tensor."""
    held = torch.empty(vectors.shape, dtype=torch.float64, device=device)
    n = max(1, BLOCK_BYTES // max(1, vectors[:1].nbytes))
    for start in range(0, len(vectors), n):
        held[start : start + n] = upload(torch.from_numpy(vectors[start : start + n]), device)
    return held
