"""All settings, as closed pydantic models: an unknown key or a value out of range is an error."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.errors import SettingsError, brief, enumerate_problems, shorten

# Bounds far above any use, and below what makes a machine stop without a word.
MAX_BATCH = 65_536
MAX_WIDTH = 65_536
MAX_FC_WIDTH = 16_384
MAX_EPOCHS = 10_000
MAX_UPDATES = 100_000_000
MAX_SEED = 2**32 - 1
MAX_THREADS = 1024

Aggregation = float | str
"""How patch scores become a picture's.

A number k is the mean of k-th powers, ``max`` the maximum, ``top:T`` the mean of the T highest,
``lme:R`` the log-mean-exp of sharpness R, ``pooled`` that there are no patch scores: the head looks
at one vector a picture.
"""
POOLED = "pooled"


def check_aggregation(value: object) -> Aggregation:
    """An aggregation in its one form; ``top:20`` and ``lme:8`` are text, k a float.

    >>> check_aggregation(5), check_aggregation("top:20")
    (5.0, 'top:20')
    >>> check_aggregation("top:0")
    Traceback (most recent call last):
    ...
    ValueError: must be a power in 1..100, max, top:T (T in 1..1000), lme:R (R in 0.1..100) or pooled, got 'top:0'
    """
    text = str(value)
    name, _, number = text.partition(":")
    try:
        amount = float(number or text)
    except ValueError:
        amount = float("nan")
    if text in ("max", POOLED):
        return text
    if name == "top" and amount in range(1, 1001):
        return f"top:{int(amount)}"
    if name == "lme" and 0.1 <= amount <= 100:
        return f"lme:{amount:g}"
    if not number and 1 <= amount <= 100:
        return amount
    raise ValueError(
        f"must be a power in 1..100, max, top:T (T in 1..1000), lme:R (R in 0.1..100) or pooled, got {brief(value)}"
    )


RANDOM_CLASSES = r"random:([1-9]\d{0,6})(?::(\d{1,9}))?"
"""A number of classes at random, and the seed of the choice."""


class Settings(BaseModel):
    """Base of all settings: frozen, and closed against unknown keys."""

    # Inputs are said by `explain_validation`, which leaves out refused URLs; pydantic's own message would not.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_values(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what pydantic lets pass: ``true`` as the number 1, and text that no file name can hold."""
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        assert info.field_name is not None  # it is None in validators of types alone
        if any(isinstance(item, bool) for item in items) and _is_numeric(cls.model_fields[info.field_name].annotation):
            raise ValueError(f"must be a number, got {brief(value)}")
        if any(isinstance(item, str) and re.search("[\0\ud800-\udfff]", item) for item in items):
            raise ValueError(f"must not hold NUL or half a character, got {brief(value)}")
        return value


def _is_numeric(annotation: object) -> bool:
    return annotation in (int, float) or any(_is_numeric(part) for part in get_args(annotation))


def explain_validation(error: ValidationError) -> list[str]:
    """One line a mistake: where, what, and what was got."""
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        # The kind by which the settings of a head are told apart is no key that anybody wrote.
        keys = [part for index, part in enumerate(item["loc"]) if index < 2 or part not in HEAD_KINDS]
        where = ".".join(shorten(str(part)) for part in keys) or "settings"
        # A URL may carry a password, also under a key that is mistyped.
        got = "" if item["type"] in ("missing", "value_error") else f", got {brief(item['input'])}"
        got = "" if "://" in got else got
        lines.append(f"{where}: {item['msg'].removeprefix('Value error, ')}{got}")
    return lines


