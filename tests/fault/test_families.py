"""Rows are taken over on every family of trunks: the bytes of a fresh extraction, or nothing is taken over.

The short form tries a few small networks; ``PIPELINE_TORTURE=1`` some forty, of each family of torchvision and many of
timm, with random weights, in fp32 and bf16. ``PIPELINE_FAMILIES_JSON=FILE`` keeps what was found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.noise import draw_noise
from support.pictures import split_of
from support.threads import one_thread  # noqa: F401
from torch import Tensor, nn

from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import LocalFolder
from pipeline.activations.preview import preview
from pipeline.activations.run_log import RunLog
from pipeline.activations.store import Store
from pipeline.patches.build import make_table
from pipeline.patches.settings import GridSettings, SourceSettings
from pipeline.patches.table import PatchTable
from pipeline.trunk.alexnet import AlexNet, krizhevsky
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.fisher.codebook import fit_codebooks
from pipeline.trunk.fisher.trunk import PIXELS_AS_THEY_ARE, fisher_trunk, vector_width
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import PendingBatch, TrunkRunner
from pipeline.trunk.settings import FisherSettings
from pipeline.trunk.trunk import Trunk
from pipeline.trunk.zoo.timm import import_timm
from pipeline.trunk.zoo.torchvision_import import import_torchvision

TORTURE = os.environ.get("PIPELINE_TORTURE") == "1"
BATCH = 16
WINDOWS = SourceSettings(grid=GridSettings(scales=(2.0,), overlap=0.5))

SHORT = ("timm/test_efficientnet", "timm/test_vit", "timm/test_convnext")
LONG = (
    "random",
    "random, dense",
    "random, compiled",
    "fisher",
    *SHORT,
    "torchvision/alexnet",
    "torchvision/squeezenet1_0",
    "torchvision/squeezenet1_0, dense",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/mobilenet_v3_large",
    "torchvision/mnasnet0_5",
    "torchvision/resnet18",
    "torchvision/resnet18, compiled",
    "torchvision/efficientnet_b0",
    "torchvision/regnet_y_400mf",
    "torchvision/googlenet",
    "timm/ghostnet_050",
    "timm/mobilenetv4_conv_small_050",
    "timm/mobilevit_xxs",
    "timm/levit_128s",
    "timm/edgenext_xx_small",
    "timm/convnextv2_atto",
    "timm/inception_next_atto",
    "timm/vit_tiny_patch16_224",
    "timm/deit_tiny_distilled_patch16_224",
    "timm/eva02_tiny_patch14_224",
    "timm/mixer_s32_224",
    "timm/xcit_nano_12_p16_224",
    "timm/coat_lite_tiny",
    "timm/repvgg_a0",
    "timm/hgnetv2_b0",
    "timm/tf_efficientnet_lite0",
    "timm/poolformer_s12",
    "timm/test_nfnet",
    "timm/test_mambaout",
    "timm/test_maxvit",
    "torchvision/densenet121",
    "torchvision/convnext_tiny",
    "torchvision/swin_t",
    "krizhevsky",
    "torchvision/vgg11",
    "torchvision/vit_b_16",
)
"""Quick ones first. Fisher vectors compute in fp32 alone."""
SMALL_INPUT_PX = dict.fromkeys((f"torchvision/{n}" for n in ("densenet121", "convnext_tiny", "swin_t", "vgg11")), 96)
"""Networks that are slow at their own size, and take any."""


def settle(model: nn.Module, px: int) -> nn.Module:
    """Give random weights a sane scale: no layer that begins at nought, and statistics of what comes in."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    if norms:
        for module in norms:
            module.train().momentum = 1.0
        with torch.no_grad():
            model(torch.randn(4, 3, px, px))
    return model.eval()


def load_random(name: str, folder: Path) -> Trunk:
    """A trunk of a family with random weights."""
    torch.manual_seed(0)
    library, _, model_name = name.partition("/")
    path = folder / "weights.safetensors"
    if name == "random":
        return load_trunk("random")
    if name == "fisher":
        rng = np.random.default_rng(0)
        pictures = [rng.integers(0, 256, (96, 96, 3), np.uint8) for _ in range(12)]
        state = fit_codebooks(pictures, FisherSettings(words=4, components=8, windows=12, samples=50))
        width = vector_width(state)
        card = TrunkCard(
            name="f", architecture="fisher", input_px=96, layers={"fisher": width}, preprocessing=PIXELS_AS_THEY_ARE
        )
        return fisher_trunk(card, state, "fisher", "0" * 64)
    if name == "krizhevsky":
        state = AlexNet(krizhevsky()).state_dict()
    elif library == "timm":
        model = import_timm().create_model(model_name).eval()
        state = settle(model, model.pretrained_cfg["input_size"][-1]).state_dict()
    else:
        more = {"init_weights": True, "aux_logits": False} if model_name == "googlenet" else {}
        state = settle(import_torchvision().models.get_model(model_name, weights=None, **more), 224).state_dict()
    save_file({key: value.clone().contiguous() for key, value in state.items()}, path)
    trunk = load_trunk(name, weights=path)
    px = SMALL_INPUT_PX.get(name, trunk.card.input_px)
    return replace(trunk, card=trunk.card.model_copy(update={"input_px": px}))


