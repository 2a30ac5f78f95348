"""Settings: closed, in their ranges, and all mistakes said at once."""

import traceback

import pytest
from pydantic import ValidationError

from pipeline.head.settings import HEADS, HeadSettings
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.patches.settings import GridSettings, LabelSettings
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.settings import RunSettings
from pipeline.trunk.settings import PretrainSettings


def test_no_setting_gives_the_defaults():
    settings = parse_run_settings({})

    assert settings == RunSettings()
    assert (settings.trunk, settings.layer, settings.head, settings.aggregation) == ("alexnet64", "fc7", "fca", 5.0)
    assert settings.grid.overlap == 0.65 and settings.labels.single_object == "fills"


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(SettingsError) as caught:
        parse_run_settings(
            {
                "lyer": "fc6",
                "seed": -1,
                "precision": "fp8",
                "grid": {"overlap": 1.5, "stride": 3},
                "labels": {"single_object": "sees"},
                "heads": {"mine": {"dropout": 1.0}},
            },
            where="my.yaml",
        )

    text = str(caught.value)
    assert text.startswith("my.yaml: 7 mistake(s)\n")
    for line in (
        "seed: Input should be greater than or equal to 0, got -1",
        "precision: Input should be 'auto', 'fp32', 'bf16' or 'fp16', got 'fp8'",
        "grid.overlap: Input should be less than 0.95, got 1.5",
        "grid.stride: Extra inputs are not permitted, got 3; known: scales, overlap, max_patches, min_side_px",
        "labels.single_object: Input should be 'fills' or 'touches', got 'sees'",
        "heads.mine.dropout: Input should be less than 1, got 1.0",
    ):
        assert f"  - {line}" in text
    assert "lyer: Extra inputs are not permitted, got 'fc6'; did you mean layer, layers or ladder?" in text
    assert "data_root" not in text  # the nearest names, not all of them
    assert isinstance(caught.value, PipelineError)


