"""Settings of trunks: names, layers, pre-training and the codebook of hand-made features."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from pipeline.io.messages import brief
from pipeline.io.model import MAX_BATCH, MAX_EPOCHS, MAX_FC_WIDTH, MAX_SEED, MAX_UPDATES, Settings

RANDOM_CLASSES = r"random:([1-9]\d{0,6})(?::(\d{1,9}))?"
"""A number of classes at random, and the seed of the choice."""


class PretrainSettings(Settings):
    """How a trunk is pre-trained on the source task."""

    architecture: Literal["krizhevsky", "alexnet64"] = "alexnet64"
    # Left out where it is not set, so that what was named before there was a choice keeps its name.
    fc_width: int | None = Field(
        None,
        ge=1,
        le=MAX_FC_WIDTH,
        exclude_if=lambda width: width is None,
        description="of FC6 and FC7; None for the architecture's own (4096, alexnet64 1024); PRE-1512 has 6144",
    )
    epochs: int = Field(24, ge=1, le=MAX_EPOCHS)
    updates: int | None = Field(None, ge=1, le=MAX_UPDATES, description="steps in all, instead of epochs")
    batch: int = Field(256, ge=2, le=MAX_BATCH)
    peak_rate: float = Field(0.15, gt=0, description="highest learning rate of the one cycle")
    peak_rates: tuple[float, ...] = Field(
        (), max_length=100, description="rates of which the one with the lowest held-out loss is taken instead"
    )
    trial_updates: int = Field(500, ge=1, le=MAX_UPDATES, description="steps of the short run with each of them")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.2, ge=0, lt=1, description="on the inputs of FC6 and FC7")
    shift_px: int = Field(6, ge=0, le=32, description="largest shift in each direction")
    zoom: tuple[float, float] = Field((0.9, 1.2), description="range of the random zoom")
    seed: int = Field(0, ge=0, le=MAX_SEED)

    @field_validator("peak_rates")
    @classmethod
    def _rates_are_positive(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(rate <= 0 for rate in rates) or len(set(rates)) != len(rates):
            raise ValueError(f"must be positive and differ, got {brief(list(rates))}")
        return rates


class ClassSelection(Settings):
    """Which classes of a folder of synset folders the source task has (Oquab et al. 2014, section 4)."""

    select: str = Field("all", description="all, random:N, random:N:SEED, or nodes: a base list and all below nodes")
    base: str | None = Field(None, description="with nodes: a file with a wnid a line, or random:N")
    below: tuple[str, ...] = Field((), max_length=1000, description="with nodes: WordNet nodes, by name or wnid")
    wordnet: str | None = Field(None, description="table of synsets to use instead of the one that is shipped")

    @model_validator(mode="after")
    def _parts_belong_together(self) -> Self:
        if self.select not in ("all", "nodes") and not re.fullmatch(RANDOM_CLASSES, self.select):
            raise ValueError(f"select must be all, random:N, random:N:SEED or nodes, got {brief(self.select)}")
        if self.select == "nodes" and not self.below:
            raise ValueError("select nodes: name at least one node with below")
        if self.select != "nodes" and (self.base or self.below or self.wordnet):
            raise ValueError(f"base, below and wordnet belong to select nodes, not to {brief(self.select)}")
        return self


class FromScratchSettings(PretrainSettings):
    """How a whole network is trained on the patches of a dataset, from random weights (NO PRETRAIN)."""

    updates: int | None = Field(
        9375, ge=1, le=MAX_UPDATES, description="steps in all; not fewer than the pre-training of alexnet64 had (9,360)"
    )
    batch: int = Field(64, ge=2, le=MAX_BATCH)
    peak_rates: tuple[float, ...] = Field(
        (0.003, 0.01, 0.03, 0.1),
        max_length=100,
        description="rates of which the one with the lowest held-out loss is taken",
    )
    background_share: float = Field(0.1, gt=0, le=1, description="share of the background patches that is used")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the pictures that is measured on, not trained on")
    part: str | None = Field(
        None,
        pattern=r"^(pictures|shots):[1-9]\d{0,8}$",
        exclude_if=lambda part: part is None,
        description="train on a random part of the fit pictures that `seed` draws: pictures:N, or shots:N per class",
    )

    @model_validator(mode="after")
    def _rates_are_compared_on_held_out_pictures(self) -> Self:
        if self.peak_rates and not self.held_out:
            raise ValueError("peak_rates are compared on held-out pictures: held_out must be above 0, or give one rate")
        return self


class FisherSettings(Settings):
    """How the codebook of a trunk of Fisher vectors is made from pictures without labels."""

    input_px: int = Field(320, ge=32, le=2048, description="side to which a picture is resized")
    words: int = Field(64, ge=1, le=4096, description="Gaussians of the mixture")
    components: int = Field(32, ge=1, le=96, description="columns of a descriptor after its projection")
    windows: int = Field(1000, ge=1, le=1_000_000, description="largest number that is used; of source whole, pictures")
    samples: int = Field(100, ge=1, le=100_000, description="descriptors taken of each")
    seed: int = Field(0, ge=0, le=MAX_SEED)
