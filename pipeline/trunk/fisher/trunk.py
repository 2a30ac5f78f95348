"""Fisher vectors of dense descriptors as a trunk: one vector per picture, from a Gaussian mixture.

A codebook (principal components, then a mixture of Gaussians) models the usual distribution of descriptors. The
Fisher vector describes how one picture's descriptors deviate from it: the gradient of their log-likelihood by the
means and deviations of the mixture.

Source: Perronnin, Sanchez and Mensink (ECCV 2010) for the vector, its power and its length; Sanchez,
Perronnin and de Campos (PRL 2012) for places next to descriptors instead of a spatial pyramid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.io.errors import TrunkError
from pipeline.io.messages import enumerate_problems
from pipeline.trunk.card import Preprocessing, TrunkCard
from pipeline.trunk.fisher.descriptors import CHANNELS, SPAN_PX, describe
from pipeline.trunk.registry import DEFAULT_LAYER
from pipeline.trunk.trunk import Trunk, load_state

ARCHITECTURE = LAYER = "fisher"
PIXELS_AS_THEY_ARE = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

PLACE_GAIN = math.sqrt(12)
"""Brings places, spread evenly over -0.5..0.5, to deviation 1, which components have too."""


def posteriors(x: Tensor, weights: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
    """Compute the probability of each Gaussian of a mixture, given a descriptor.

    Parameters
    ----------
    x : float Tensor of shape (n, d)
    weights : (k,), positive, sum 1
    means, deviations : (k, d); covariances are diagonal

    Returns
    -------
    Tensor of shape (n, k), each row of sum 1
    """
    inv_variance = deviations**-2
    # The squared distance, multiplied out: no tensor of n x k x d.
    distance = x**2 @ inv_variance.T - 2 * x @ (means * inv_variance).T + (means**2 * inv_variance).sum(1)
    return torch.softmax(weights.log() - deviations.log().sum(1) - distance / 2, 1)


def fisher_gradients(x: Tensor, weights: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
    """Compute the gradients of the mean log-likelihood by means and deviations, in units of their own spread.

    Parameters
    ----------
    x, weights, means, deviations : as in `posteriors`

    Returns
    -------
    Tensor of shape (2, k, d): by the means, by the deviations
    """
    share = posteriors(x, weights, means, deviations)
    moments = share.mean(0), share.T @ x / len(x), share.T @ x**2 / len(x)
    return gradients_of_moments(*moments, weights, means, deviations)


def gradients_of_moments(
    zeroth: Tensor, first: Tensor, second: Tensor, weights: Tensor, means: Tensor, deviations: Tensor
) -> Tensor:
    """Compute `fisher_gradients` from the mean posterior (k,), and those times x and x**2 (k, d)."""
    zeroth = zeroth[:, None]
    by_means = (first - zeroth * means) / deviations
    by_deviations = (second - 2 * means * first + zeroth * means**2) / deviations**2 - zeroth
    return torch.stack([by_means, by_deviations / math.sqrt(2)]) / weights.sqrt()[:, None]


def normalise_fisher(gradients: Tensor) -> Tensor:
    """Take signed square roots, then scale to length 1: Tensor of any shape -> the same, flat."""
    flat = gradients.flatten()
    flat = flat.sign() * flat.abs().sqrt()
    return flat / flat.norm().clamp(min=torch.finfo(flat.dtype).tiny)


class Codebook(nn.Module):
    """Components and mixture of one kind of descriptor."""

    centre: Tensor
    components: Tensor
    weights: Tensor
    means: Tensor
    deviations: Tensor

    def __init__(self, columns: int, components: int, words: int) -> None:
        super().__init__()
        shapes = {
            "centre": (columns,),
            "components": (columns, components),
            "weights": (words,),
            "means": (words, components + 2),
            "deviations": (words, components + 2),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    @property
    def width(self) -> int:
        return 2 * self.means.numel()

    def forward(self, rows: Tensor, places: Tensor) -> Tensor:
        """Descriptors (n, columns) and their places (n, 2) of one picture -> its normalised vector (width,)."""
        x = torch.cat([(rows - self.centre) @ self.components, PLACE_GAIN * places], 1)
        # In float64: the gradients are small differences of sums, and the square root lifts what is left of rounding.
        mixture = (tensor.double() for tensor in (self.weights, self.means, self.deviations))
        return normalise_fisher(fisher_gradients(x.double(), *mixture)).float()


class FisherNetwork(nn.Module):
    """Network that returns one vector per picture: the Fisher vectors of all kinds of descriptors, joined, of length 1.

    Parameters
    ----------
    sizes : (components, words) of the codebook of each kind, by the names of `CHANNELS`
    """

    def __init__(self, sizes: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self.books = nn.ModuleDict({kind: Codebook(columns, *sizes[kind]) for kind, columns in CHANNELS.items()})

    @property
    def width(self) -> int:
        return sum(book.width for book in self.codebooks.values())

    @property
    def codebooks(self) -> dict[str, Codebook]:
        """The codebook of each kind of descriptor."""
        return {kind: book for kind, book in self.books.items() if isinstance(book, Codebook)}

    def forward(self, pictures: Tensor) -> Tensor:
        """Tensor (n, 3, px, px) of 0..1 -> (n, width); a picture's row depends on no other picture."""
        return torch.stack([self._describe(picture.contiguous()) for picture in pictures])

    def _describe(self, picture: Tensor) -> Tensor:
        rows, places = describe(picture)
        vectors = [book(rows[kind], places) for kind, book in self.codebooks.items()]
        return torch.cat(vectors) / math.sqrt(len(vectors))