def test_mistakes_of_all_levels_are_reported_at_once():
    with pytest.raises(SettingsError) as caught:
        parse_run_settings(
            {
                "heads": {
                    "w256_d2": {"rates": [0.1], "dropuot": 0.2},
                    "ok": {"kind": "weak", "momentum": 2},
                    "a/b": {"kind": "svm", "costs": []},
                },
                "recipes": {"x y": {}, "z": {"head": {"max_epochs": [1]}, "join": ["a"]}},
                "head": "w256_d3",
                "layer": "fc9",
                "thread": 2,
                "seeds": [1, 1],
            }
        )
    text = str(caught.value)
    for part in (
        "heads.w256_d2.dropuot: Extra inputs are not permitted, got 0.2; did you mean dropout",
        "heads.w256_d2: rates and max_epochs must be equally long",
        "heads.ok.momentum: ",
        "heads.a/b.costs: ",
        "names may have letters, digits, '.', '_' and '-', got 'a/b'",
        "recipes.x y: needs a head",
        "recipes.z.head: rates and max_epochs",
        "'.', '_', '+' and '-', got 'x y'",
        "unknown head w256_d3; did you mean w256_d2?",
        "layer: trunk alexnet64 has pool5, fc6, fc7, got 'fc9'",
        "thread: Extra inputs are not permitted, got 2; did you mean threads",
        "seeds: must differ",
    ):
        assert part in text, f"{part}\n{text}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"device": "gpu"}, "device: String should match", id="device"),
        pytest.param({"device": "cuda:x"}, "device: String should match", id="device number"),
        pytest.param({"trunk": "foo"}, "trunk: must be one of alexnet64, random, .*got 'foo'", id="trunk"),
        pytest.param({"trunk": "weights.pth"}, "trunk: must be one of", id="a pickle as trunk"),
        pytest.param({"layer": "fc9"}, "layer: trunk alexnet64 has pool5, fc6, fc7, got 'fc9'", id="layer"),
        pytest.param({"batch": 0}, "batch: Input should be greater", id="batch 0"),
        pytest.param({"batch": 2.5}, "batch: Input should be a valid integer", id="half a batch"),
        pytest.param({"batch": True}, "batch: must be a number, got True", id="batch true"),
        pytest.param({"seed": True}, "seed: must be a number, got True", id="seed true"),
        pytest.param({"threads": -1}, "threads: ", id="threads"),
        pytest.param({"scatter": 0}, "scatter: Input should be greater", id="scatter 0"),
        pytest.param({"scatter": 10_001}, "scatter: Input should be less", id="scatter too far"),
        pytest.param({"scatter": True}, "scatter: must be a number, got True", id="scatter true"),
        pytest.param({"cache": ""}, "cache: expected a name or a path, got ''", id="blank cache"),
        pytest.param({"trunk": " "}, "trunk: expected a name or a path, got ' '", id="blank trunk"),
        pytest.param({"stores": 3}, "stores: Input should be a valid string", id="stores"),
        pytest.param({"max_skipped": 1.1}, "max_skipped: ", id="max_skipped"),
        pytest.param({"held_out": 0}, "held_out: ", id="held_out 0"),
        pytest.param({"held_out": 1}, "held_out: ", id="held_out 1"),
        pytest.param({"aggregation": 0.5}, r"must be a power in 1..100", id="k under 1"),
        pytest.param({"aggregation": 101}, r"must be a power in 1..100", id="k above 100"),
        pytest.param({"aggregation": float("nan")}, "Input should be a finite number", id="k NaN"),
        pytest.param({"aggregations": [1, True]}, "aggregations: must be a number", id="one k true"),
        pytest.param({"grid": {"scales": [1, float("inf")]}}, "Input should be a finite number", id="a scale endless"),
        pytest.param({"heads": {"h": {"rates": [float("nan")] * 3}}}, "Input should be a finite", id="rate NaN"),
        pytest.param({"aggregation": "mean"}, "aggregation", id="k of another word"),
        pytest.param({"aggregation": True}, "aggregation: must be a number, got True", id="k true"),
        pytest.param({"aggregations": [1, 0]}, r"must be a power in 1..100", id="one k of many"),
        pytest.param({"aggregations": [1, "max", "1"]}, r"aggregations: must differ", id="one k twice"),
        pytest.param({1: 3, "threads": -1}, r"  - 1: Keys should be strings, got 1", id="a key that is a number"),
        pytest.param({True: 3}, r"Keys should be strings, got True", id="a key that is on"),
        pytest.param({"head": "svn"}, "unknown head svn; .*did you mean svm", id="head"),
        pytest.param({"compare": ["fca", "x", "y"]}, "unknown head x, y", id="compare"),
        pytest.param(
            {"heads": {"a/b": {}}}, r"names may have letters, digits, '\.', '_' and '-', got 'a/b'", id="name"
        ),
        pytest.param({"heads": {"../up": {}}}, "names may have letters", id="name that climbs"),
        pytest.param({"heads": {"": {}}}, "names may have letters", id="no name"),
        pytest.param(
            {"grid": {"scales": [2, 1]}}, r"scales: must be at least 1 and rise, got \[2\.0, 1\.0\]", id="fall"
        ),
        pytest.param({"grid": {"scales": [1, 1]}}, "scales: must be at least 1 and rise", id="a scale twice"),
        pytest.param({"grid": {"scales": [0.5, 1]}}, "scales: must be at least 1 and rise", id="a scale under 1"),
        pytest.param({"grid": {"scales": []}}, "scales: .*at least 1 item", id="no scale"),
        pytest.param({"grid": {"overlap": -0.1}}, "overlap: ", id="overlap"),
        pytest.param({"grid": {"min_side_px": 0}}, "min_side_px: ", id="min_side_px"),
        pytest.param({"grid": {"max_patches": 0}}, "max_patches: ", id="max_patches"),
        pytest.param({"source": "crop"}, "source: Input should be 'grid', 'whole', 'crops' or 'boxes'", id="source"),
        pytest.param({"crops": {"shares": [1.1]}}, r"shares: must lie in 0\.05\.\.1 and differ", id="crop too large"),
        pytest.param({"crops": {"shares": [0.5, 0.5]}}, "shares: must lie in .* and differ", id="a crop twice"),
        pytest.param({"crops": {"shares": [], "whole": False}}, "crops: no crop is left", id="no crop"),
        pytest.param({"boxes": {"margin": 0.9}}, "margin: ", id="margin"),
        pytest.param({"heads": {"h": {"rates": [0.1]}}}, "rates and max_epochs must be equally long", id="lengths"),
        pytest.param(
            {"heads": {"h": {"rates": [0, 1, 1]}}},
            "must be positive",
            id="rate 0",
        ),
        pytest.param({"heads": {"h": {"hidden": [0]}}}, "must be positive", id="width 0"),
        pytest.param({"heads": {"h": {"background_share": 0}}}, "background_share: ", id="no background"),
        pytest.param({"readings": ["sees"]}, r"readings\.0: ", id="readings"),
    ],
)
def test_out_of_range(values, message):
    with pytest.raises(SettingsError, match=message):
        parse_run_settings(values)


