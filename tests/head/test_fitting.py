"""Fitting: it learns, it ends when settled, and the same seed gives the same bytes."""

import copy
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.heads import fit_head, fit_network
from support.stores import SplitData, seal_store
from support.tables import table_of_strips

from pipeline.head.file import NO_DIGEST, save_head
from pipeline.head.fitting import Sgd
from pipeline.head.settings import HEADS, HeadSettings
from pipeline.io.errors import HeadError
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table_file import write_table

LABELS = LabelSettings()
RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, 3, 300)
ROWS = (np.repeat(np.eye(3)[TARGETS], 4, axis=1) * 3 + RNG.normal(0, 0.5, (300, 12))).astype(np.float16)
QUICK = HeadSettings(hidden=(8,), batch=32, max_epochs=(5, 2, 1), settled=0)


def share_right(network, rows=ROWS, targets=TARGETS) -> float:
    with torch.inference_mode():
        return (network(torch.from_numpy(rows)).argmax(1).numpy() == targets).mean()


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if head.kind == "strong"])
def test_every_built_in_strong_head_learns(name):
    settings = HEADS[name].model_copy(update={"batch": 50, "max_epochs": (4, 1, 1)})

    network, log = fit_network(ROWS, TARGETS, 4, settings, seed=0)

    losses = [e["loss"] for e in log]
    assert losses[-1] < 0.5 * losses[0]
    assert share_right(network) > 0.95
    assert not network.training


