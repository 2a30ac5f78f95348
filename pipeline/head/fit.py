"""Fitting heads on the rows of a store."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial

import numpy as np

from pipeline.activations.identity import how_part
from pipeline.activations.match import check_joined
from pipeline.activations.store import Store
from pipeline.head.device import HeadDevice
from pipeline.head.facts import HeadFacts
from pipeline.head.head import Head
from pipeline.head.kinds import KINDS
from pipeline.head.points import points_of
from pipeline.head.rows import RowReader
from pipeline.head.settings import AnyHead
from pipeline.head.task import FitTask, Fitted
from pipeline.io.errors import HeadError
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.trunk.trunk import Trunk


def _no_trunk() -> Trunk:
    raise HeadError("this kind of head begins with the trunk's weights, and none were given")


def fit_heads(
    store: Store,
    table: PatchTable,
    settings: Mapping[str, AnyHead],
    label_rule: LabelSettings,
    seed: int,
    *,
    held_out_share: float | np.ndarray = 0.0,
    load_trunk: Callable[[], Trunk] = _no_trunk,
    reader: RowReader | None = None,
    device: HeadDevice | None = None,
) -> Iterator[tuple[str, Head]]:
    """Fit heads on the rows of a store, which is read once for all heads that need the same rows.

    Heads whose settings allow it are fitted side by side. On a CPU every head is, bit for bit, what it is alone.
    Pictures are not needed, and most kinds do not need the trunk.

    Parameters
    ----------
    settings : of each head by its name
    label_rule : decides the labels of patches
    held_out_share : share of the fit pictures that is left out, to choose settings on them; or which pictures are left
        out, bool ndarray (n_pictures,)
    load_trunk : makes the trunk, for kinds that begin with its weights
    reader : of the store, if it holds a part of the table's rows, or is read for other heads too
    device : on which to fit; None for the CPU

    Yields
    ------
    name and head, as soon as each is fitted

    Raises
    ------
    StoreError, HeadError
        Store and table do not belong together; nothing to fit on; a head with a grid, which is not one head.
    """
    for name, of_head in settings.items():
        if of_head.grid:
            raise HeadError(
                f"head {name!r} has a grid of {len(points_of(of_head)):,} points, of which one is to be chosen on "
                f"held-out fit pictures: pipeline sweep, with the setting compare: [{name}], or pipeline recipe run, "
                "which fits the chosen one"
            )
    reader = reader or RowReader(store)
    check_joined(store, table, reader.stored_rows)
    if isinstance(held_out_share, np.ndarray):
        is_held_out, share = held_out_share, 0.0
    else:
        is_held_out, share = hold_out_pictures(table.picture_sha256, held_out_share), held_out_share
    make_task = partial(
        FitTask,
        store=store,
        table=table,
        label_rule=label_rule,
        seed=seed,
        is_held_out=is_held_out,
        load_trunk=load_trunk,
        reader=reader,
        device=device or HeadDevice(),
    )
    for names in _group_jointly(settings):
        tasks = [make_task(name=name) for name in names]
        fitted = KINDS[settings[names[0]].kind].fit(tasks, [settings[name] for name in names])
        for task, one in zip(tasks, fitted, strict=True):
            yield task.name, Head(one.network, _make_facts(task, settings[task.name], share, one))


def _group_jointly(settings: Mapping[str, AnyHead]) -> list[list[str]]:
    """Group the names of heads that are fitted by one call."""
    groups: dict[Hashable, list[str]] = {}
    for name, of_head in settings.items():
        joint_key = KINDS[of_head.kind].joint_key
        key = (of_head.kind, name) if joint_key is None else (of_head.kind, None, joint_key(of_head))
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _make_facts(task: FitTask, settings: AnyHead, held_out_share: float, fitted: Fitted) -> HeadFacts:
    store, table, is_held_out = task.store, task.table, task.is_held_out
    n_held_out = int(is_held_out.sum())
    return HeadFacts(
        name=task.name,
        dataset=table.dataset,
        split=table.split,
        classes=tuple(table.classes),
        settings=settings.model_dump(mode="json"),
        width=store.width,
        reading=task.label_rule.model_dump(mode="json"),
        seed=task.seed,
        held_out=held_out_share,
        how=how_part(store.identity),
        fingerprint=store.fingerprint,
        labels_digest=table.labels_digest(task.label_rule),
        pictures={
            "used": len(is_held_out) - n_held_out,
            "held_out": n_held_out,
            "skipped": len(table.skipped),
        },
        skipped=[list(item) for item in table.skipped],
        epochs=fitted.epochs,
        of_kind=fitted.facts,
    )
