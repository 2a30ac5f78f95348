"""Random damage to every kind of file: refused by the ordinary readers, found, told apart, and mended.

``PIPELINE_TORTURE=1`` makes 10,000 faults of it.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.dataset import make_dataset, write_manifest
from support.small_parts import small_parts

from pipeline.cache.repair import repair_small_file, repair_store
from pipeline.cache.verify import verify_small_files, verify_stores
from pipeline.io.errors import PipelineError
from pipeline.stages import extract, fit_head, score
from pipeline.stages.context import RunContext
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace
from pipeline.trunk.load import load_trunk

N_FAULTS = 10_000 if os.environ.get("PIPELINE_TORTURE") else 60
SETTINGS = RunSettings(
    trunk="random",
    layer="fc7",
    precision="fp32",
    threads=1,
    batch=16,
    grid={"scales": [1.0, 2.0, 3.0], "overlap": 0.6},
    heads={"fca": {"hidden": [8], "max_epochs": [1, 1, 1], "background_share": 1.0}},
)
WS = Workspace(SETTINGS)


def quiet(text: str) -> None:
    pass


def make_everything() -> None:
    for split in ("train", "val"):
        run = RunContext(WS, "tiny")
        extract.make(run, extract.open_inputs(run, split))
    fit_head.ensure(RunContext(WS, "tiny"), ["fca"])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with stores of several parts, tables, receipts and a head; the current folder."""
    folder = tmp_path_factory.mktemp("damage")
    make_dataset(folder / "data/tiny")
    write_manifest(folder)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, small_parts(128):
        patch.chdir(folder)
        patch.setattr("pipeline.io.progress.PLAIN_EVERY_S", 1e9)
        # Drawing three million weights for every repair would be most of this test.
        patch.setattr("pipeline.stages.runner.load_trunk", functools.cache(load_trunk))
        make_everything()
        yield folder
    torch.set_num_threads(threads)


KINDS = {
    "payload": "cache/*.zarr/*/c/**/*",
    "zarr.json": "cache/*.zarr/**/zarr.json",
    "part record": "cache/*.zarr/integrity/part-*.json",
    "seal": "cache/*.zarr/integrity/seal.json",
    "receipt": "cache/receipts/*.json",
    "patch table": "cache/patches/*.h5",
    "head": "results/heads/*.safetensors",
}


@dataclass(frozen=True)
class Fault:
    kind: str
    path: Path
    how: str

    def __str__(self) -> str:
        return f"{self.how}: {self.path}"


def make_fault(work: Path, rng: random.Random) -> Fault:
    """Flip a bit, cut off the end, or delete, somewhere."""
    kind = rng.choice(list(KINDS))
    path = rng.choice(sorted(p for p in work.glob(KINDS[kind]) if p.is_file()))
    how = rng.choice(["flip", "flip", "truncate", "delete"])
    data = bytearray(path.read_bytes())
    if how == "flip":
        position = rng.randrange(len(data))
        data[position] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        how = f"bit of byte {position} of {len(data)} flipped"
    elif how == "truncate":
        length = rng.randrange(len(data))
        path.write_bytes(data[:length])
        how = f"cut from {len(data)} to {length} bytes"
    else:
        path.unlink()
    return Fault(kind, path.relative_to(work), how)


def read_like_a_user(fault: Fault) -> None:
    """Fit a head on, or score, what a fault may have damaged; heads need no pictures, so there are none."""
    os.rename("data", "away")
    try:
        if fault.kind == "head" or "tiny-val" in str(fault.path):
            score.make(RunContext(WS, "tiny"), ["fca"], "val")
        else:
            fit_head.ensure(RunContext(WS, "tiny"), ["fcb"])
    finally:
        os.rename("away", "data")
        for path in Path("results").rglob("*fcb*"):
            path.unlink()
        shutil.rmtree("results/scores", ignore_errors=True)


def content(work: Path) -> dict[str, bytes]:
    """Every file that is promised to come back as it was."""
    files = {p for pattern in KINDS.values() for p in work.glob(pattern) if p.is_file()}
    return {str(p.relative_to(work)): p.read_bytes() for p in sorted(files)}


def kind_of_damage(fault: Fault) -> set[str]:
    """What `verify` may call it; a flip can look like a torn JSON file, and a lost one has no other name."""
    if fault.how == "delete":
        return {"missing"}
    if fault.how.startswith("cut"):
        return {"torn"}
    # Where the seal itself is damaged, the size that a file had is not known.
    return {"flipped", "torn"} if fault.kind in ("seal", "zarr.json") else {"flipped"}


def test_stores_have_several_parts_and_every_part_is_read(work):
    for split in ("train", "val"):
        assert len(list(work.glob(f"cache/tiny-{split}-*.zarr/integrity/part-*.json"))) >= 3


def test_control_untouched_files_are_read_and_found_sound(work):
    for kind in ("payload", "head"):
        read_like_a_user(Fault(kind, Path("cache/tiny-train"), "nothing"))
        read_like_a_user(Fault(kind, Path("cache/tiny-val"), "nothing"))
    assert [report.state for report in verify_stores(WS, [])] == ["sealed", "sealed"]
    assert verify_small_files(WS) == []


@pytest.mark.timeout(0 if os.environ.get("PIPELINE_TORTURE") else 300)
def test_damage_is_refused_found_and_mended(work):
    rng = random.Random(2014)
    before = content(work)
    tried: Counter[str] = Counter()
    for number in range(N_FAULTS):
        fault = make_fault(work, rng)
        tried[fault.kind] += 1

        with pytest.raises(PipelineError) as refusal:
            read_like_a_user(fault)
        message = str(refusal.value)
        assert "pipeline " in message or "you can" in message, f"{number}: {fault}: no way on in: {message}"

        reports = {report.folder.name: report for report in verify_stores(WS, [])}
        small = verify_small_files(WS)
        if fault.kind in ("payload", "zarr.json", "part record") or (fault.kind == "seal" and fault.how != "delete"):
            store, _, name = str(fault.path.relative_to("cache")).partition("/")
            kinds = {finding.kind for finding in reports[store].findings if finding.name == name}
            assert kinds and kinds <= kind_of_damage(fault), f"{number}: {fault}: found as {kinds}"
            assert all(not report.findings for other, report in reports.items() if other != store)
        elif fault.kind == "seal":
            assert [report.sealed for report in reports.values()].count(False) == 1, f"{number}: {fault}"
        else:
            assert small, f"{number}: {fault}: not found"
            assert all(not report.findings for report in reports.values())

        for bad in small:
            repair_small_file(WS, bad, quiet)
        if fault.kind in ("receipt", "patch table", "head"):
            make_everything()  # what the message says: the next run makes it again
        for report in reports.values():
            if report.findings or not report.sealed:
                repair_store(WS, report, quiet)
        after = content(work)
        assert after.keys() == before.keys(), f"{number}: {fault}: not the same files"
        changed = [name for name in before if before[name] != after[name]]
        assert not changed, f"{number}: {fault}: {changed} came out with other bytes"
    assert set(tried) == set(KINDS) and min(tried.values()) >= N_FAULTS // 30, tried
