"""Plans of rows over small drawn pictures, for runs on the simulated device and on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import yaml
from PIL import Image
from support.threads import one_thread  # noqa: F401
from support.worked import new_work  # noqa: F401

from pipeline.activations.row_plan import PlannedPicture, RowPlan
from pipeline.io.digests import sha256_bytes
from pipeline.patches.grid import grid_windows
from pipeline.patches.settings import GridSettings
from pipeline.stages.context import RunContext
from pipeline.stages.patches import current_table
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace

SIZES_WH = ((96, 80), (96, 80), (64, 64))
GRID = GridSettings(scales=(1.0, 1.8), overlap=0.5)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> tuple[PlannedPicture, ...]:
    """Three pictures of noise."""
    folder, planned = tmp_path_factory.mktemp("pictures"), []
    rng = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES_WH):
        path = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        planned.append(PlannedPicture(index, str(index), path, sha256_bytes(path.read_bytes()), False))
    return tuple(planned)


@pytest.fixture
def new_context(new_work, monkeypatch):  # noqa: F811
    """The context of a command in a new work folder, with its patch table and the paths of its pictures."""

    def make(**settings):
        monkeypatch.chdir(new_work)
        given = yaml.safe_load((new_work / "config.yaml").read_text())
        keys = ("trunk", "threads", "grid")
        run = RunContext(
            Workspace(RunSettings(**{key: given[key] for key in keys}, **settings)), "tiny", lambda line: None
        )
        return run, current_table(run, "train"), run.split("train").paths_by_id

    return make


@pytest.fixture(scope="session")
def plan_of(pictures) -> Callable[[str], RowPlan]:
    """The plan of all patches of the pictures, by the source of their windows."""

    def plan(source: str) -> RowPlan:
        windows = [grid_windows(*size_wh, GRID) for size_wh in SIZES_WH]
        box_xyxy = np.concatenate([boxes for boxes, _ in windows]).astype(np.float32)
        scale = np.concatenate([scale for _, scale in windows])
        picture = np.repeat(np.arange(len(windows), dtype=np.int32), [len(boxes) for boxes, _ in windows])
        flip = None
        if source != "grid":
            flip = np.arange(len(picture)) % 3 == 0
        if source == "boxes":
            box_xyxy = box_xyxy + np.float32(7.25)  # some leave the picture
        return RowPlan(picture, box_xyxy, scale, source, flip, pictures)

    return plan
