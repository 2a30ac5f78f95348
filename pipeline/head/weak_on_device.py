"""Weak heads on a GPU: which patches are learnt from is known to the device alone, and the CPU never asks.

On a CPU a step learns from the chosen rows alone, whose number depends on the scores. Here it runs over all rows of its
pictures with gradients, so that every shape is known beforehand. Gradients are the same up to rounding; dropout is
counted (`CountedDropout`), and so other than on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from pipeline.head.bags import PictureBags
from pipeline.head.device import Place, upload, upload_numbers
from pipeline.head.device_rows import BagsOfStep, BagsOnDevice
from pipeline.head.dropout import CountedDropout, draw_and_drop
from pipeline.head.fit_memory import scoring_bytes, step_bytes, training_bytes
from pipeline.head.fitting import LearningRateSchedule, LossCurve, LossSum, Sgd, logistic_loss, make_optimizer
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import WeakSettings
from pipeline.head.task import FitTask
from pipeline.io.progress import Progress


def working_bytes(network: HeadNetwork, bags: PictureBags, settings: WeakSettings) -> int:
    """Return the most bytes of the device's memory that a fit takes beside rows that are held or on the way."""
    n_rows, n_classes = bags.rows_of_batch(settings.batch), network.widths[-1]
    longest = bags.rows_of_batch(1)
    # Scores by picture, those of the highest, and their places.
    choice = 16 * settings.batch * n_classes * (longest + 4 * min(settings.top, longest))
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    mixed = 16 * n_rows * max(network.widths[:-1])  # the words of dropout while they are made
    step = step_bytes(network, n_rows) + mixed
    return weights + training_bytes(network) + choice + step + scoring_bytes(network, n_rows)


def choose_best(scores: Tensor, sizes: Sequence[int], top: int) -> tuple[Tensor, Tensor]:
    """Choose the `top` patches of highest score per picture and class, or all where a picture has fewer.

    Parameters
    ----------
    scores : float32 Tensor of shape (n, n_classes), rows of one picture after those of another
    sizes : rows of each picture, at least 1

    Returns
    -------
    row : int64 Tensor (n_pictures, most, n_classes), into the rows
    share : float32 Tensor (n_pictures, most, 1)
        Weight of each patch in its picture's mean; 0 beyond the patches of a picture that has fewer.
    """
    device, n_pictures, longest = scores.device, len(sizes), max(sizes)
    first = [0, *accumulate(sizes)][:-1]
    place = torch.cat([torch.arange(size) + number * longest for number, size in enumerate(sizes)])
    padded = scores.new_full((n_pictures * longest, scores.shape[1]), float("-inf"))
    padded[upload(place, device)] = scores
    most = min(top, longest)
    found = padded.view(n_pictures, longest, -1).topk(most, 1).indices
    last = upload_numbers([size - 1 for size in sizes], device)[:, None, None]
    row = upload_numbers(first, device)[:, None, None] + found.minimum(last)
    weights = [[1 / min(top, size) if rank < size else 0.0 for rank in range(most)] for size in sizes]
    return row, upload(torch.tensor(weights), device)[:, :, None]


def take_step(network: HeadNetwork, optimizer: Sgd, batch: BagsOfStep, labels: Tensor, top: int) -> Tensor:
    """Take one step on a batch of pictures, and return the mean loss before it, on the device.

    Parameters
    ----------
    labels : int8 Tensor of shape (n_pictures of the batch, n_classes), 1, 0, -1
    """
    row, share = choose_best(network.score(batch.rows), batch.sizes, top)
    logits = network(batch.rows).gather(0, row.flatten(0, 1)).view(row.shape)
    loss = logistic_loss((logits * share).sum(1), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def fit(
    network: HeadNetwork,
    bags: PictureBags,
    task: FitTask,
    settings: WeakSettings,
    generator: torch.Generator,
    place: Place,
) -> LossCurve:
    """Standardise, and run all epochs; the network is left on the device, in eval mode.

    Parameters
    ----------
    generator : of the order of pictures
    """
    network.move(place.device)
    network.drop_by(CountedDropout(task.seed))
    rows = BagsOnDevice(bags, place)
    if settings.standardise:
        network.standardise_over(rows.in_order())
    labels = upload(torch.from_numpy(task.table.picture_labels), place.device)
    optimizer, losses = make_optimizer(network, settings), LossSum(place.device)
    schedule = LearningRateSchedule(settings, task.name)
    with Progress(f"fit {task.name}", sum(settings.max_epochs) * len(bags), "pictures") as progress:
        while schedule.rate is not None:
            optimizer.rate = schedule.rate
            network.train()
            for batch in rows.in_batches(settings.batch, generator):
                pictures = upload_numbers(batch.pictures, place.device)
                loss = take_step(network, optimizer, batch, labels[pictures], settings.top)
                losses.add(loss, len(batch.pictures))
                progress.advance(len(batch.pictures), note=losses.note(schedule))
            schedule.end_epoch(losses.take()[0] / len(bags))
        progress.total = progress.done
    network.drop_by(draw_and_drop)
    network.eval()
    return schedule.epochs
