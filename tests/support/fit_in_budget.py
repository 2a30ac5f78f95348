"""Fit one head in this process, and print how much memory it took beside what was stated: run by `test_fit_memory`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from pipeline.activations.store import Store
from pipeline.head import adapted, bags
from pipeline.head.fit import fit_heads
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.head import Head
from pipeline.head.joint_fit import JointFit
from pipeline.head.rows import RowReader
from pipeline.head.settings import AdaptedSettings, HeadSettings, SvmSettings, WeakSettings
from pipeline.io.memory import peak_memory, release_memory, resident_memory
from pipeline.patches.settings import LabelSettings
from support.stores import seal_store
from support.tables import table_of_many

N_PICTURES, N_PATCHES, WIDTH, PART_ROWS = 150, 300, 1024, 8192
WEAK = WeakSettings(kind="weak", hidden=(), top=20, batch=8, max_epochs=(1, 0))
SETTINGS = {
    "strong": HeadSettings(hidden=(256,), batch=256, max_epochs=(1, 0, 0), background_share=1.0),
    "weak": WEAK.model_copy(update={"hidden": (512,)}),
    "weak of a pool": WEAK,
    "svm": SvmSettings(kind="svm", pooling=("mean", "max"), costs=(0.1, 1.0)),
    "adapted": AdaptedSettings(kind="adapted", hidden=(64,), batch=128, max_epochs=(1, 0, 0), background_share=1.0),
}


class Noted(MemoryBudget):
    """Notes where rows lie, and how much memory it stated."""

    def choose(self, what, ways, peak=0):
        way = super().choose(what, ways, peak)
        noted.append((way.split(" in /")[0], ways[way]))
        return way


noted: list[tuple[str, int]] = []


def fit(name: str, store: Store, table, budget: MemoryBudget) -> str:
    """Return the digest of the weights."""
    settings, reader = SETTINGS[name], RowReader(store, None, budget)
    if name != "adapted":
        return dict(fit_heads(store, table, {name: settings}, LabelSettings(), 0, reader=reader))[name].weights_digest()
    # Without a trunk: FC6 and FC7 are drawn.
    network = adapted.make_network(store.width, 3, settings, (1024, 512))
    torch.manual_seed(0)
    for layer in (network.fc6, network.fc7):
        torch.nn.init.normal_(layer.weight, std=0.02)
        torch.nn.init.zeros_(layer.bias)
    joint = JointFit(0)
    joint.add(network, settings, name)
    rows = np.arange(0, table.n_rows, 3)
    joint.run(joint.read_rows(reader, rows), rows % 4)
    return Head(network, None).weights_digest()


def main(name: str, store: str, scratch: str, *beyond: str) -> None:
    """Fit under each budget, in bytes beyond what the process holds, ``none`` for no budget; the smallest first."""
    torch.set_num_threads(1)
    small = table_of_many("train", 8, 20)
    tiny = np.random.default_rng(0).normal(size=(small.n_rows, WIDTH)).astype(np.float16)
    fit(name, seal_store(Path(scratch) / "tiny.zarr", small, tiny), small, MemoryBudget())  # imports what a fit needs
    if name == "weak of a pool":
        bags.PictureBags.__init__.__defaults__ = (40 * 2**20,)
    table, opened = table_of_many("train", N_PICTURES, N_PATCHES), Store(store)
    for allowed in beyond:
        release_memory()
        before = resident_memory()
        budget = Noted(None if allowed == "none" else before + int(allowed), Path(scratch))
        digest = fit(name, opened, table, budget)
        way, stated = noted.pop()
        print(json.dumps({"way": way, "stated": stated, "took": peak_memory() - before, "digest": digest}))


if __name__ == "__main__":
    main(*sys.argv[1:])
