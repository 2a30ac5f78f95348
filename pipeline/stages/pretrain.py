"""Trunks from pictures, from files to files: class folders (PRE), a dataset's own patches (NO PRETRAIN), hand-made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations.prefetch import prefetch_patches
from pipeline.activations.row_plan import plan_rows
from pipeline.activations.run_log import StageClock
from pipeline.activations.training_patches import cut_labelled
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError
from pipeline.io.progress import Progress, Say
from pipeline.patches.sampling import choose_rows, hold_out_pictures
from pipeline.patches.subsets import choose_subset, order_of_draw, parse_part
from pipeline.patches.table import PatchTable
from pipeline.stages.boxes import refuse_without_boxes
from pipeline.stages.context import RunContext
from pipeline.stages.patches import open_pictures
from pipeline.stages.runner import set_threads
from pipeline.trunk.alexnet import CONFIGS
from pipeline.trunk.card import TrunkCard, save_trunk
from pipeline.trunk.devices import resolve_device
from pipeline.trunk.fisher.codebook import choose_windows, fit_codebooks
from pipeline.trunk.fisher.trunk import ARCHITECTURE, LAYER, PIXELS_AS_THEY_ARE, vector_width
from pipeline.trunk.pretrain.classes import select_classes
from pipeline.trunk.pretrain.images import LabelledPictures, decode_both, list_classes
from pipeline.trunk.pretrain.training import pretrain
from pipeline.trunk.settings import ClassSelection, FisherSettings, FromScratchSettings, PretrainSettings


def pretrain_on_folders(
    train_dir: Path,
    val_dir: Path,
    out: Path,
    name: str,
    settings: PretrainSettings,
    command: str,
    device: str,
    threads: int,
    say: Say,
    selection: ClassSelection | None = None,
) -> TrunkCard:
    """Pre-train a trunk on class folders, or on some of them (Oquab et al. 2014, sections 3.1 and 4).

    The card holds the selection, and in ``trained.classes`` what it came to.
    """
    set_threads(threads)
    chosen = None
    if selection is not None and selection.select != "all":
        chosen = select_classes(list_classes(train_dir), selection, say)
        say(f"{train_dir}: {len(chosen)} classes selected")
    train, val = decode_both(train_dir, val_dir, CONFIGS[settings.architecture].input_px, chosen)
    about: dict[str, Any] = {
        "source": f"{len(train.labels):,} pictures of {len(train.classes)} classes",
        "evaluated_on": f"{len(val.labels):,} pictures of the same classes",
        "command": command,
    }
    if selection is not None and chosen is not None:
        about["selection"] = selection.model_dump(mode="json")
    return pretrain(train, val, out, name, settings, about, resolve_device(device), say)


def pretrain_on_patches(
    run: RunContext, split: str | None, out: Path, name: str, settings: FromScratchSettings
) -> TrunkCard:
    """Train a whole network on the labelled patches of a split, from random weights.

    Source: NO PRETRAIN of Oquab et al. (2014), section 5: "trained solely on the VOC data".
    A share of the pictures is held out; the learning rate is chosen on them.

    Parameters
    ----------
    run : says which patches and labels, device and threads; its trunk is not used
    split : None for the manifest's fit split

    Raises
    ------
    DatasetError
        The split has no positive patch on one of the two sides.
    """
    who = "a trunk that learns from a dataset's patches"
    refuse_without_boxes(run.manifest, who, "train on class folders: pipeline pretrain --train DIR --val DIR")
    set_threads(run.settings.threads)
    dataset, split = run.dataset, split or run.manifest.fit
    table, paths = open_pictures(run, split)
    labels = table.labels(run.settings.labels)
    rows = choose_rows(labels, settings.background_share, settings.seed)
    if settings.part is not None:
        rows = rows[_choose_part(table, settings)[table.picture_of(rows)]]
    out_of_training = hold_out_pictures(table.picture_sha256, settings.held_out)[table.picture_of(rows)]
    px = CONFIGS[settings.architecture].input_px
    sides = {"train": rows[~out_of_training], "held out": rows[out_of_training]}
    for side, chosen in sides.items():
        if not (labels[chosen] >= 0).any() and (side == "train" or settings.held_out):
            raise DatasetError(
                f"{dataset} {split}: no positive patch among the {len(table.ids):,} pictures' {side} part; "
                "give a split with boxes, or another --held-out"
            )
    n_classes = len(table.classes)
    counts = np.bincount(labels[sides["train"]][labels[sides["train"]] >= 0], minlength=n_classes)
    if not counts.all():
        run.say(f"NOTE: no patch of {', '.join(np.array(table.classes)[counts == 0])} is trained on")

    def cut(side: str) -> LabelledPictures:
        return cut_labelled(table, paths, labels, sides[side], px)

    def describe(side: str) -> str:
        positive = int((labels[sides[side]] >= 0).sum())
        pictures = len(np.unique(table.picture_of(sides[side])))
        return f"{positive:,} positive and {len(sides[side]) - positive:,} background patches of {pictures:,} pictures"

    about: dict[str, Any] = {
        "source": f"{dataset} {split} from random weights, {describe('train')}",
        "evaluated_on": describe("held out") if settings.held_out else "nothing held out",
        "command": run.command,
        "dataset": dataset,
        "split": split,
        "labels_digest": table.labels_digest(run.settings.labels),
        **({} if settings.part is None else {"part_digest": digest_of_part(table, settings)}),
        "per_class": {name: int(n) for name, n in zip(table.classes, counts, strict=True)},
    }
    held_out = cut("held out") if settings.held_out else None
    return pretrain(cut("train"), held_out, out, name, settings, about, resolve_device(run.settings.device), run.say)


def _choose_part(table: PatchTable, settings: FromScratchSettings) -> np.ndarray:
    """Return which pictures a training learns from: bool ndarray (n_pictures,)."""
    if settings.part is None:
        return np.ones(len(table.ids), bool)
    by, size = parse_part(settings.part)
    return choose_subset(order_of_draw(table.picture_sha256, settings.seed), table.scored_labels, by, size)


def digest_of_part(table: PatchTable, settings: FromScratchSettings) -> str:
    """Return the digest of the pictures that a training learns from; shots also depend on which classes are scored."""
    return digest_of([table.picture_sha256[index] for index in np.flatnonzero(_choose_part(table, settings)).tolist()])


def fit_fisher(run: RunContext, out: Path, name: str, settings: FisherSettings) -> TrunkCard:
    """Make the trunk of hand-made features: a codebook from the pictures of the fit split, without their labels.

    The pictures are cut as an extraction will cut them.

    Parameters
    ----------
    run : says which pictures and windows; its trunk is not used

    Raises
    ------
    DatasetError
        Too few descriptors for so many words.
    """
    set_threads(run.settings.threads)
    split = run.manifest.fit
    table, paths = open_pictures(run, split)
    rows = choose_windows(table.n_rows, settings)
    ahead = prefetch_patches(plan_rows(table, paths, rows), settings.input_px, StageClock())

    def windows() -> Iterator[np.ndarray]:
        with Progress(f"describe {run.dataset} {split}", len(rows), "windows") as progress:
            for patches in ahead:
                yield from patches
                progress.advance(len(patches))

    weights = fit_codebooks(windows(), settings)
    trained = {
        "source": f"{len(rows):,} windows of {run.dataset} {split}, without labels",
        "pictures": table.pictures_digest(),
        "command": run.command,
        "settings": settings.model_dump(mode="json"),
    }
    card = TrunkCard(
        name=name,
        architecture=ARCHITECTURE,
        input_px=settings.input_px,
        layers={LAYER: vector_width(weights)},
        preprocessing=PIXELS_AS_THEY_ARE,
        trained=trained,
    )
    return save_trunk(out / name, weights, card)
