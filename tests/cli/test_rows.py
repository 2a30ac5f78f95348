"""``--rows labelled``: of the fit split only the rows that strong heads learn from go through the trunk."""

import json
import re
from pathlib import Path

import pytest
import yaml
from support.cli import Ended, run_to_success
from support.dataset import copy_work

ROWS = "--dataset tiny --config config.yaml --rows labelled"


@pytest.fixture(scope="module")
def made(begun, tmp_path_factory) -> tuple[Path, Ended]:
    """Both splits extracted, of the fit split labelled rows alone; and what that command said."""
    folder = copy_work(begun, tmp_path_factory.mktemp("rows") / "work")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["heads"] |= {"mil": {"kind": "weak", "hidden": [], "top": 2, "max_epochs": [1, 1]}}
    config["heads"] |= {"more": {"hidden": [], "background_share": 1.0}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder, run_to_success(folder, f"extract {ROWS} --split train", f"extract {ROWS} --split val")[0]


@pytest.fixture
def new_work(made, tmp_path) -> Path:
    """A copy of that folder, to change at will."""
    return copy_work(made[0], tmp_path / "work")


def test_the_first_result_needs_a_few_of_the_rows(made, run_new, new_work):
    some, every = map(
        int, re.search(r"tiny train: (\d+) of (\d+) rows, those that head 'fca' learns from", made[1].err).groups()
    )
    assert 0 < some < every / 2
    assert f"{some} rows to extract" in made[1].err
    for line in (f"fit-head {ROWS}", f"score {ROWS}", f"evaluate {ROWS} --output results/few.json"):
        ended = run_new(line)
        assert ended.code == 0, ended.err
    plain = ROWS.replace(" --rows labelled", "")
    for line in (
        f"extract {plain} --split train",
        f"extract {plain} --split val",
        f"fit-head {plain}",
        f"score {plain}",
    ):
        assert run_new(line).code == 0
    assert run_new(f"evaluate {plain} --output results/all.json").code == 0
    few, whole = (json.loads((new_work / f"results/{name}.json").read_text()) for name in ("few", "all"))
    # The same rows and labels; batches were others, so the last bits may be.
    assert few["mAP"] == pytest.approx(whole["mAP"], abs=1e-3)
    assert len(list(new_work.glob("cache/tiny-train-*.zarr"))) == 2
    assert len(list(new_work.glob("cache/tiny-val-*.zarr"))) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"fit-head {ROWS} --head mil", "this kind of head needs all patches of a picture, and the store holds"),
        (f"fit-head {ROWS} --head more", r"rows are missing, and the store holds \d+ rows.*\n.*extract --rows all"),
        (f"sweep {ROWS}", "holds .* rows of tiny train, the training rows of a strong head"),
    ],
)
def test_what_needs_the_others_says_how_to_make_them(run_new, line, message):
    ended = run_new(line)

    assert ended.code == 2
    assert re.search(message, ended.err, re.S), ended.err
    assert "--rows all" in ended.err


def test_a_main_head_that_looks_at_all_rows_has_no_labelled_ones(run_new, new_work):
    ended = run_new(f"cache explain {ROWS} --split train")
    assert ended.code == 0 and "there, sealed" in ended.out
    with open(new_work / "config.yaml", "a") as config:
        config.write("head: mil\n")

    refused = run_new(f"extract {ROWS} --split train")

    assert refused.code == 2
    assert "rows: labelled is for strong heads, and head 'mil' uses all rows; use rows: all" in refused.err


def test_a_store_of_few_rows_is_verified_and_mended(run_new, new_work):
    (store,) = new_work.glob("cache/tiny-train-*.zarr")
    kept = (store / "activations/c/0/0").read_bytes()
    assert run_new("cache verify --config config.yaml --recompute 5").code == 0
    (store / "activations/c/0/0").write_bytes(b"torn")

    assert run_new("cache repair --config config.yaml").code == 0

    assert (store / "activations/c/0/0").read_bytes() == kept
