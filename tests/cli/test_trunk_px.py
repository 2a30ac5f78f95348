"""One network at two input sizes: two stores, and one store for its own size, stated or not."""

from __future__ import annotations

import torch
import yaml
from safetensors.torch import save_file

from pipeline.activations.store import Store
from pipeline.trunk.zoo.timm import import_timm

EXTRACT = "extract --dataset tiny --split train --config px.yaml"


def test_two_sizes_are_two_stores(run_new, new_work):
    torch.manual_seed(0)
    save_file(import_timm().create_model("test_vit").state_dict(), new_work / "vit.safetensors")
    own = yaml.safe_load((new_work / "config.yaml").read_text())
    own |= {"trunk": "timm/test_vit@last:2", "weights": "vit.safetensors", "source": "whole", "precision": "fp32"}
    ended, stores = [], []
    for px in (None, 160, 192):
        (new_work / "px.yaml").write_text(yaml.safe_dump(own if px is None else {**own, "trunk_px": px}))
        ended.append(run_new(EXTRACT))
        assert ended[-1].code == 0, ended[-1].err
        (store,) = (line for line in ended[-1].out.splitlines() if line.startswith("cache/"))
        stores.append(store)

    assert stores[0] == stores[1] != stores[2] and "the trunk does not run" in ended[1].err
    plain, sized = (Store(new_work / store) for store in (stores[0], stores[2]))
    fields, others = plain.identity.to_dict(), sized.identity.to_dict()
    # The size of a part follows from the operations of a row.
    assert {key for key in fields if fields[key] != others[key]} == {"how.input_px", "how.part_rows"}
    assert (fields["how.layer"], fields["how.input_px"], others["how.input_px"]) == ("last:2:class", 160, 192)
    rows, others = (store.read_part(store.parts[0]) for store in (plain, sized))
    assert rows.shape == others.shape == (6, 128) and not (rows == others).all(1).any()


def test_sizes_that_cannot_be_had_end_in_one_line(run_new, new_work):
    own = yaml.safe_load((new_work / "config.yaml").read_text())
    (new_work / "px.yaml").write_text(yaml.safe_dump({**own, "trunk_px": 96}))
    ended = run_new(EXTRACT)
    assert ended.code != 0 and "got trunk_px 96, expected none" in ended.err and "Traceback" not in ended.err
    (new_work / "px.yaml").write_text(yaml.safe_dump({**own, "trunk_px": 8}))
    assert "trunk_px: Input should be greater than or equal to 32, got 8" in run_new(EXTRACT).err