def refuse_credentials(url: str) -> None:
    """Refuse a URL with a user, a password or a query: URLs end in logs and receipts.

    Raises
    ------
    SettingsError
        Without the URL's secret part.
    """
    scheme, separator, rest = url.partition("://")
    if separator and ("@" in rest or "?" in rest):
        raise SettingsError(
            f"stores {scheme}://...: credentials and options do not belong into a URL; give them through the "
            "environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )


Source = Literal["grid", "whole", "crops", "boxes"]


class GridSettings(Settings):
    """Which square windows of a picture are looked at (Oquab et al. 2014, section 3.2)."""

    scales: tuple[float, ...] = Field(
        (1.0, 1.3, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0),
        min_length=1,
        max_length=256,  # a patch table keeps the scale's number in one byte
        description="window side = short side of the picture / scale",
    )
    overlap: float = Field(
        0.65,
        ge=0,
        lt=0.95,
        description="least overlap of neighbours; the paper's 'at least 50 %' and 'around 500 patches' mean 0.65",
    )
    max_patches: int = Field(2000, ge=1, le=1_000_000, description="a picture with more is refused")
    min_side_px: float = Field(8.0, ge=0.1, description="a picture whose smallest window is smaller is refused")

    @field_validator("scales")
    @classmethod
    def _scales_rise(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if any(s < 1 for s in scales) or list(scales) != sorted(set(scales)):
            raise ValueError(f"must be at least 1 and rise, got {brief(list(scales))}")
        if scales and scales[-1] > 1000:
            raise ValueError(f"must be at most 1000, got {scales[-1]}")
        return scales


class CropSettings(Settings):
    """Jittered crops of a whole picture (Krizhevsky et al. 2012; Razavian et al. 2014): `source: crops`.

    The whole picture, squashed to a square, and for each share five squares: in the centre and in the four corners.
    """

    whole: bool = Field(True, description="the whole picture is one of the crops")
    shares: tuple[float, ...] = Field(
        (0.875,), max_length=25, description="sides of the squares, as shares of the picture's short side"
    )
    flips: bool = Field(True, description="each crop once more, mirrored left to right")

    @field_validator("shares")
    @classmethod
    def _shares_are_parts(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0.05 <= s <= 1 for s in shares) or len(set(shares)) < len(shares):
            raise ValueError(f"must lie in 0.05..1 and differ, got {brief(list(shares))}")
        return shares

    @model_validator(mode="after")
    def _there_is_a_crop(self) -> Self:
        if not (self.whole or self.shares):
            raise ValueError("no crop is left: allow whole, or give shares")
        return self


class BoxSettings(Settings):
    """One square a person, centred on the box (Oquab et al. 2014, section 4, action recognition): `source: boxes`."""

    margin: float = Field(1.0, ge=1, le=3, description="side of the square / longer side of the box")
    flips: bool = Field(False, description="each square once more, mirrored left to right")


class SourceSettings(Settings):
    """A source and the settings of all of them; those of the others decide nothing."""

    source: Source = "grid"
    grid: GridSettings = GridSettings()
    crops: CropSettings = CropSettings()
    boxes: BoxSettings = BoxSettings()

    def own(self) -> dict[str, object]:
        """Settings of ``crops`` or ``boxes``, by name; nothing for the sources that came before them."""
        own = {"crops": self.crops, "boxes": self.boxes}.get(self.source)
        return {} if own is None else {f"{self.source}_{name}": v for name, v in own.model_dump(mode="json").items()}


class LabelSettings(Settings):
    """How a patch gets its label from the boxes (Oquab et al. 2014, section 3.2, conditions i to iii)."""

    single_object: Literal["fills", "touches"] = Field(
        "fills",
        description="what a second object must not do for a patch to be positive: fill it, or touch it",
    )
    background: Literal["untouched", "unfilled"] = Field(
        "untouched", description="a patch is background if no box touches it, or if none fills it"
    )


class SgdSettings(Settings):
    """How a network on cached rows is fitted (Oquab et al. 2014, section 3.3)."""

    rates: tuple[float, ...] = Field((0.01, 0.001, 0.0001), min_length=1, description="learning rates, in turn")
    max_epochs: tuple[int, ...] = Field((6, 2, 1), min_length=1, description="at most so many epochs a rate")
    settled: float = Field(
        0.01, ge=0, description="a rate ends when an epoch lowers the mean loss by less than this share"
    )
    batch: int = Field(256, ge=1, le=MAX_BATCH)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)

    @model_validator(mode="after")
    def _rates_and_epochs_pair(self) -> Self:
        if len(self.rates) != len(self.max_epochs):
            got = f"{brief(self.rates)} and {brief(self.max_epochs)}"
            raise ValueError(f"rates and max_epochs must be equally long, got {got}")
        if any(r <= 0 for r in self.rates) or any(e < 0 for e in self.max_epochs):
            raise ValueError("rates must be positive, max_epochs at least 0")
        if not any(self.max_epochs):
            raise ValueError("max_epochs must allow one epoch at least")
        if any(e > MAX_EPOCHS for e in self.max_epochs):
            raise ValueError(f"max_epochs must be at most {MAX_EPOCHS:,}")
        return self


class NetworkSettings(SgdSettings):
    """Layers of a head on standardised rows."""

    hidden: tuple[int, ...] = Field((2048,), max_length=8, description="widths of the layers before FCb: FCa, ...")
    dropout: float = Field(0.5, ge=0, lt=1, description="on the inputs of FCa and FCb")
    input_dropout: float | None = Field(
        None, ge=0, lt=1, description="on the input of the first layer, where it differs from dropout"
    )
    standardise: bool = Field(True, description="input columns to mean 0 and deviation 1 over the fit rows")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of hidden layers, the last one is fp32 always; auto: bf16 where the CPU computes in it"
    )

    @field_validator("hidden")
    @classmethod
    def _widths_are_sane(cls, hidden: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= h <= MAX_WIDTH for h in hidden):
            raise ValueError(f"hidden must be positive and at most {MAX_WIDTH:,}")
        return hidden