class Pictures:
    """Three drawn pictures, and tables of some of them."""

    def __init__(self, folder: Path) -> None:
        self.paths = {name: folder / f"{name}.png" for name in "abc"}
        folder.mkdir()
        for seed, path in enumerate(self.paths.values()):
            draw_noise(path, (64, 48 + 8 * seed), seed)

    def table(self, ids: str) -> PatchTable:
        paths = tuple(self.paths[i] for i in ids)
        return make_table(split_of(paths, ids), WINDOWS)


@dataclass(frozen=True)
class Found:
    """What was found of a trunk in one arithmetic.

    Attributes
    ----------
    trial : whether the trial before an extraction finds that rows can be mixed
    same_rows : whether rows of one extraction are those of another one, at other places in the batches
    taken_over, rows : rows that came from another store, of all
    """

    trial: bool
    same_rows: bool
    taken_over: int
    rows: int


def bytes_of(store: Store) -> dict[str, bytes]:
    return {name: store.folder.read(name) for name in store.folder.sizes()}


def try_adoption(runner: TrunkRunner, pictures: Pictures, folder: Path, batch: int = BATCH) -> Found:
    """Extract two pictures, then these and another one before them; compare with a fresh extraction of the three."""
    two, three = pictures.table("ab"), pictures.table("cab")

    def extract(table: PatchTable, cache: str) -> Store:
        stores = LocalFolder(folder / cache)
        extraction = Extraction(table, pictures.paths, runner, stores, batch, log_folder=folder / cache)
        foreseen = preview(extraction)
        (store,) = extraction.run_layers()
        (entry,) = RunLog.of_store(folder / cache, store.folder.name).read()
        assert foreseen.adopted == entry.adopted
        assert foreseen.n_rows == store.n_rows - sum(entry.adopted.values())
        return store

    before, grown, fresh = extract(two, "cache"), extract(three, "cache"), extract(three, "fresh")
    assert bytes_of(grown) == bytes_of(fresh), "the bytes of a fresh extraction, whether rows were taken over or not"
    n_new = three.n_rows - two.n_rows
    rows, again = (store.read_rows(np.arange(store.n_rows)) for store in (before, fresh))
    assert again.astype(np.float64).std(0).max() > 1e-4, "rows that say something"
    adopted = sum(RunLog.of_store(folder / "cache", grown.folder.name).adopted().values())
    return Found(runner.rows_are_independent(batch), np.array_equal(again[n_new:], rows), adopted, three.n_rows)


def keep(name: str, precision: str, found: Found) -> None:
    file = os.environ.get("PIPELINE_FAMILIES_JSON")
    if file:
        path = Path(file)
        kept = json.loads(path.read_text()) if path.exists() else {}
        kept.setdefault(name, {})[precision] = vars(found)
        path.write_text(json.dumps(kept, indent=1) + "\n")


@pytest.fixture
def pictures(tmp_path) -> Pictures:
    return Pictures(tmp_path / "pictures")


def make_runner(name: str, precision: str, folder: Path) -> TrunkRunner:
    """A runner by the name of a trunk and, where it is not patch by patch, how it is run."""
    trunk, _, how = name.partition(", ")
    of_trunk = load_random(trunk, folder)
    if how == "dense":
        return DenseRunner(of_trunk, torch.device("cpu"), precision)
    return TrunkRunner(of_trunk, torch.device("cpu"), precision, compiled=how == "compiled")


@pytest.mark.timeout(0 if TORTURE else 300)
@pytest.mark.parametrize(
    ("name", "precision"),
    [(n, p) for n in (LONG if TORTURE else SHORT) for p in ("fp32", "bf16") if (n, p) != ("fisher", "bf16")],
)
def test_a_family_takes_over_right_rows_or_none(name, precision, pictures, tmp_path):
    found = try_adoption(make_runner(name, precision, tmp_path), pictures, tmp_path)
    keep(name, precision, found)
    assert bool(found.taken_over) == found.trial
    assert found.same_rows or not found.trial, "the trial has to find what does not hold"


class OfTheWholeBatch(nn.Module):
    """A network whose rows depend on the patches beside them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.randn(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.mean((2, 3)) @ self.weight
        if self.how == "beside":
            return rows - rows.mean(0)
        return rows + torch.arange(len(rows), dtype=rows.dtype)[:, None] / 64


class CountingRunner(TrunkRunner):
    batches = 0

    def launch(self, patches: np.ndarray | Tensor, layers: Sequence[str]) -> PendingBatch:
        self.batches += 1
        return super().launch(patches, layers)


@pytest.mark.parametrize("how", ["beside", "place"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_for_which_the_law_does_not_hold_switches_it_off(how, precision, pictures, tmp_path):
    torch.manual_seed(0)
    card = TrunkCard(name=how, architecture=how, input_px=32, layers={"fc7": 16})
    network = OfTheWholeBatch(how).eval()
    runner = CountingRunner(Trunk(card, "fc7", 16, "0" * 64, network), torch.device("cpu"), precision)
    found = try_adoption(runner, pictures, tmp_path)
    assert (found.trial, found.same_rows, found.taken_over) == (False, False, 0)
