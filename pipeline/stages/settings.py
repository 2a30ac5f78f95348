"""All settings of a run: the keys of ``--config`` and of the Snakefile's config."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.activations.settings import Codec, StoredDtype
from pipeline.head.settings import COMPARED_HEADS, DEFAULT_HEADS, HEADS, AnyHead, HeadDeviceName
from pipeline.io.errors import SettingsError
from pipeline.io.likeness import suggest
from pipeline.io.messages import brief, shorten
from pipeline.io.model import MAX_BATCH, MAX_SEED, MAX_THREADS, Settings, refuse_credentials
from pipeline.io.names import expand_home
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings, LabelSettings, Source, SourceSettings
from pipeline.scoring.aggregation import POOLED, Aggregation
from pipeline.stages.recipe_settings import RecipeSettings
from pipeline.trunk.registry import DEFAULT_LAYER, check_trunk_name, find_source, is_imported
from pipeline.trunk.settings import FisherSettings, FromScratchSettings

RECIPE_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"


class RungSettings(Settings):
    """A rung of a ladder: what it changes of a run's settings."""

    trunk: str
    layer: str = DEFAULT_LAYER
    layers: tuple[str, ...] = ()
    weights: str | None = None
    trunk_px: int | None = Field(None, ge=32, le=4096)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    method: Literal["patches", "dense"] = "patches"
    backend: Literal["auto", "torch", "openvino"] = "auto"
    compiled: bool = False
    grid: GridSettings = GridSettings()

    @field_validator("trunk", "weights", mode="before")
    @classmethod
    def _home_is_expanded(cls, value: object) -> object:
        return expand_home(value) if isinstance(value, str) else value

    @field_validator("trunk")
    @classmethod
    def _trunk_is_a_name_or_a_card(cls, trunk: str) -> str:
        return check_trunk_name(trunk)


