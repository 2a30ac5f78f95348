"""Settings of heads, one class per kind."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from pipeline.head.logistic_settings import LogisticSettings
from pipeline.head.network_settings import NetworkSettings
from pipeline.head.points import GridOfHeads
from pipeline.head.svm_settings import SvmSettings, VladSettings
from pipeline.io.messages import brief
from pipeline.io.model import MAX_BATCH, MAX_WIDTH
from pipeline.io.own_code import find_code

ScoreKind: TypeAlias = Literal["softmax", "logistic", "log-odds", "pooled"]
"""What the scores of a head are.

``softmax``, probabilities of the classes and background, which sum to 1; ``logistic``, the probability of each class
by itself; ``log-odds``, of any size; ``pooled``, scores of whole pictures: there are none of patches.
"""
HIGHEST_PROBABILITY = 1 + 1e-6
"""A softmax may exceed 1 by a rounding of float32."""
PatchScoreKind: TypeAlias = Literal["softmax", "logistic", "log-odds"]
"""`ScoreKind` of heads that score patches."""


HeadDeviceName: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        # Left out where it is not set, so that what was named before there was a choice keeps its name.
        exclude_if=lambda device: device == "auto",
        description="where heads are fitted and score patches. auto: on a GPU where there is one, `device` is not cpu, "
        "the work takes 10^12 multiplications or more, and the GPU's memory holds it; cuda: one that no other run uses",
    ),
]
"""Setting of the device for heads."""
HEAD_GROUP = "pipeline.heads"
"""Entry points of heads that other packages bring."""


class HeadSettings(NetworkSettings):
    """A strongly supervised head: fitted on patches with labels (Oquab et al. 2014, section 3.3)."""

    scores_patches: ClassVar[bool] = True
    needs_boxes: ClassVar[bool] = True
    kind: Literal["strong"] = "strong"
    targets: Literal["single", "several"] = Field(
        "single",
        description="single: one softmax over patches that one object fills; several: one logistic loss per class, "
        "and patches that several objects fill train several outputs",
    )
    background_share: float = Field(0.1, gt=0, le=1, description="share of the background patches that is used")


class WeakSettings(NetworkSettings):
    """A head fitted on picture labels alone, through the best patches of each picture and class."""

    scores_patches: ClassVar[bool] = True
    needs_boxes: ClassVar[bool] = False
    kind: Literal["weak"]
    hidden: tuple[int, ...] = Field((1024,), max_length=8, description="widths of the layers before FCb")
    top: int = Field(1, ge=1, le=1000, description="patches whose mean score is a picture's; 1 is the maximum")
    # A fifth of the others': few pictures per step, and their best patches are alike; at 0.01 the loss rises.
    rates: tuple[float, ...] = Field((0.002, 0.0002), min_length=1, description="learning rates, in turn")
    max_epochs: tuple[int, ...] = Field((12, 4), min_length=1, description="largest number of epochs per rate")
    batch: int = Field(16, ge=1, le=MAX_BATCH, description="pictures per step")


class AttentionSettings(NetworkSettings):
    """A head fitted on picture labels alone, through patches that it learns to attend to (Ilse et al. 2018)."""

    scores_patches: ClassVar[bool] = False
    needs_boxes: ClassVar[bool] = False
    kind: Literal["attention"]
    hidden: tuple[int, ...] = Field((), max_length=8, description="widths of the layers before attention and FCb")
    attention: int = Field(128, ge=1, le=MAX_WIDTH, description="width of the gated layer, which all classes share")
    attention_rate: float = Field(
        10.0, gt=0, le=1000, description="learning rate of the attention, as a multiple of FCb's"
    )
    maps: Literal["score", "attention"] = Field(
        "score",
        description="the value of a patch in heat maps: its score, as if it were the whole picture; or its attention, "
        "the log of its weight in the picture up to a constant",
    )
    rates: tuple[float, ...] = Field((0.002, 0.0002), min_length=1, description="learning rates, in turn")
    max_epochs: tuple[int, ...] = Field((6, 2), min_length=1, description="largest number of epochs per rate")
    batch: int = Field(16, ge=1, le=MAX_BATCH, description="pictures per step")


class AdaptedSettings(HeadSettings):
    """FC6 (and FC7) trained with FCa and FCb on pool5 rows, from the trunk's own weights (PRE-1512U) or from none."""

    # All that is said of a strong head holds but for its kind, by which `AnyHead` tells them apart.
    kind: Literal["adapted"]  # type: ignore[assignment]
    retrain: tuple[Literal["fc6", "fc7"], ...] = Field(
        ("fc6",), min_length=1, description="layers that are trained again"
    )
    # Left out where it is the usual one, so that heads from before there was a choice keep their names.
    start: Literal["trunk", "random"] = Field(
        "trunk",
        exclude_if=lambda start: start == "trunk",
        description="weights that FC6 and FC7 begin with: the trunk's own, or random ones where it has none",
    )
    trunk_rate: float = Field(0.1, gt=0, le=1, description="learning rate of these layers, as a share of the others'")
    fc7_dropout: float = Field(0.5, ge=0, lt=1, description="on the input of FC7")

    @model_validator(mode="after")
    def _random_layers_are_trained(self) -> Self:
        if self.start == "random" and set(self.retrain) != {"fc6", "fc7"}:
            raise ValueError(f"start random: retrain must be [fc6, fc7], got {brief(list(self.retrain))}")
        return self