class HeadSettings(NetworkSettings):
    """A strongly supervised head: fitted on patches with labels (Oquab et al. 2014, section 3.3)."""

    kind: Literal["strong"] = "strong"
    targets: Literal["single", "several"] = Field(
        "single",
        description="single: one softmax over patches that one object fills; several: one logistic loss a class, "
        "and patches that several objects fill train several outputs",
    )
    background_share: float = Field(0.1, gt=0, le=1, description="share of the background patches that is used")


class WeakSettings(NetworkSettings):
    """A head fitted on picture labels alone, through the best patches of each picture and class."""

    kind: Literal["weak"]
    hidden: tuple[int, ...] = Field((1024,), max_length=8, description="widths of the layers before FCb")
    top: int = Field(1, ge=1, le=1000, description="patches whose mean score is a picture's; 1 is the maximum")
    # A fifth of the others': few pictures a step, and their best patches are alike; at 0.01 the loss rises.
    rates: tuple[float, ...] = Field((0.002, 0.0002), min_length=1, description="learning rates, in turn")
    max_epochs: tuple[int, ...] = Field((12, 4), min_length=1, description="at most so many epochs a rate")
    batch: int = Field(16, ge=1, le=MAX_BATCH, description="pictures a step")


class SvmSettings(Settings):
    """A linear SVM a class on one vector a picture (Razavian et al. 2014)."""

    kind: Literal["svm"]
    pooling: tuple[Literal["mean", "max"], ...] = Field(
        ("mean", "max"), min_length=1, description="how a picture's rows become one vector; several are joined"
    )
    normalise: bool = Field(True, description="each pooled vector to length 1")
    standardise: bool = Field(
        True, description="columns to mean 0 and equal deviation over the fit pictures, after that; lengths stay near 1"
    )
    costs: tuple[float, ...] = Field(
        (0.1, 0.3, 1.0, 3.0, 10.0),
        min_length=1,
        max_length=100,
        description="values of C; one for all classes is chosen by cross-validation over the fit pictures",
    )

    @field_validator("pooling", "costs")
    @classmethod
    def _each_once(cls, values: tuple[str | float, ...]) -> tuple[str | float, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"must name each once, got {brief(list(values))}")
        return values

    @field_validator("costs")
    @classmethod
    def _costs_are_positive(cls, costs: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 1e-6 <= c <= 1e6 for c in costs):
            raise ValueError("costs must lie in 1e-6..1e6")
        return costs


class AdaptedSettings(HeadSettings):
    """FC6 (and FC7) trained again from the trunk's own weights, with FCa and FCb, on pool5 rows (PRE-1512U)."""

    # All that is said of a strong head holds but for its kind, by which `AnyHead` tells them apart.
    kind: Literal["adapted"]  # type: ignore[assignment]
    retrain: tuple[Literal["fc6", "fc7"], ...] = Field(
        ("fc6",), min_length=1, description="layers that are trained again"
    )
    trunk_rate: float = Field(0.1, gt=0, le=1, description="learning rate of these layers, as a share of the others'")
    fc7_dropout: float = Field(0.5, ge=0, lt=1, description="on the input of FC7")


class OwnSettings(Settings):
    """The outputs of the trunk's own last layer, where it was trained on the dataset's classes; nothing is fitted."""

    kind: Literal["own"]


def _kind_of(value: object) -> str:
    kind = value.get("kind", "strong") if isinstance(value, dict) else getattr(value, "kind", "strong")
    return kind if isinstance(kind, str) else "strong"