class RunSettings(Settings):
    """Everything that a run can be told; the keys of ``--config`` and of the Snakefile's config."""

    data_root: str | None = Field(None, description="folder that holds VOC2012/ or VOCdevkit/VOC2012/; default data")
    cache: str = Field("cache", description="folder of patch tables and stores")
    stores: str | None = Field(
        None, description="where stores are kept, if not in the cache folder: a folder, or a URL such as s3://bucket/x"
    )
    results: str = Field("results", description="folder of heads, scores and results")
    trunk: str = Field("alexnet64", description="name or path of the frozen network")
    layer: str = Field(DEFAULT_LAYER, description="layer whose activations are kept")
    layers: tuple[str, ...] = Field(
        (), description="further layers that the workflow keeps from the same pass, for recipes on them"
    )
    weights: str | None = Field(None, description="safetensors file with the trunk's weights")
    trunk_px: int | None = Field(
        None, ge=32, le=4096, exclude_if=lambda px: px is None, description="side of its patches; None: its own"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto: CUDA where there is one; cuda: a CUDA device that no other run uses",
    )
    head_device: HeadDeviceName = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    method: Literal["patches", "dense"] = Field(
        "patches",
        description="how the rows of a grid are computed: patch by patch, or convolutions over each rescaled picture, "
        "read off at the places of its windows; other sources are patches always",
    )
    # Left out where it is not set, so that what was named before there was a choice keeps its name.
    backend: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        exclude_if=lambda backend: backend == "auto",
        description="library that runs the trunk. auto: OpenVINO where it is installed and was measured to be faster, "
        "on a CPU in bf16; else torch. Stores of the two are kept apart",
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
    memory: float | None = Field(
        None,
        gt=0,
        description="GiB that a process may take while it fits a head: what does not fit lies in a scratch file of the "
        "cache folder, and a fit that cannot keep it is refused. None: a fit may take half of the free memory",
    )
    adopt: bool = Field(
        True,
        description="take over rows that other stores of the cache hold, so that the trunk runs on new pictures only",
    )
    adopt_from: tuple[str, ...] = Field(
        (), description="further folders or URLs of stores from which rows are taken over"
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
    on_error: Literal["fail", "skip"] = Field("fail", description="what bad pictures and annotations do to a run")
    max_skipped: float = Field(0.05, ge=0, le=1, description="largest share of bad pictures and annotations under skip")
    head: str = Field(
        DEFAULT_HEADS[True],
        description="the head of results/{dataset}_map.json; where it is not set, datasets without boxes have "
        f"{DEFAULT_HEADS[False]}",
    )
    heads: dict[str, AnyHead] = Field({}, description="further heads by name, or changes of built-in ones")
    compare: tuple[str, ...] = Field(
        COMPARED_HEADS[True],
        min_length=1,
        description="heads of results/{dataset}_heads.json and of the sweep; where it is not set, datasets without "
        f"boxes have {', '.join(COMPARED_HEADS[False])}",
    )
    baselines: tuple[str, ...] = Field((), description="trunks that the main head is compared on, such as random")
    recipes: dict[str, RecipeSettings] = Field({}, description="further recipes by name, or changes of built-in ones")
    comparison: tuple[str, ...] = Field(
        (), description="recipes of results/{dataset}_compare.json; none: all built-in ones that can run"
    )
    ladder: dict[str, RungSettings] = Field(
        {},
        exclude_if=lambda rungs: not rungs,
        description="trunks on which the same recipes are measured, by a name of their own (pipeline ladder)",
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, max_length=100, description="of a comparison's recipes")
    reference: str = Field("strong", description="the recipe that the others are compared with, picture by picture")
    # Not named k: Snakemake's --config takes no key of one letter.
    aggregation: float | str = Field(5.0, description="k of the mean of k-th powers, or 'max'")
    aggregations: tuple[float | str, ...] = Field(
        (1.0, 3.0, 5.0, 8.0, "max", "top:5", "top:20", "lme:8"), description="further aggregations that are shown"
    )
    held_out: float = Field(0.25, gt=0, lt=1, description="share of the fit pictures on which a sweep chooses")
    readings: tuple[Literal["fills", "touches"], ...] = Field(
        ("fills", "touches"), min_length=1, description="readings of a sweep"
    )
    no_pretrain: FromScratchSettings = Field(
        FromScratchSettings(), description="how the trunk `no-pretrain` is trained on a dataset's patches"
    )
    fisher: FisherSettings = Field(FisherSettings(), description="how the trunk `fisher` is made from a dataset")
    seed: int = Field(0, ge=0, le=MAX_SEED)
    trunk_seed: int = Field(0, ge=0, le=MAX_SEED, description="of trunks whose weights are drawn or made here")
    threads: int = Field(0, ge=0, le=MAX_THREADS, description="threads of torch and of decoding; 0: one per core")
    scatter: int = Field(
        1,
        ge=1,
        le=10_000,
        description="jobs over which the workflow spreads the pictures of a table, each extraction and each scoring",
    )

    @model_validator(mode="before")
    @classmethod
    def _imported_rows_are_of_whole_pictures(cls, values: Any) -> Any:
        """Rows that were made elsewhere are one per picture, unless a source is stated."""
        if isinstance(values, dict) and isinstance(values.get("trunk"), str) and is_imported(values["trunk"]):
            return {"source": "whole", **values}
        return values

    @field_validator("data_root", "cache", "stores", "results", "weights", "trunk", "baselines", mode="before")
    @classmethod
    def _home_is_expanded(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return [cls._home_is_expanded(item) for item in value]
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"expected a name or a path, got {value!r}; leave the key out for its default")
        return expand_home(value) if isinstance(value, str) else value

    @field_validator("stores")
    @classmethod
    def _stores_carry_no_secret(cls, stores: str | None) -> str | None:
        refuse_credentials(stores or "")
        return stores

    @field_validator("aggregation", "aggregations")
    @classmethod
    def _aggregations_are_known(cls, value: object) -> object:
        if isinstance(value, tuple):
            parsed = tuple(Aggregation.parse(item).to_json() for item in value)
            if len(set(parsed)) < len(parsed):
                raise ValueError(f"must differ, got {brief(list(value))}")
            return parsed
        return Aggregation.parse(value).to_json()

    @field_validator("baselines")
    @classmethod
    def _baselines_are_trunks(cls, baselines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._trunk_is_a_name_or_a_card(trunk) for trunk in baselines)

    @field_validator("trunk")
    @classmethod
    def _trunk_is_a_name_or_a_card(cls, trunk: str) -> str:
        return check_trunk_name(trunk)

    @model_validator(mode="after")
    def _layer_belongs_to_the_family(self) -> RunSettings:
        source = find_source(self.trunk)
        for layer in (self.layer, *self.layers):
            if source is not None and source.layers and layer not in source.layers:
                text = f"layer: trunk {self.trunk} has {', '.join(source.layers)}, got {brief(layer)}"
                raise PydanticCustomError("unknown_layer", "{text}", {"text": text})
        return self

    @field_validator("heads")
    @classmethod
    def _head_names_are_plain(cls, heads: dict[str, AnyHead]) -> dict[str, AnyHead]:
        bad = [name for name in heads if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name)]
        if bad:
            raise ValueError(f"names may have letters, digits, '.', '_' and '-', got {', '.join(map(brief, bad[:10]))}")
        return heads

    @field_validator("recipes", "ladder")
    @classmethod
    def _recipe_names_are_plain(cls, recipes: dict[str, Any]) -> dict[str, Any]:
        bad = [name for name in recipes if not re.fullmatch(RECIPE_NAME, name)]
        if bad:
            raise ValueError(
                f"names may have letters, digits, '.', '_', '+' and '-', got {', '.join(map(brief, bad[:10]))}"
            )
        return recipes

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or any(not 0 <= seed <= MAX_SEED for seed in seeds):
            raise ValueError(f"must differ and lie in 0..{MAX_SEED}, got {brief(list(seeds))}")
        return seeds

    @model_validator(mode="after")
    def _heads_are_known(self) -> RunSettings:
        known = self.known_heads
        unknown = sorted({self.head, *self.compare} - set(known))
        if unknown:
            text = f"unknown head {', '.join(map(shorten, unknown[:10]))}{suggest(unknown[0], known)}"
            raise PydanticCustomError("unknown_head", "{text}", {"text": text})
        return self

    @property
    def known_heads(self) -> dict[str, AnyHead]:
        """Heads by name: built-in ones, those of configured recipes that change nothing else, configured ones."""
        of_recipes = {
            name: recipe.head
            for name, recipe in self.recipes.items()
            if recipe.head is not None and set(recipe.changes) == {"head"}
        }
        return {**HEADS, **of_recipes, **self.heads}

    def head_settings(self, name: str) -> AnyHead:
        """Settings of a head by name, configured ones before built-in ones."""
        known = self.known_heads
        if name not in known:
            raise SettingsError(
                f"unknown head {name!r}{suggest(name, known)}; add it under 'heads:' in a --config file; a recipe that "
                f"sets more than its head is run with: pipeline recipe run {name} --dataset DATASET (pipeline recipe "
                "ls lists them)"
            )
        return known[name]

    def main_head(self, has_boxes: bool) -> str:
        """Return the name of the main head: the configured one, or the default one for a dataset of this kind."""
        return self.head if "head" in self.model_fields_set else DEFAULT_HEADS[has_boxes]

    def compared_heads(self, has_boxes: bool) -> tuple[str, ...]:
        """Return the names of the heads that are compared: configured ones, or those for a dataset of this kind."""
        return self.compare if "compare" in self.model_fields_set else COMPARED_HEADS[has_boxes]

    def to_file(self) -> dict[str, Any]:
        """Return all settings as a JSON object for a --config file; `head` and `compare` only where they were set."""
        return self.model_dump(mode="json", exclude={"head", "compare"} - self.model_fields_set)

    @property
    def all_seeds(self) -> list[int]:
        """Seeds of the main run and of comparisons, rising."""
        return sorted({self.seed, *self.seeds})

    @property
    def sources(self) -> SourceSettings:
        """Where patches come from."""
        return SourceSettings(source=self.source, grid=self.grid, crops=self.crops, boxes=self.boxes)

    @property
    def main_aggregation(self) -> Aggregation:
        """The aggregation of results, as a value."""
        return Aggregation.parse(self.aggregation)

    @property
    def all_aggregations(self) -> tuple[Aggregation, ...]:
        """All aggregations that are scored: `aggregations`, and `aggregation` if it is none of them.

        ``pooled`` is not: it is no function of patch scores, and heads that have it need not be told.
        """
        others = tuple(map(Aggregation.parse, self.aggregations))
        return others if self.main_aggregation in (*others, POOLED) else (*others, self.main_aggregation)
