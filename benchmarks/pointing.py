"""How well maps localise, by how they are made: the pointing game on a split that was scored.

    python benchmarks/pointing.py --dataset voc12 --config voc12.yaml

Printed is, in per cent and as the mean over classes, how many of the pictures that show a class have the highest point
of its map in a box of it: for the plain mean of the patches over a point, the steadied one, the sum of their scores,
and for the middle of each picture in place of a map.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.head.file import load_head
from pipeline.io.yaml import read_mapping
from pipeline.scoring.heat_maps import CoverageGrid, point_at
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import open_rows
from pipeline.stages.workspace import Workspace

MAPS = {
    "plain mean": lambda cover, scores: cover.mean(scores),
    "steadied mean": lambda cover, scores: cover.smoothed_mean(scores),
    "sum": lambda cover, scores: np.nan_to_num(cover.mean(scores)) * cover.n_patches,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--config", type=Path)
    options = parser.parse_args()
    ws = Workspace(parse_run_settings(read_mapping(options.config) if options.config else {}))
    set_threads(0)
    manifest = load_manifest(options.dataset)
    run = RunContext(ws, options.dataset)
    table, store = open_rows(run, manifest.eval)
    head = load_head(ws.head_path(options.dataset, ws.settings.head))
    scores = np.concatenate([head.patch_scores(rows) for _, rows in store.iter_parts()])
    split = read_split(manifest, manifest.eval, ws.settings.data_root)
    of_id = split.annotations_by_id
    annotations, first_row = [of_id[i] for i in table.ids], table.first_row

    shape = (len(table.ids), len(table.classes), 2)
    peaks = {name: np.full(shape, np.nan) for name in MAPS}
    for index in range(len(table.ids)):
        shown = np.flatnonzero(table.picture_labels[index] == 1)
        if len(shown):
            rows = slice(*first_row[index : index + 2])
            cover = CoverageGrid(table.windows_of_picture(index).box_xyxy, table.size_wh[index])
            for name, make in MAPS.items():
                peaks[name][index, shown] = cover.peak(make(cover, scores[rows][:, shown]))
    peaks["middle"] = np.broadcast_to(table.size_wh[:, None] / 2, shape)
    found = {name: point_at(peak_xy, table.scored_labels, annotations) for name, peak_xy in peaks.items()}
    print(json.dumps({name: round(100 * float(np.nanmean(share)), 1) for name, share in found.items()}, indent=2))


if __name__ == "__main__":
    main()