def _sizes_of(state: dict[str, Tensor], where: str) -> dict[str, tuple[int, int]]:
    sizes, problems = {}, []
    for kind in CHANNELS:
        name = f"books.{kind}.means"
        shape = tuple(state[name].shape) if name in state else None
        if shape is None or len(shape) != 2 or shape[0] < 1 or shape[1] < 3:
            problems.append(
                f"{name}: {'missing' if shape is None else f'shape {shape}'}, expected (words, components + 2)"
            )
        else:
            sizes[kind] = (shape[1] - 2, shape[0])
    if problems:
        raise TrunkError(f"{where}: not the codebook of Fisher vectors\n{enumerate_problems(problems)}")
    return sizes


def vector_width(state: dict[str, Tensor]) -> int:
    """Count the columns of a codebook's vectors."""
    return sum(2 * state[f"books.{kind}.means"].numel() for kind in CHANNELS)


def fisher_trunk(card: TrunkCard, state: dict[str, Tensor], layer: str, digest: str) -> Trunk:
    """Make a trunk from its card and its codebook.

    Raises
    ------
    TrunkError
        Another layer than ``fisher``; missing tensors, tensors of another shape or impossible for a mixture; a card
        that disagrees with them.
    """
    if layer not in (LAYER, DEFAULT_LAYER):
        raise TrunkError(f"trunk {card.name!r} has no layer {layer!r}; it has {LAYER}")
    sizes = _sizes_of(state, card.name)
    with torch.device("meta"):
        network = FisherNetwork(sizes)
    load_state(network, state, card.name)
    problems = []
    for kind, book in network.codebooks.items():
        if (book.deviations <= 0).any() or (book.weights <= 0).any():
            problems.append(f"books.{kind}: weights and deviations must be positive")
        if abs(book.weights.sum() - 1) > 1e-3:
            problems.append(f"books.{kind}: weights sum to {book.weights.sum():.4g}, expected 1")
    if card.preprocessing != PIXELS_AS_THEY_ARE:
        problems.append("preprocessing: expected mean 0 and std 1")
    if card.input_px < SPAN_PX:
        problems.append(f"input_px: got {card.input_px}, a descriptor alone takes {SPAN_PX}")
    if card.layers != {LAYER: network.width}:
        problems.append(f"layers: got {card.layers}, the codebook gives {LAYER}: {network.width}")
    if problems:
        raise TrunkError(f"{card.name}: not the codebook of Fisher vectors\n{enumerate_problems(problems)}")
    return Trunk(card, LAYER, network.width, digest, network.eval(), precision="fp32")