def test_steps_are_those_of_torchs_own_optimizer_to_the_bit():
    torch.manual_seed(0)
    ours = [torch.nn.Linear(12, 5), torch.nn.Linear(5, 3)]
    torchs = [copy.deepcopy(layer) for layer in ours]
    settings = {"momentum": 0.9, "weight_decay": 5e-4}
    mine = Sgd(
        [{"params": layer.parameters(), "share": s} for layer, s in zip(ours, (1.0, 0.1), strict=True)], 0.1, **settings
    )
    groups = [{"params": layer.parameters(), "lr": 0.1 * s} for layer, s in zip(torchs, (1.0, 0.1), strict=True)]
    reference = torch.optim.SGD(groups, **settings)
    x, y = torch.from_numpy(ROWS).float(), torch.from_numpy(TARGETS)
    for step in range(12):
        if step == 6:
            mine.rate = 0.01
            for group, share in zip(reference.param_groups, (1.0, 0.1), strict=True):
                group["lr"] = 0.01 * share
        for layers, optimizer in ((ours, mine), (torchs, reference)):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layers[1](layers[0](x).relu()), y).backward()
            optimizer.step()
    for one, other in zip(ours, torchs, strict=True):
        assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def test_a_fit_does_not_import_torchs_compiler():
    """It would cost every process that fits a head 1.5 s and 90 MB."""
    program = (
        "import sys, numpy as np\n"
        "from pipeline.head.joint_fit import JointFit\n"
        "from pipeline.head.networks import HeadNetwork\n"
        "from pipeline.head.settings import HeadSettings\n"
        "joint, settings = JointFit(0), HeadSettings(hidden=(4,), max_epochs=(1, 0, 0))\n"
        "joint.add(HeadNetwork(8, 2, settings, 'softmax'), settings)\n"
        "joint.run(np.zeros((9, 8), np.float16), np.zeros(9, np.int64))\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_rates_come_in_turn():
    _, log = fit_network(ROWS, TARGETS, 4, QUICK, seed=0)

    assert [e["rate"] for e in log] == [0.01] * 5 + [0.001] * 2 + [0.0001]


@pytest.mark.parametrize(
    ("settled", "epochs"),
    [
        pytest.param(1.0, [0.01] * 2 + [0.001] * 2 + [0.0001] * 2, id="any fall is too small: two epochs a rate"),
        pytest.param(0.0, [0.01] * 6 + [0.001] * 6 + [0.0001] * 6, id="never settled: all epochs"),
    ],
)
def test_a_rate_ends_when_the_loss_has_settled(settled, epochs):
    # Without dropout and with every row in one batch the loss falls at every step.
    settings = HeadSettings(hidden=(), dropout=0, batch=300, max_epochs=(6, 6, 6), settled=settled)

    _, log = fit_network(ROWS, TARGETS, 4, settings, seed=0)

    losses = [e["loss"] for e in log]
    assert losses == sorted(losses, reverse=True)
    assert [e["rate"] for e in log] == epochs


def test_the_settle_rule_is_a_share_of_the_loss():
    settings = HeadSettings(hidden=(), dropout=0, batch=300, rates=(0.01,), max_epochs=(60,), settled=0.02)

    _, log = fit_network(ROWS, TARGETS, 4, settings, seed=0)

    losses = [e["loss"] for e in log]
    falls = [(a - b) / a for a, b in zip(losses, losses[1:], strict=False)]
    assert 2 < len(losses) < 60
    assert all(fall >= 0.02 - 1e-5 for fall in falls[:-1]) and falls[-1] < 0.02 + 1e-5


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    fit_network(ROWS, TARGETS, 4, QUICK, seed=0)

    assert torch.equal(torch.rand(3), expected)


def test_the_given_rows_are_left_alone():
    rows, targets = ROWS.copy(), TARGETS.copy()

    fit_network(rows, targets, 4, QUICK, seed=0)

    assert (rows == ROWS).all() and (targets == TARGETS).all()


def test_a_loss_that_is_not_finite_stops_the_fit():
    wild = HeadSettings(hidden=(8,), rates=(1e30,), max_epochs=(3,), batch=32)

    with pytest.raises(HeadError, match=r"wild: the loss is not finite at learning rate 1e\+30; lower the rates"):
        fit_network(ROWS, TARGETS, 4, wild, seed=0, name="wild")


def test_no_row():
    with pytest.raises(HeadError, match="none: no row to fit on"):
        fit_network(ROWS[:0], TARGETS[:0], 4, QUICK, seed=0, name="none")


# ---- the same bytes --------------------------------------------------------------------------------


def digest_of_fit(made, small, path, seed=0):
    return save_head(fit_head(made.store, made.table, "small", small, LABELS, seed), path)


def test_one_seed_gives_the_same_bytes_whatever_happened_before(made, small, tmp_path):
    first = digest_of_fit(made, small, tmp_path / "a")
    torch.manual_seed(99)
    np.random.seed(99)
    second = digest_of_fit(made, small, tmp_path / "b")

    data = (tmp_path / "b").read_bytes()
    assert data.count(first.encode()) == 1
    # Of all bytes, the digest itself read as zeros.
    assert first == second == hashlib.sha256(data.replace(first.encode(), NO_DIGEST)).hexdigest()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_seed_gives_another_head(made, small, tmp_path):
    one, other = (fit_head(made.store, made.table, "small", small, LABELS, seed) for seed in (0, 1))

    assert not torch.equal(one.network.layers[1].weight, other.network.layers[1].weight)
    assert digest_of_fit(made, small, tmp_path / "a") != digest_of_fit(made, small, tmp_path / "b", seed=1)


# Neither pictures nor a trunk: libraries that open or look at pictures cannot even be imported.
FIT_ALONE = """
import sys
from pathlib import Path


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torchvision", "timm"):
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Blocked())
from pipeline.activations.store import Store
from pipeline.head.fit import fit_heads
from pipeline.head.fitting import Sgd
from pipeline.head.file import save_head
from pipeline.patches.table_file import read_table
from pipeline.head.settings import HeadSettings
from pipeline.patches.settings import LabelSettings

table, store, settings, out = sys.argv[1:]
settings = {"small": HeadSettings.model_validate_json(settings)}
((_, head),) = fit_heads(Store(Path(store)), read_table(Path(table)), settings, LabelSettings(), 0)
print(save_head(head, Path(out)))
"""


def test_other_processes_without_pictures_and_trunk_give_the_same_bytes(made, small, tmp_path):
    table = table_of_strips(24)
    store = seal_store(tmp_path / "train.zarr", table, made.rows)
    write_table(table, tmp_path / "table.h5")
    arguments = [str(tmp_path / "table.h5"), str(store.folder.path), small.model_dump_json()]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", FIT_ALONE, *arguments, str(tmp_path / f"{n}.safetensors")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": str(n), "OMP_NUM_THREADS": "1"},
        )
        for n in (1, 2)
    ]

    ended = [process.communicate(timeout=120) for process in running]

    assert [process.returncode for process in running] == [0, 0], ended
    first, second = (out.strip() for out, _ in ended)
    here = SplitData(table, store, made.rows)
    assert first == second == digest_of_fit(here, small, tmp_path / "here.safetensors")


# ---- held out --------------------------------------------------------------------------------------


def test_held_out_pictures_are_not_used(made, make, small, tmp_path):
    out = hold_out_pictures(made.table.picture_sha256, 0.4)
    assert 3 <= out.sum() <= 15
    poisoned = made.rows.copy()
    poisoned[out[made.table.picture]] = -999
    # A store of its own, with the same identity: nothing but the rows differs.
    store = make.store(tmp_path / "poisoned.zarr", made.table, poisoned)
    assert store.fingerprint == made.store.fingerprint

    def digests(**options) -> list[str]:
        stores = (made.store, store)
        return [save_head(fit_head(s, made.table, "h", small, LABELS, 0, **options), tmp_path / "h") for s in stores]

    kept, every = digests(held_out_share=0.4), digests()

    assert kept[0] == kept[1]
    assert every[0] != every[1]


def test_held_out_pictures_are_counted(made, small):
    head = fit_head(made.store, made.table, "h", small, LABELS, 0, held_out_share=0.4)

    n_out = int(hold_out_pictures(made.table.picture_sha256, 0.4).sum())
    assert head.facts.pictures == {"used": 24 - n_out, "held_out": n_out, "skipped": 0}
    assert head.facts.patches["positive"] == 3 * (24 - n_out)
