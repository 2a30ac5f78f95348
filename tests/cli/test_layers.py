"""Several layers from one command, and the heads that begin with the trunk's own weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace
from pipeline.trunk.card import TrunkCard, save_trunk
from pipeline.trunk.load import load_trunk

EXTRACT = "extract --dataset tiny --split train --config config.yaml"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stores_in(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("cache/")]


def test_layers_are_made_together_and_found_as_if_made_alone(run_new, new_work):
    assert run_new(EXTRACT).code == 0
    ended = run_new(f"{EXTRACT} --layers pool5,fc6,fc7")
    assert ended.code == 0, ended.err

    stores = stores_in(ended.out)
    assert [Path(store).name.split("-")[3] for store in stores] == ["pool5", "fc6", "fc7"]
    # fc7 was there before: the pass ended at fc6.
    assert f"{stores[2]}: complete, the trunk does not run" in ended.err
    assert "cache: pool5, fc6 in one pass: 102 patches in" in ended.err
    settings = RunSettings(**yaml.safe_load((new_work / "config.yaml").read_text()))
    for layer, store in zip(("pool5", "fc6", "fc7"), stores, strict=True):
        receipt = new_work / Workspace(settings).with_layer(layer).receipt_path("tiny", "train")
        content = json.loads(receipt.read_text())
        assert (content["layer"], content["store"]) == (layer, Path(store).name)
        alone = run_new(f"{EXTRACT} --layer {layer}")
        assert stores_in(alone.out) == [store] and "complete" in alone.err

    again = run_new(f"{EXTRACT} --layers pool5,fc6,fc7 --stores elsewhere")
    for store in stores:
        assert bytes_of(new_work / store) == bytes_of(new_work / "elsewhere" / Path(store).name)
    assert again.code == 0


def test_shares_of_several_layers(run_new, new_work):
    for share in ("1/2", "2/2"):
        ended = run_new(f"{EXTRACT} --layers pool5,fc6 --share {share}")
        assert ended.code == 0, ended.err
        assert len(ended.out.splitlines()) == 2 and all((new_work / line).is_file() for line in ended.out.splitlines())
    ended = run_new(f"{EXTRACT} --layers pool5,fc6")
    assert ended.code == 0 and "patches in" not in ended.err


def test_shares_of_the_pictures_make_the_same_table(run_new, new_work):
    patches = "patches --dataset tiny --split train --config config.yaml"
    assert run_new(patches).code == 0
    (table,) = (new_work / "cache/patches").glob("tiny-train-*.h5")
    expected = table.read_bytes()
    shutil.rmtree(new_work / "cache")

    for share in ("1/2", "2/2"):
        ended = run_new(f"{patches} --share {share}")
        assert ended.code == 0 and not table.exists(), ended.err
        assert f"share {share}, 3 pictures inspected, 0 of them bad" in ended.err
        assert json.loads((new_work / ended.out.strip()).read_text())["table"] == table.name
    assert run_new(patches).code == 0
    assert table.read_bytes() == expected
    ended = run_new(f"{patches} --share 3/2")
    assert ended.code == 2 and "--share: expected I/N with 1 <= I <= N" in ended.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--layers pool5,fc9", "trunk 'random0' has no layer 'fc9'; it has pool5, fc6, fc7"),
        ("--layers pool5,", "--layers: expected different names with commas between, such as pool5,fc7, got 'pool5,'"),
        ("--layers fc6,fc6", "--layers: expected different names"),
        ("--layers fc6 --layer fc7", "--layer and --layers exclude each other"),
    ],
)
def test_layers_that_cannot_be_made_together(run_new, options, message):
    ended = run_new(f"{EXTRACT} {options}")
    assert ended.code == 2
    assert message in ended.err


def configure(work: Path, **changes) -> str:
    """Another settings file in the work folder; its name."""
    settings = {**yaml.safe_load((work / "config.yaml").read_text()), **changes}
    (work / "other.yaml").write_text(yaml.safe_dump(settings))
    return "other.yaml"


def test_adapted_head_from_pool5_to_a_result(run_new, new_work):
    head = {"kind": "adapted", "hidden": [32], "max_epochs": [2, 1, 1]}
    config = configure(new_work, layer="pool5", heads={"fc6-retrained": head}, head="fc6-retrained", compare=["fca"])
    for split in ("train", "val"):
        ended = run_new(f"extract --dataset tiny --split {split} --layers pool5,fc7 --config {config}")
        assert ended.code == 0, ended.err
    shutil.rmtree(new_work / "data")  # the convolutions never run again

    for line in ("fit-head", "score", "evaluate"):
        ended = run_new(f"{line} --dataset tiny --head fc6-retrained --config {config}")
        assert ended.code == 0, ended.err
    assert "tiny val: head fc6-retrained on random pool5" in ended.out
    (path,) = (new_work / "results/heads").glob("tiny-fc6-retrained-*.safetensors")
    trunk = load_trunk("random").network.network
    kept = load_file(path)
    assert (kept["fc7.weight"] == trunk.fc7.weight).all() and (kept["fc6.weight"] != trunk.fc6.weight).any()


def test_adapted_head_on_other_rows_says_what_to_extract(run_new, new_work):
    config = configure(new_work, heads={"u": {"kind": "adapted"}}, head="u", compare=["fca"])
    assert run_new(EXTRACT).code == 0
    ended = run_new(f"fit-head --dataset tiny --head u --config {config}")
    assert ended.code == 2
    assert (
        "set layer: pool5, and make the rows with: pipeline extract --dataset tiny --split train --layer" in ended.err
    )


def test_own_outputs_need_no_rows_of_the_fit_split(run_new, new_work):
    drawn = load_trunk("alexnet64")
    weights = dict(drawn.network.network.state_dict())
    weights |= {f"fc8.{k}": v[:3].clone() for k, v in drawn.classifier.items()}
    card = TrunkCard(
        name="mine",
        architecture="alexnet64",
        input_px=64,
        layers=drawn.card.layers,
        trained={"classes": ["ball", "crate", "background"]},
    )
    save_trunk(new_work / "mine", weights, card)
    config = configure(new_work, trunk="mine.yaml", heads={"o": {"kind": "own"}}, head="o", compare=["fca"])
    assert run_new(f"extract --dataset tiny --split val --config {config}").code == 0

    for line in ("fit-head", "score", "evaluate"):
        ended = run_new(f"{line} --dataset tiny --head o --config {config}")
        assert ended.code == 0, ended.err

    assert "tiny val: head o on mine.yaml fc7" in ended.out
    again = run_new(f"fit-head --dataset tiny --head o --config {config}")
    assert again.err.endswith("there already, for this store and these labels\n")
