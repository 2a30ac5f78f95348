"""The table of kinds of heads, against the settings of kinds."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter

from pipeline.head.kinds import KINDS
from pipeline.head.settings import HEAD_KINDS, AnyHead, ScoreKind
from pipeline.head.task import PatchScorer, PooledScorer

FURTHER = {"adapted": {"fc_widths": [6, 5]}, "knn": {"n_rows": 30}}
"""Arguments of networks that are made from more than their settings."""
MAPPED = {"attention"}
"""Kinds that score pictures in a way of their own, and patches for heat maps."""
NEEDED = {"code": {"code": "support.own_class:Zeros"}}
"""Settings without a default."""


def test_every_kind_has_settings_and_an_implementation():
    assert tuple(KINDS) == HEAD_KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_scores_patches_or_whole_pictures(kind):
    settings = TypeAdapter(AnyHead).validate_python({"kind": kind, **NEEDED.get(kind, {})})
    network = KINDS[kind].make_network(8, 3, settings, **FURTHER.get(kind, {})).eval()

    # `patch_scores` of a network that pools are for heat maps.
    assert isinstance(network, PooledScorer) != settings.scores_patches
    assert isinstance(network, PatchScorer) == (settings.scores_patches or kind in MAPPED)
    assert network.score_kind in get_args(ScoreKind)
    if isinstance(network, PatchScorer):
        with torch.inference_mode():
            assert network.patch_scores(torch.zeros(4, 8, dtype=torch.float16)).shape == (4, 3)
