"""Whole commands with ``--device cuda`` on the simulated device: what they write is what the CPU's commands write."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from simulated_cuda import simulated_cuda
from support.cli import run_to_success
from support.dataset import copy_work
from support.small_parts import small_parts

from pipeline.activations.store import Store
from pipeline.head.file import load_head
from pipeline.scoring.scores_file import load_scores
from pipeline.trunk import devices

LINES = (
    "extract --dataset tiny --split train",
    "extract --dataset tiny --split val",
    "fit-head --dataset tiny --head fca --head weak --head svm",
    "score --dataset tiny --head fca --head weak --head svm",
    "map photo.png --dataset tiny --array --out maps",
    "retrieve --dataset tiny --split val --query photo.png --json",
)


@pytest.fixture(scope="module")
def both(begun, tmp_path_factory):
    """Two work folders after the same commands: one on the CPU, one on the simulated device."""
    folder = tmp_path_factory.mktemp("cuda")
    made = {}
    with small_parts(64), pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "_leases", {})
        patch.setattr(devices.tempfile, "gettempdir", lambda: str(folder))
        for device in ("cpu", "cuda"):
            work = copy_work(begun, folder / device)
            with Image.open(work / "data/tiny/JPEGImages/q1.png") as picture:
                picture.rotate(90).save(work / "photo.png")
            options = f"--config config.yaml --batch 16 --device {device} --head-device {device}"
            lines = [f"{line} {options}" for line in LINES]
            if device == "cpu":
                said = run_to_success(work, *lines)
            else:
                with simulated_cuda("late"):
                    said = run_to_success(work, *lines)
            made[device] = work, said
    return made


def stores_of(folder) -> dict[str, Store]:
    return {path.name.rpartition("-")[0]: Store(path) for path in sorted((folder / "cache").glob("*.zarr"))}


def test_a_sealed_store_holds_the_rows_of_the_cpu(both):
    cpu, cuda = (stores_of(both[device][0]) for device in ("cpu", "cuda"))
    assert list(cpu) == list(cuda) and len(cpu) == 2
    for name, store in cuda.items():
        assert len(store.parts) > 1
        rows = np.arange(store.n_rows)
        assert np.array_equal(store.read_rows(rows), cpu[name].read_rows(rows))
        differing = {key for key in store.identity if store.identity[key] != cpu[name].identity[key]}
        assert differing == {"how.precision"} and store.identity["how.precision"] == "cuda-fp32"


def test_heads_and_scores_are_those_of_the_cpu(both):
    heads, scores = ({}, {})
    for device, (work, _) in both.items():
        for path in (work / "results/heads").glob("*.safetensors"):
            heads[device, path.name.split("-")[1]] = load_head(path)
        for path in (work / "results/scores").glob("*.h5"):
            scores[device, path.name.split("-")[2]] = load_scores(path)
    assert set(heads) == set(scores) == {(device, name) for device in both for name in ("fca", "weak", "svm")}
    for name in ("fca", "weak", "svm"):
        assert heads["cuda", name].facts.device == "cuda" and heads["cpu", name].facts.device == "cpu"
        assert scores["cuda", name].facts.device == ("cpu" if name == "svm" else "cuda")
    for key, tensor in heads["cpu", "fca"].network.state_dict().items():
        assert torch.equal(tensor, heads["cuda", "fca"].network.state_dict()[key]), key
    assert np.array_equal(scores["cpu", "fca"].scores, scores["cuda", "fca"].scores)
    # Weak heads drop other values there, and SVMs stop elsewhere within the tolerance.
    np.testing.assert_allclose(scores["cpu", "svm"].scores, scores["cuda", "svm"].scores, atol=5e-3)
    assert np.isfinite(scores["cuda", "weak"].scores).all()


def test_a_photo_and_a_query_are_those_of_the_cpu(both):
    maps = [dict(np.load(both[device][0] / "maps/photo_map.npz")) for device in ("cpu", "cuda")]
    for key, values in maps[0].items():
        assert np.array_equal(values, maps[1][key]), key
    found = [json.loads(both[device][1][-1].out)["queries"] for device in ("cpu", "cuda")]
    assert found[0] == found[1] and len(found[0][0]["results"]) == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["patches", "dense"])
def test_a_real_device_makes_the_same_store_twice_and_is_near_the_cpu(begun, tmp_path, method):
    made = []
    for device in ("cpu", "cuda", "cuda"):
        work = copy_work(begun, tmp_path / str(len(made)))
        line = (
            f"extract --dataset tiny --split train --config config.yaml --batch 16 --device {device} --method {method}"
        )
        run_to_success(work, line)
        (store,) = stores_of(work).values()
        made.append(store.read_rows(np.arange(store.n_rows)).astype(float))
    assert np.array_equal(made[1], made[2])
    assert np.linalg.norm(made[1] - made[0]) < 0.001 * np.linalg.norm(made[0])