AnyHead = Annotated[
    Annotated[HeadSettings, Tag("strong")]
    | Annotated[WeakSettings, Tag("weak")]
    | Annotated[SvmSettings, Tag("svm")]
    | Annotated[AdaptedSettings, Tag("adapted")]
    | Annotated[OwnSettings, Tag("own")],
    Discriminator(_kind_of),
]
"""Settings of a head of any kind; without ``kind`` it is a strong one."""
HEAD_KINDS = ("strong", "weak", "svm", "adapted", "own")


HEADS: dict[str, AnyHead] = {
    "fca": HeadSettings(),
    "fcb": HeadSettings(hidden=()),
    "fca2": HeadSettings(hidden=(2048, 2048)),
}
"""Built-in heads: FCa + FCb, FCb alone, two hidden layers."""


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
    windows: int = Field(
        1000, ge=1, le=1_000_000, description="at most so many are looked at; of source whole, pictures"
    )
    samples: int = Field(100, ge=1, le=100_000, description="descriptors taken of each")
    seed: int = Field(0, ge=0, le=MAX_SEED)


TRUNKS = ("alexnet64", "random", "alexnet", "krizhevsky", "no-pretrain")
"""Trunks of the AlexNet family, by name."""
MADE_TRUNKS = ("no-pretrain", "fisher")
"""Trunks that are made from a dataset's fit split."""
SEEDED_TRUNKS = ("random", *MADE_TRUNKS)
"""Trunks whose weights depend on ``trunk_seed``; they have seen nothing but the dataset, if anything."""
LAYERS = ("pool5", "fc6", "fc7")
"""Layers of the AlexNet family."""


RECIPE_NAME = r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}"


class RecipeSettings(Settings):
    """A named system: what it changes of a run's settings, and its head; or other recipes, joined."""

    title: str = Field("", max_length=200)
    published: str = Field("", max_length=100, description="name of the published row that it stands for")
    trunk: str | None = None
    layer: str | None = None
    weights: str | None = None
    source: Source | None = None
    grid: GridSettings | None = None
    crops: CropSettings | None = None
    boxes: BoxSettings | None = None
    labels: LabelSettings | None = None
    head: AnyHead | None = None
    aggregation: Aggregation | None = Field(None, description="None: chosen on held-out fit pictures")
    reseed_trunk: bool = Field(False, description="a trunk of its own for each seed")
    join: tuple[str, ...] = Field((), description="recipes whose picture scores are joined")
    by: Literal["rank", "stack"] = Field(
        "rank", description="join by mean rank, or by a logistic regression a class on held-out scores"
    )

    @field_validator("aggregation")
    @classmethod
    def _aggregation_is_known(cls, value: object) -> object:
        return None if value is None else check_aggregation(value)

    @model_validator(mode="after")
    def _is_a_head_or_a_join(self) -> Self:
        if self.join and self.changes:
            raise ValueError(f"a recipe that joins others has nothing of its own, got {', '.join(self.changes)}")
        if not self.join and self.head is None:
            raise ValueError("needs a head, or recipes to join")
        if len(self.join) == 1:
            raise ValueError("join needs two recipes at least")
        return self

    @property
    def stated_aggregation(self) -> Aggregation | None:
        """The aggregation where there is nothing to choose: it is named, or the head has one vector a picture."""
        pooled = self.head is not None and self.head.kind == "svm"
        return POOLED if pooled and self.aggregation is None else self.aggregation

    @property
    def changes(self) -> dict[str, Any]:
        """What it sets of the run's settings, by name."""
        names = ("trunk", "layer", "weights", "source", "grid", "crops", "boxes", "labels", "head")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


StoredDtype = Literal["float16", "8bit"]
"""What a store keeps: rows as they are, or codes of 8 bits over each column's range in a part."""

Codec = Literal["small", "fast", "zstd"]
"""How rows are compressed, without loss: chosen from what ``benchmarks/codecs.py`` measures.

``small`` is pcodec, which comes near the entropy of the values; ``fast`` is LZ4 on planes of bits, quick to write;
``zstd`` lies within zarr's own specification, for readers that have nothing else.
"""