class OwnSettings(GridOfHeads):
    """The outputs of the trunk's own last layer, where it was trained on the dataset's classes; nothing is fitted."""

    scores_patches: ClassVar[bool] = True
    needs_boxes: ClassVar[bool] = False
    kind: Literal["own"]


class VectorSettings(GridOfHeads):
    """What heads have in common that take either one pooled vector per picture, or patches."""

    takes: Literal["pictures", "patches"] = Field(
        "pictures",
        description="what is fitted and scored: pictures, one pooled vector each, by their labels; or patches, by the "
        "labels that follow from boxes",
    )
    pooling: tuple[Literal["mean", "max"], ...] = Field(
        ("mean", "max"), min_length=1, description="pictures: how a picture's rows become one vector; several join"
    )
    normalise: bool = Field(True, description="pictures: each pooled vector to length 1, before several are joined")
    background_share: float = Field(
        0.1, gt=0, le=1, description="patches: share of the background patches that is used"
    )

    @field_validator("pooling")
    @classmethod
    def _each_once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"must name each once, got {brief(list(values))}")
        return values

    @property
    def scores_patches(self) -> bool:
        return self.takes == "patches"

    @property
    def needs_boxes(self) -> bool:
        return self.takes == "patches"

    @property
    def pooled_by(self) -> tuple[str, ...]:
        return self.pooling if self.takes == "pictures" else ()


