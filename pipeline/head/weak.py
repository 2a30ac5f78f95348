"""Weak supervision: a head fitted on picture labels alone, through the best patches of each picture and class.

Source: the follow-up in the slides of Oquab et al. (CVPR 2014), "Weakly supervised object recognition with
convolutional neural networks": search over positions and scales, maximum per picture, one logistic loss per class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.head import weak_on_device
from pipeline.head.bags import Bag, PictureBags
from pipeline.head.device import BLOCK_BYTES, BLOCKS, CPU, explain_full_memory, fact_of_device
from pipeline.head.fit_memory import fit_operations, rows_bytes, scoring_bytes, step_bytes, training_bytes
from pipeline.head.fitting import LearningRateSchedule, LossCurve, Sgd, logistic_loss, make_optimizer
from pipeline.head.network_settings import NetworkSettings
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import WeakSettings
from pipeline.head.task import FitTask, Fitted, HeadKind
from pipeline.io.errors import HeadError
from pipeline.io.progress import Progress


def make_network(width: int, n_classes: int, settings: WeakSettings) -> HeadNetwork:
    """Make the network of a weak head, without weights: one output per class, none for background."""
    return HeadNetwork(width, n_classes, settings, "log-odds")


@dataclass(frozen=True)
class BestPatches:
    """The patches of a batch of pictures through which each class is scored.

    Attributes
    ----------
    row_index : int64 Tensor of shape (n_rows,), rising, each once, into the rows of all of these pictures
    place : int64 Tensor of shape (n_pictures, most, n_classes), into `row_index`
    share : float32 Tensor of shape (n_pictures, most, 1)
        Weight of each patch in its picture's mean; 0 beyond the patches of a picture that has fewer.
    """

    row_index: Tensor
    place: Tensor
    share: Tensor

    def picture_logits(self, logits: Tensor) -> Tensor:
        """Compute picture scores (n_pictures, n_classes) from the logits (n_rows, n_classes) of `row_index`."""
        columns = torch.arange(logits.shape[1]).expand_as(self.place)
        return (logits[self.place, columns] * self.share).sum(1)


def choose_best(scores: Tensor, sizes: list[int], top: int) -> BestPatches:
    """Choose the `top` patches of highest score per picture and class, or all where a picture has fewer.

    Parameters
    ----------
    scores : float32 Tensor of shape (n, n_classes), rows of one picture after those of another
    sizes : rows of each picture, at least 1
    """
    most = min(top, max(sizes))
    index = torch.zeros(len(sizes), most, scores.shape[1], dtype=torch.int64)
    share = torch.zeros(len(sizes), most, 1)
    first = 0
    for number, (of_picture, size) in enumerate(zip(scores.split(sizes), sizes, strict=True)):
        n = min(top, size)
        index[number] = first
        index[number, :n] += of_picture.topk(n, 0).indices
        share[number, :n] = 1 / n
        first += size
    row_index, place = index.unique(return_inverse=True)
    return BestPatches(row_index, place, share)


def start_at_shares(network: HeadNetwork, labels: np.ndarray) -> None:
    """Set the bias of every class to the log-odds of its share of the pictures.

    Otherwise a rare class would spend the first steps lowering all scores, through the hidden layers that all classes
    have in common.

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
    optimizer: Sgd,
    batch: list[Bag],
    labels: Tensor,
    top: int,
) -> float:
    """Take one step on a batch of pictures, and return the mean loss before it; only chosen patches have a gradient.

    Parameters
    ----------
    labels : int8 Tensor of shape (n_pictures of the batch, n_classes), 1, 0, -1
    """
    rows = torch.cat([torch.from_numpy(of_picture) for _, of_picture in batch])
    best = choose_best(network.score(rows), [len(of_picture) for _, of_picture in batch], top)
    loss = logistic_loss(best.picture_logits(network(rows[best.row_index])), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def fit(task: FitTask, settings: WeakSettings) -> Fitted:
    """Fit on the labels of pictures; boxes and the labels of patches are not used.

    A picture's score for a class is the mean of the ``settings.top`` highest logits of its patches. Classes of
    label 0 (difficult) are left out of a picture's loss.

    Raises
    ------
    HeadError
        No picture has a label.
    """
    bags = labelled_bags(task)
    labels = task.table.picture_labels[bags.wanted]
    network = make_network(task.store.width, task.n_classes, settings)
    generator = torch.Generator().manual_seed(task.seed)
    network.initialise(generator)
    start_at_shares(network, labels)
    working, what = _working_bytes(network, bags, settings), f"fit {task.name}"
    operations = 2 * fit_operations([network], bags.n_rows, sum(settings.max_epochs))
    rows = rows_bytes(bags.n_rows, task.store.width)
    place = task.device.choose(what, operations, weak_on_device.working_bytes(network, bags, settings), rows)
    if place.holds_rows:
        bags.pass_once(task.reader.budget, what)
    else:
        bags.hold(task.reader.budget, what, BLOCKS * BLOCK_BYTES if place.on_gpu else working, settings.batch)
    if place.on_gpu:
        with explain_full_memory(place, what):
            epochs = weak_on_device.fit(network, bags, task, settings, generator, place)
    else:
        if settings.standardise:
            network.standardise_over(torch.from_numpy(rows) for _, rows in bags.in_order())
        step = partial(take_step, network, top=settings.top)
        epochs = run_epochs(network, bags, task, settings, generator, step)
    fitted_in = {"precision": network.precision, **fact_of_device(place.device)}
    network.move(CPU)
    return Fitted(network, epochs, {"patches": count_bags(task, bags), **fitted_in})


def labelled_bags(task: FitTask) -> PictureBags:
    """Return the fit pictures that have a label of a class, with all of their rows.

    Raises
    ------
    HeadError
        There is none, or none shows a class.
    """
    table = task.table
    wanted = ~task.is_held_out
    if table.labelled:
        wanted = wanted & (table.picture_labels != 0).any(1)
    bags = task.reader.bags(table.first_row, wanted)
    if not table.labelled or not (table.picture_labels[bags.wanted] == 1).any():
        raise HeadError(
            f"{table.dataset} {table.split}: no picture to fit {task.name} on has a label of a class; "
            f"check the lists and boxes with: pipeline data check {table.dataset}"
        )
    return bags


def count_bags(task: FitTask, bags: PictureBags) -> dict[str, Any]:
    """Return the facts of a fit on bags from which `HeadFacts.never_learnt` follows: a JSON object."""
    classes, labels = task.table.classes, task.table.picture_labels[bags.wanted]
    facts: dict[str, Any] = {
        "looked_at": bags.n_rows,
        "pictures_per_class": {c: int(n) for c, n in zip(classes, (labels == 1).sum(0), strict=True)},
    }
    if not (labels == -1).any(0).all():
        facts["never_negative"] = [classes[c] for c in np.flatnonzero(~(labels == -1).any(0))]
    return facts


def _working_bytes(network: HeadNetwork, bags: PictureBags, settings: WeakSettings) -> int:
    """Return the most bytes of a step: all patches of its pictures are scored, the chosen ones learnt from."""
    n_rows, n_classes = bags.rows_of_batch(settings.batch), network.widths[-1]
    n_places = settings.batch * min(settings.top, n_rows) * n_classes
    # Places and shares of the chosen patches, and the logits at these places with their gradients.
    choice = 64 * n_places
    learning = step_bytes(network, min(n_rows, n_places))
    standardising = 12 * network.widths[0] * bags.rows_of_batch(1)
    return training_bytes(network) + choice + max(learning, scoring_bytes(network, n_rows), standardising)


def run_epochs(
    network: HeadNetwork,
    bags: PictureBags,
    task: FitTask,
    settings: NetworkSettings,
    generator: torch.Generator,
    take: Callable[[Sgd, list[Bag], Tensor], float],
) -> LossCurve:
    """Run all epochs on bags; the network is left in eval mode.

    Parameters
    ----------
    generator : of the order of pictures
    take : takes one step, and returns the mean loss before it: of an optimizer, a batch and its labels
    """
    optimizer = make_optimizer(network, settings)
    schedule = LearningRateSchedule(settings, task.name)
    labels = torch.from_numpy(task.table.picture_labels)
    most_pictures = sum(settings.max_epochs) * len(bags)
    # Dropout draws from torch's global generator; the caller's state is restored afterwards.
    with torch.random.fork_rng(devices=[]), Progress(f"fit {task.name}", most_pictures, "pictures") as progress:
        torch.manual_seed(task.seed)
        while schedule.rate is not None:
            optimizer.rate = schedule.rate
            network.train()
            total = 0.0
            for batch in bags.in_batches(settings.batch, generator):
                loss = take(optimizer, batch, labels[[picture for picture, _ in batch]])
                total += loss * len(batch)
                progress.advance(len(batch), note=f"rate {schedule.rate:g}, loss {loss:.3f}")
            schedule.end_epoch(total / len(bags))
        progress.total = progress.done
    network.eval()
    return schedule.epochs


KIND: HeadKind[WeakSettings] = HeadKind.of_single(make_network, fit)