class RunSettings(Settings):
    """Everything that a run can be told; the keys of ``--config`` and of the Snakefile's config."""

    data_root: str | None = Field(None, description="folder that holds VOC2012/ or VOCdevkit/VOC2012/; default data")
    cache: str = Field("cache", description="folder of patch tables and stores")
    stores: str | None = Field(
        None, description="where stores are kept, if not in the cache folder: a folder, or a URL such as s3://bucket/x"
    )
    results: str = Field("results", description="folder of heads, scores and results")
    trunk: str = Field("alexnet64", description="name or path of the frozen network")
    layer: str = Field("fc7", description="layer whose activations are kept")
    layers: tuple[str, ...] = Field(
        (), description="further layers that the workflow keeps from the same pass, for recipes on them"
    )
    weights: str | None = Field(None, description="safetensors file with the trunk's weights")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto: CUDA where there is one; cuda: a CUDA device that no other run uses",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    method: Literal["patches", "dense"] = Field(
        "patches",
        description="how a grid is looked at: patch by patch, or convolutions over each rescaled picture and rows at "
        "the places of its windows; other sources are patches always",
    )
    compiled: bool = Field(
        False, description="compile the trunk: faster, needs a C++ compiler, and stores are kept apart from others"
    )
    dtype: StoredDtype = Field(
        "float16", description="what a store keeps: rows as they are, or codes of 8 bits over each column's range"
    )
    codec: Codec = Field(
        "small",
        description="how new stores compress, without loss: near the entropy, quickly, or so that "
        "readers need nothing but zarr",
    )
    batch: int | None = Field(None, ge=1, le=MAX_BATCH, description="patches at once; None: by the trunk's input size")
    source: Source = Field(
        "grid",
        description="where the patches of a picture come from: windows of the grid, the whole picture, jittered crops "
        "of it, or the box of the person that a sample is",
    )
    grid: GridSettings = GridSettings()
    crops: CropSettings = CropSettings()
    boxes: BoxSettings = BoxSettings()
    labels: LabelSettings = LabelSettings()
    rows: Literal["all", "labelled"] = Field(
        "all",
        description="rows of the fit split that are made: all, or those alone that the main head, a strong one, "
        "learns from with any of the seeds",
    )
    on_error: Literal["fail", "skip"] = Field("fail", description="what bad pictures do to a run")
    max_skipped: float = Field(0.05, ge=0, le=1, description="largest share of bad pictures under skip")
    head: str = Field("fca", description="the head of results/{dataset}_map.json")
    heads: dict[str, AnyHead] = Field({}, description="further heads by name, or changes of built-in ones")
    compare: tuple[str, ...] = Field(
        ("fca", "fcb", "fca2"), min_length=1, description="heads of results/{dataset}_heads.json"
    )
    baselines: tuple[str, ...] = Field((), description="trunks beside which the main head is set, such as random")
    recipes: dict[str, RecipeSettings] = Field({}, description="further recipes by name, or changes of built-in ones")
    comparison: tuple[str, ...] = Field(
        (), description="recipes of results/{dataset}_compare.json; none: all built-in ones that can run"
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, max_length=100, description="of a comparison's recipes")
    reference: str = Field("strong", description="the recipe that the others are compared with, picture by picture")
    # Not named k: Snakemake's --config takes no key of one letter.
    aggregation: Aggregation = Field(5.0, description="k of the mean of k-th powers, or 'max'")
    aggregations: tuple[Aggregation, ...] = Field(
        (1.0, 3.0, 5.0, 8.0, "max", "top:5", "top:20", "lme:8"), description="aggregations that are shown beside it"
    )
    held_out: float = Field(0.25, gt=0, lt=1, description="share of the fit pictures on which a sweep chooses")
    readings: tuple[Literal["fills", "touches"], ...] = Field(
        ("fills", "touches"), min_length=1, description="readings of a sweep"
    )
    no_pretrain: FromScratchSettings = Field(
        FromScratchSettings(), description="how the trunk `no-pretrain` is trained on a dataset's patches"
    )
    fisher: FisherSettings = Field(
        FisherSettings(), description="how the trunk `fisher` of hand-made features is made from a dataset"
    )
    seed: int = Field(0, ge=0, le=MAX_SEED)
    trunk_seed: int = Field(0, ge=0, le=MAX_SEED, description="of trunks whose weights are drawn or made here")
    threads: int = Field(0, ge=0, le=MAX_THREADS, description="threads of torch and of decoding; 0: one a core")
    scatter: int = Field(1, ge=1, le=10_000, description="jobs over which the workflow spreads each extraction")

    @field_validator("stores")
    @classmethod
    def _stores_carry_no_secret(cls, stores: str | None) -> str | None:
        refuse_credentials(stores or "")
        return stores

    @field_validator("aggregation", "aggregations")
    @classmethod
    def _aggregations_are_known(cls, value: object) -> object:
        return tuple(map(check_aggregation, value)) if isinstance(value, tuple) else check_aggregation(value)

    @field_validator("baselines")
    @classmethod
    def _baselines_are_trunks(cls, baselines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._trunk_is_a_name_or_a_card(trunk) for trunk in baselines)

    @field_validator("trunk")
    @classmethod
    def _trunk_is_a_name_or_a_card(cls, trunk: str) -> str:
        known = trunk in (*TRUNKS, *MADE_TRUNKS) or re.fullmatch(r"(torchvision|timm)/\w+(\.\w+)?(@.+)?", trunk)
        if not known and not trunk.endswith((".yaml", ".yml", ".safetensors")):
            raise ValueError(
                f"must be one of {', '.join(dict.fromkeys((*TRUNKS, *MADE_TRUNKS)))}, "
                f"torchvision/NAME@LAYER, timm/NAME@LAYER or the path of a card (YAML), got {brief(trunk)}"
            )
        return trunk

    @model_validator(mode="after")
    def _layer_belongs_to_the_family(self) -> RunSettings:
        for layer in (self.layer, *self.layers):
            if self.trunk in TRUNKS and layer not in LAYERS:
                raise ValueError(f"layer: trunk {self.trunk} has {', '.join(LAYERS)}, got {brief(layer)}")
        return self

    @field_validator("heads")
    @classmethod
    def _head_names_are_plain(cls, heads: dict[str, AnyHead]) -> dict[str, AnyHead]:
        bad = [name for name in heads if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", name)]
        if bad:
            raise ValueError(f"names may have letters, digits, '.' and '-', got {', '.join(map(brief, bad[:10]))}")
        return heads

    @field_validator("recipes")
    @classmethod
    def _recipe_names_are_plain(cls, recipes: dict[str, RecipeSettings]) -> dict[str, RecipeSettings]:
        bad = [name for name in recipes if not re.fullmatch(RECIPE_NAME, name)]
        if bad:
            raise ValueError(f"names may have letters, digits, '.', '+' and '-', got {', '.join(map(brief, bad[:10]))}")
        return recipes

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or any(not 0 <= seed <= MAX_SEED for seed in seeds):
            raise ValueError(f"must differ and lie in 0..{MAX_SEED}, got {brief(list(seeds))}")
        return seeds

    @model_validator(mode="after")
    def _heads_are_known(self) -> RunSettings:
        known = {**HEADS, **self.heads}
        unknown = sorted({self.head, *self.compare} - set(known))
        if unknown:
            raise ValueError(f"unknown head {', '.join(map(shorten, unknown[:10]))}; known: {', '.join(known)}")
        return self

    def head_settings(self, name: str) -> AnyHead:
        """Settings of a head by name, configured ones before built-in ones."""
        if name in self.heads:
            return self.heads[name]
        if name in HEADS:
            return HEADS[name]
        known = ", ".join({**HEADS, **self.heads})
        raise SettingsError(f"unknown head {name!r}; known: {known}; add it under 'heads:' in a --config file")

    @property
    def all_seeds(self) -> list[int]:
        """Seeds of the main run and of comparisons, rising."""
        return sorted({self.seed, *self.seeds})

    @property
    def sources(self) -> SourceSettings:
        """Where patches come from."""
        return SourceSettings(source=self.source, grid=self.grid, crops=self.crops, boxes=self.boxes)

    @property
    def all_aggregations(self) -> tuple[Aggregation, ...]:
        """All that scores are kept for: `aggregations`, and `aggregation` if it is none of them."""
        others = self.aggregations
        return others if self.aggregation in others else (*others, self.aggregation)


def parse_run_settings(values: dict[str, Any], where: str = "settings") -> RunSettings:
    """Check settings; all mistakes are reported at once.

    Raises
    ------
    SettingsError
    """
    try:
        return RunSettings.model_validate(values)
    except ValidationError as error:
        problems = explain_validation(error)
        known = ", ".join(RunSettings.model_fields)
        raise SettingsError(
            f"{where}: {len(problems)} mistake(s)\n{enumerate_problems(problems)}\nsettings are: {known}"
        ) from error