class CodeSettings(VectorSettings):
    """A head of one's own: a class in Python (docs/how-to/own-head.md)."""

    kind: Literal["code"]
    code: str = Field(max_length=200, description="module:Class, or the name of an entry point of pipeline.heads")
    parameters: dict[str, Any] = Field({}, description="arguments of the class, by name, as JSON values")
    targets: Literal["single", "several"] = Field("single", description="patches: as of a strong head")
    score_kind: PatchScoreKind = Field(
        "logistic",
        description="patches: softmax and logistic scores lie in 0..1, as powers need; log-odds are of any size",
    )
    sha256: str = Field(
        "",
        max_length=64,
        description="of the sources of the class: filled in where it is left out, and refused where it differs",
    )

    @field_validator("parameters")
    @classmethod
    def _parameters_are_json(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(parameters, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"must be numbers, texts, lists and mappings: {error}") from error
        return parameters

    @model_validator(mode="before")
    @classmethod
    def _sources_are_digested(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("code"), str):
            return values
        found, given = find_code(values["code"], HEAD_GROUP), values.get("sha256")
        if given and given != found.sha256:
            raise ValueError(
                f"{found.reference} ({found.files[0]}) has other sources than those of sha256 {str(given)[:12]}...: "
                f"now {found.sha256[:12]}...; fit the head again, or give back the sources"
            )
        return {**values, "sha256": found.sha256}


class KnnSettings(VectorSettings):
    """k nearest neighbours by cosine similarity (Wu et al. 2018, and the protocol of DINO): nothing is fitted."""

    kind: Literal["knn"]
    k: int = Field(20, ge=1, le=100_000, description="neighbours that vote")
    temperature: float = Field(0.07, gt=0, le=100, description="a vote weighs exp(cosine / temperature)")

    @property
    def has_chance(self) -> bool:
        return self.takes == "patches"


class NcmSettings(VectorSettings):
    """Nearest class mean (Mensink et al. 2013), after centring and scaling to length 1 (Wang et al. 2019)."""

    in_unit_range: ClassVar[bool] = False  # negative distances, to which powers do not apply

    kind: Literal["ncm"]
    centre: bool = Field(True, description="take the mean of the fit rows off first")
    unit_length: bool = Field(True, description="scale rows to length 1 after that")

    @property
    def has_chance(self) -> bool:
        return self.takes == "patches"


def _kind_of(value: object) -> str:
    kind = value.get("kind", "strong") if isinstance(value, dict) else getattr(value, "kind", "strong")
    return kind if isinstance(kind, str) else "strong"


AnyHead = Annotated[
    Annotated[HeadSettings, Tag("strong")]
    | Annotated[WeakSettings, Tag("weak")]
    | Annotated[SvmSettings, Tag("svm")]
    | Annotated[AdaptedSettings, Tag("adapted")]
    | Annotated[OwnSettings, Tag("own")]
    | Annotated[CodeSettings, Tag("code")]
    | Annotated[KnnSettings, Tag("knn")]
    | Annotated[NcmSettings, Tag("ncm")]
    | Annotated[AttentionSettings, Tag("attention")]
    | Annotated[VladSettings, Tag("vlad")]
    | Annotated[LogisticSettings, Tag("logistic")],
    Discriminator(_kind_of),
]
"""Settings of a head of any kind; without ``kind`` it is a strong one."""
SETTINGS_OF_KIND: dict[str, Any] = {
    tag.tag: settings for settings, tag in map(get_args, get_args(get_args(AnyHead)[0]))
}
"""The class of settings of each kind of head."""
HEAD_KINDS = tuple(SETTINGS_OF_KIND)
CPU_KINDS = ("own", "code", "knn", "ncm", "attention", "logistic")
"""Kinds that are fitted on a CPU whatever the setting `head_device` says."""


HEADS: dict[str, AnyHead] = {
    "fca": HeadSettings(),
    "fcb": HeadSettings(hidden=()),
    "fca2": HeadSettings(hidden=(2048, 2048)),
    "strong": HeadSettings(),
    "strong-fcb": HeadSettings(hidden=()),
    "strong-fca2": HeadSettings(hidden=(2048, 2048)),
    "multilabel": HeadSettings(targets="several"),
    "weak": WeakSettings(kind="weak", hidden=(), top=20, max_epochs=(6, 2)),
    "weak-fca": WeakSettings(kind="weak", hidden=(1024,), top=20, max_epochs=(6, 2)),
    "attention": AttentionSettings(kind="attention"),
    "vlad": VladSettings(kind="vlad"),
    "svm": SvmSettings(kind="svm", pooling=("mean", "max")),
    "probe": LogisticSettings(
        kind="logistic",
        grid={
            "pooling": (["mean"], ["max"], ["mean", "max"]),
            "weight_decay": (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003),
        },
    ),
    "knn": KnnSettings(kind="knn"),
    "knn-patches": KnnSettings(kind="knn", takes="patches"),
    "ncm": NcmSettings(kind="ncm"),
    "ncm-patches": NcmSettings(kind="ncm", takes="patches"),
}
"""Built-in heads: FCa + FCb, FCb alone, two hidden layers; and those of the built-in recipes that are a head alone."""
DEFAULT_HEADS = {True: "fca", False: "svm"}
"""The main head where none is configured, by whether the dataset has boxes.

Without boxes it is the SVM: on `voc12_subset`, from picture labels alone, it had the highest mAP (docs/results.md), in
a third of the time of `weak`, and it has no aggregation to choose.
"""
COMPARED_HEADS = {True: ("fca", "fcb", "fca2"), False: ("svm", "weak")}
"""The heads that are compared where none are configured, by whether the dataset has boxes."""