@pytest.mark.parametrize(
    ("values", "name", "expect"),
    [
        ({"aggregation": "max"}, "aggregation", "max"),
        ({"aggregation": 1}, "aggregation", 1.0),
        ({"aggregation": 100}, "aggregation", 100.0),
        ({"device": "cuda:3"}, "device", "cuda:3"),
        ({"grid": {"scales": [1, 2.5]}}, "grid", GridSettings(scales=(1.0, 2.5))),
        ({"heads": {"wide-2.0": {"hidden": [9]}}, "head": "wide-2.0"}, "head", "wide-2.0"),
        ({"max_skipped": 0}, "max_skipped", 0.0),
        ({"batch": None}, "batch", None),
        ({"stores": "s3://bucket/prefix"}, "stores", "s3://bucket/prefix"),
        ({"stores": "/mnt/who@host/stores?"}, "stores", "/mnt/who@host/stores?"),
        ({"scatter": 3}, "scatter", 3),
    ],
)
def test_in_range(values, name, expect):
    assert getattr(parse_run_settings(values), name) == expect


SECRETS = ["s3://AKIA7:hunter2@bucket/x", "https://hunter2@host/x", "gs://bucket/x?token=hunter2"]


@pytest.mark.parametrize("url", SECRETS)
def test_credentials_in_a_url_are_refused_and_not_printed(url):
    with pytest.raises(SettingsError, match=r"stores (s3|https|gs)://\.\.\.: credentials .* environment") as caught:
        parse_run_settings({"stores": url, "seed": 0})

    # Nor in a traceback, as pipeline --debug shows it.
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown and "AKIA7" not in shown


def test_configured_heads_go_before_built_in_ones():
    settings = parse_run_settings({"heads": {"fca": {"hidden": [7]}, "mine": {"hidden": []}}})

    assert settings.head_settings("fca").hidden == (7,)
    assert settings.head_settings("mine").hidden == ()
    assert settings.head_settings("fcb") == HEADS["fcb"]
    with pytest.raises(SettingsError, match="unknown head 'nime'; did you mean ncm or mine.*; add it under 'heads:'"):
        settings.head_settings("nime")


def test_the_built_in_heads():
    widths = {name: HEADS[name].hidden for name in ("fca", "fcb", "fca2")}
    assert widths == {"fca": (2048,), "fcb": (), "fca2": (2048, 2048)}
    of_pictures = {"svm", "weak", "weak-fca", "knn", "ncm", "attention", "vlad", "probe"}
    assert {name for name, head in HEADS.items() if not head.needs_boxes} == of_pictures


KEPT = (1.0, 3.0, 5.0, 8.0, "max", "top:5", "top:20", "lme:8")


@pytest.mark.parametrize(
    ("aggregation", "expect"),
    [
        (5.0, KEPT),
        ("max", KEPT),
        (2.0, (*KEPT, 2.0)),
        ("top:7", (*KEPT, "top:7")),
    ],
)
def test_scores_are_always_kept_for_the_one_that_is_asked_for(aggregation, expect):
    assert tuple(a.to_json() for a in RunSettings(aggregation=aggregation).all_aggregations) == expect


MODELS = [GridSettings, LabelSettings, HeadSettings, PretrainSettings, RunSettings]


@pytest.mark.parametrize("model", MODELS)
def test_settings_are_closed_frozen_and_survive_json(model):
    settings = model()
    field = next(iter(model.model_fields))

    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        model(nonsense=1)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, field, None)
    assert model.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("model", MODELS)
def test_the_schema_is_closed(model):
    assert model.model_json_schema()["additionalProperties"] is False


def test_a_url_under_a_mistyped_key_is_not_printed():
    with pytest.raises(SettingsError) as error:
        parse_run_settings({"store": "s3://me:word@bucket"})
    assert "store: " in str(error.value) and "word" not in str(error.value)
