"""The table of trunk sources, and the digest of weights."""

from importlib import import_module

import pytest
import torch
from safetensors.torch import save

from pipeline.io.digests import sha256_bytes
from pipeline.stages.settings import RunSettings
from pipeline.trunk.registry import CARD, LAYERS, SOURCES, check_trunk_name, find_source, names_layer
from pipeline.trunk.trunk import digest_weights


@pytest.mark.parametrize("source", [*SOURCES, CARD], ids=lambda source: source.name)
def test_every_source_has_a_loader_or_is_made_from_a_dataset(source):
    module, _, function = source.loader.partition(":")

    assert source.made == (not source.loader)
    assert source.made or callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("alexnet64", "alexnet64"),
        ("no-pretrain", "no-pretrain"),
        ("torchvision/resnet18.V1@layer4+layer3", "torchvision/NAME@LAYER"),
        ("timm/vit@blocks.yaml", "timm/NAME@LAYER"),
        ("out/mine.yaml", "PATH.yaml"),
        ("out/mine.safetensors", "PATH.yaml"),
        ("alexnet65", None),
        ("efficientnet_lite0", "efficientnet_lite0@LAYER"),
        ("efficientnet_lite2@blocks.3+features", "efficientnet_lite2@LAYER"),
        ("efficientnet_lite3", None),
        ("alexnet@fc7", None),
        ("timm", None),
        ("", None),
    ],
)
def test_a_source_is_found_by_name(name, source):
    found = find_source(name)

    assert (found and found.name) == source


def test_names_of_libraries_and_packages_name_a_layer():
    assert [source.name for source in SOURCES if names_layer(source.name)] == [
        *(f"efficientnet_lite{n}@LAYER" for n in range(3)),
        "torchvision/NAME@LAYER",
        "timm/NAME@LAYER",
        "imported/NAME",
        "code/MODULE:CLASS",
    ]


@pytest.mark.parametrize("name", ["alexnet65", "", "torchvision/", "timm/a b", "timm/../x", "torchvision", "w.pth"])
def test_unknown_names_are_refused_with_all_that_are_known(name):
    with pytest.raises(ValueError, match="one of alexnet64, .*, fisher, torchvision/NAME@LAYER, .* or the path of a"):
        check_trunk_name(name)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_layers_of_the_family_are_those_of_its_trunks(source):
    settings = {"trunk": source.name, "layer": "pool6"}
    if source.layers:
        assert source.layers == LAYERS
        with pytest.raises(ValueError, match=f"trunk {source.name} has pool5, fc6, fc7, got 'pool6'"):
            RunSettings(**settings)
    else:
        assert RunSettings(**settings).layer == "pool6"


def test_the_digest_of_weights_does_not_depend_on_their_order():
    torch.manual_seed(0)
    weights = {"b": torch.rand(3, 2), "conv10": torch.rand(4), "conv2": torch.rand(5), "a": torch.arange(3)}
    backwards = dict(reversed(weights.items()))

    # safetensors orders tensors itself; if it ever stops, sorting keeps the digest.
    assert digest_weights(weights) == digest_weights(backwards)
    assert digest_weights(weights) == sha256_bytes(save(weights)) == sha256_bytes(save(backwards))
