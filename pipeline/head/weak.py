"""Weak supervision: a head fitted on picture labels alone, through the best patches of each picture and class.

Source: the follow-up in the slides of Oquab et al. (CVPR 2014), "Weakly supervised object recognition with
convolutional neural networks": search over positions and scales, maximum a picture, one logistic loss a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.head.bags import Picture
from pipeline.head.fitting import logistic_loss, make_optimizer, run_rates
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import WeakSettings
from pipeline.head.task import FitTask, Fitted
from pipeline.io.errors import HeadError
from pipeline.io.progress import Progress


def make_network(width: int, n_classes: int, settings: WeakSettings) -> HeadNetwork:
    """The network of a weak head, without weights: one output a class, none for background."""
    return HeadNetwork(width, n_classes, settings, "log-odds")


@dataclass(frozen=True)
class BestPatches:
    """The patches of some pictures through which each class is scored.

    Attributes
    ----------
    rows : int64 Tensor of shape (n_rows,), rising, each once, into the rows of all of these pictures
    place : int64 Tensor of shape (n_pictures, most, n_classes), into `rows`
    share : float32 Tensor of shape (n_pictures, most, 1)
        Weight of each patch in its picture's mean; 0 beyond the patches of a picture that has fewer.
    """

    rows: Tensor
    place: Tensor
    share: Tensor

    def picture_logits(self, logits: Tensor) -> Tensor:
        """Picture scores (n_pictures, n_classes) from the logits (n_rows, n_classes) of `rows`."""
        columns = torch.arange(logits.shape[1]).expand_as(self.place)
        return (logits[self.place, columns] * self.share).sum(1)


def choose_best(scores: Tensor, sizes: list[int], top: int) -> BestPatches:
    """The `top` patches of highest score of each picture and class, or all where a picture has fewer.

    Parameters
    ----------
    scores : float32 Tensor of shape (n, n_classes), rows of one picture after those of another
    sizes : rows of each picture, at least 1
    """
    most = min(top, max(sizes))
    index = torch.zeros(len(sizes), most, scores.shape[1], dtype=torch.int64)
    share = torch.zeros(len(sizes), most, 1)
    first = 0
    for number, (its_scores, size) in enumerate(zip(scores.split(sizes), sizes, strict=True)):
        n = min(top, size)
        index[number] = first
        index[number, :n] += its_scores.topk(n, 0).indices
        share[number, :n] = 1 / n
        first += size
    rows, place = index.unique(return_inverse=True)
    return BestPatches(rows, place, share)


def start_at_shares(network: HeadNetwork, labels: np.ndarray) -> None:
    """Let every class begin at the log-odds of its share of the pictures.

    A class that few pictures show would else spend the first steps on driving all scores down, through the hidden
    layers that it has in common with the others.

    Parameters
    ----------
    labels : int8 ndarray of shape (n_pictures, n_classes), 1, 0, -1
    """
    odds = ((labels == 1).sum(0) + 0.5) / ((labels == -1).sum(0) + 0.5)
    last = network.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.copy_(torch.from_numpy(np.log(odds)))


def take_step(
    network: HeadNetwork,
    optimizer: torch.optim.Optimizer,
    batch: list[Picture],
    labels: Tensor,
    top: int,
) -> float:
    """One step on some pictures; only the patches that are chosen have a gradient. The mean loss before it.

    Parameters
    ----------
    labels : int8 Tensor of shape (n_pictures of the batch, n_classes), 1, 0, -1
    """
    rows = torch.cat([torch.from_numpy(its_rows) for _, its_rows in batch])
    best = choose_best(network.score(rows), [len(its_rows) for _, its_rows in batch], top)
    loss = logistic_loss(best.picture_logits(network(rows[best.rows])), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def fit(task: FitTask, settings: WeakSettings) -> Fitted:
    """Fit on the labels of pictures; boxes and the labels of patches are not looked at.

    A picture's score for a class is the mean of the ``settings.top`` highest logits of its patches. Classes of
    label 0 (difficult) are left out of a picture's loss.

    Raises
    ------
    HeadError
        No picture has a label.
    """
    table = task.table
    wanted = ~task.held_out
    if table.labelled:
        wanted = wanted & (table.picture_labels != 0).any(1)
    pictures = task.read.pictures(table.first_row, wanted)
    if not table.labelled or not (table.picture_labels[pictures.wanted] == 1).any():
        raise HeadError(
            f"{table.dataset} {table.split}: no picture to fit {task.name} on has a label of a class; "
            f"check the lists and boxes with: pipeline data check {table.dataset}"
        )
    labels = table.picture_labels[pictures.wanted]
    network = make_network(task.store.width, task.n_classes, settings)
    generator = torch.Generator().manual_seed(task.seed)
    network.initialise(generator)
    start_at_shares(network, labels)
    if settings.standardise:
        network.standardise_over(torch.from_numpy(rows) for _, rows in pictures.in_order())
    optimizer = make_optimizer(network, settings)
    all_labels = torch.from_numpy(table.picture_labels)
    n_most = sum(settings.max_epochs) * len(pictures)
    # Dropout draws from torch's global generator; the caller's state is put back afterwards.
    with torch.random.fork_rng(devices=[]), Progress(f"fit {task.name}", n_most, "pictures") as progress:
        torch.manual_seed(task.seed)

        def one_epoch(rate: float) -> float:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            network.train()
            total = 0.0
            for batch in pictures.in_batches(settings.batch, generator):
                its_labels = all_labels[[picture for picture, _ in batch]]
                loss = take_step(network, optimizer, batch, its_labels, settings.top)
                total += loss * len(batch)
                progress.advance(len(batch), note=f"rate {rate:g}, loss {loss:.3f}")
            return total / len(pictures)

        epochs = run_rates(one_epoch, settings, task.name)
        progress.total = progress.done
    network.eval()
    counts = (labels == 1).sum(0)
    facts = {
        "looked_at": pictures.n_rows,
        "pictures_per_class": {c: int(n) for c, n in zip(table.classes, counts, strict=True)},
    }
    return Fitted(network, epochs, {"patches": facts, "precision": network.precision})
