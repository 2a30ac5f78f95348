"""Whether files are current: what is asked, what decides, and that nothing stale is used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.dataset import write_annotation
from support.threads import same_threads_after  # noqa: F401

from pipeline.dataset.manifest import Manifest
from pipeline.io.errors import HeadError, StoreError
from pipeline.io.yaml import read_mapping
from pipeline.stages import evaluate, extract, fit_head, patches, score, sweep
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.workspace import Workspace


@pytest.fixture
def context(work, monkeypatch):
    """Returns new contexts of the work folder: each opens everything anew."""
    monkeypatch.chdir(work)
    settings = parse_run_settings(read_mapping(Path("config.yaml")))
    return lambda: RunContext(Workspace(settings), "tiny")


def change_manifest(**changes: Any) -> None:
    path = Path("data_manifests/tiny.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def first_due(run: RunContext) -> str | None:
    """The first stage of the main run that is due, in the order of the flow."""
    fit, shown = run.manifest.fit, run.manifest.eval
    asked = {
        "patches": [patches.why_due(run, split) for split in (fit, shown)],
        "extract": [extract.why_due(run, split) for split in (fit, shown)],
        "fit-head": [fit_head.why_due(run, "fca")],
        "score": [score.why_due(run, "fca")],
        "evaluate": [evaluate.why_due(run, "fca")],
        "sweep": [sweep.why_due(run)],
    }
    return next((stage for stage, reasons in asked.items() if any(reasons)), None)


def test_after_all_steps_every_stage_is_current(context):
    run = context()
    # The result of the main head was evaluated last with another k.
    assert first_due(run) is None


# One row per field of the manifest: another value, and the first stage that is due with it.
FIELDS: dict[str, tuple[Any, str | None]] = {
    "classes": (["crate", "ball"], "patches"),
    "unscored": (["crate"], "patches"),
    "metric": ("voc07", "evaluate"),
    "fit": ("val", "fit-head"),
    "eval": ("train", "score"),
    "official": (True, "evaluate"),
    "exif": ("ignore", "patches"),
    "splits": ({"train": {"pictures": 7}, "val": {"pictures": 4}, "test": {"labelled": False}}, "sweep"),
    # These decide no value of a result.
    "title": ("another title", None),
    "where": ("on a disk", None),
    "licence": ("mine", None),
    "competition": ("comp1", None),
    "archives": ([], None),
    "zero": ("unknown", None),  # of tables alone
}
ELSEWHERE = {
    "name": "the file is called by it, so it is another dataset",
    "folder": "other pictures: compared by their content",
    "layout": "other pictures or annotations: compared by their content",
    "samples": "of persons: goes with a layout of its own",
    "table": "of a layout of its own, whose content is compared",
    "class_names": "of layouts with files of annotations, whose labels are compared",
    "boxes": "of layouts with files of annotations, which are compared by their content",
    "label_separator": "of tables alone, whose labels are compared",
    "label": "of a layout of its own, whose labels are compared",
    "minus_one": "of tables alone, whose labels are compared",
    "pictures_folder": "other pictures: compared by their content",
    "annotations_folder": "other annotations: compared by their content",
    "drawn": "goes with the demo alone",
    "path": "no key: where the manifest was read from",
}


def test_every_field_of_a_manifest_has_a_row():
    assert set(FIELDS) | set(ELSEWHERE) == set(Manifest.model_fields)


@pytest.mark.parametrize("field", FIELDS)
def test_what_the_manifest_says_decides_what_is_due(context, field):
    value, expected = FIELDS[field]
    extra = {"splits": {"train": {"pictures": 6}, "val": {"pictures": 4}}} if field == "official" else {}
    change_manifest(**{field: value, **extra})
    assert first_due(context()) == expected


def test_a_head_of_another_fit_split_is_not_used(work, run, context):
    """A head that was fitted while the manifest said another fit split has the same name as one of this split."""
    Path("data/tiny/ImageSets/Main/few.txt").write_text("p0\np1\np2\n")
    splits = yaml.safe_load(Path("data_manifests/tiny.yaml").read_text())["splits"]
    change_manifest(fit="few", splits={**splits, "few": {}})
    for line in ("extract --split few", "fit-head", "score", "evaluate --output results/tiny_map.json"):
        ended = run(f"{line.split()[0]} --dataset tiny --config config.yaml {' '.join(line.split()[1:])}")
        assert ended.code == 0, ended.err
    change_manifest(fit="train", splits=splits)

    assert "split 'few', and the manifest says 'train'" in fit_head.why_due(context(), "fca")
    with pytest.raises(HeadError, match=r"(?s)fitted on split 'few'.*pipeline fit-head --dataset tiny --head fca"):
        score.make(context(), ["fca"])
    with pytest.raises(StoreError, match=r"(?s)head 'fca'.*pipeline score"):
        evaluate.make(context(), "fca")
    ended = run("score --dataset tiny --config config.yaml")
    assert ended.code == 2 and "pipeline fit-head" in ended.err

    for line in ("fit-head", "score", "evaluate"):
        assert run(f"{line} --dataset tiny --config config.yaml").code == 0
    assert evaluate.read_result(context(), "fca")["fit_split"] == "train"


def test_scores_without_the_maps_of_a_new_object_are_not_used(context):
    """Its class would count as missed in the pointing game: the highest point of its map was never looked for."""
    write_annotation(Path("data/tiny/Annotations/q1.xml"), ["crate", "ball"])  # it was a crate
    patches.make(context(), "val")
    assert "no map peaks" in score.why_due(context(), "fca")
    with pytest.raises(StoreError, match=r"(?s)annotations changed.*pipeline score"):
        evaluate.make(context(), "fca")
    score.make(context(), ["fca"])
    assert evaluate.make(context(), "fca")["pointing"]["share"].keys() == {"ball", "crate"}


def test_scores_outlive_an_object_less(context):
    write_annotation(Path("data/tiny/Annotations/q2.xml"), ["crate"])  # it had a ball as well
    patches.make(context(), "val")
    assert score.why_due(context(), "fca") is None
    assert evaluate.make(context(), "fca")["mAP"] is not None


def test_scores_and_results_outlive_pictures_and_stores(work, context):
    (work / "data").rename(work / "away")
    assert first_due(context()) is None
    for receipt in (work / "cache/receipts").glob("*.json"):
        receipt.unlink()
    run = context()
    assert [fit_head.why_due(run, "fca"), score.why_due(run, "fca"), evaluate.why_due(run, "fca")] == [None] * 3


def test_scores_in_another_cache_say_which_table_is_not_there(run):
    ended = run("evaluate --dataset tiny --head fca --config config.yaml --cache elsewhere")

    assert ended.code == 2
    assert "there is no patch table elsewhere/patches/tiny-" in ended.err
    assert "give the --cache with which they were made, or score again: pipeline score" in ended.err


def test_a_refusal_names_the_settings_of_stores_that_are_there(run):
    ended = run("fit-head --dataset tiny --head fca --config config.yaml --batch 7 --threads 2")

    assert ended.code == 2
    assert "make them with: pipeline extract --dataset tiny --split train --trunk" in ended.err
    there = ended.err.partition("extracted already, to be read with these settings instead:\n  ")[2].splitlines()[0]
    assert there == "batch: null"
    again = run("fit-head --dataset tiny --head fca --config config.yaml")
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    "line",
    [
        "patches --dataset tiny --split train",
        "extract --dataset tiny --split train",
        "extract --dataset tiny --split train --layers fc6,fc7",
        "fit-head --dataset tiny --head fca --head fcb",
        "score --dataset tiny",
        "evaluate --dataset tiny",
        "sweep --dataset tiny",
        "recipe run strong+svm --dataset tiny",
        "compare --dataset tiny --recipe strong --recipe svm",
        "compare --dataset tiny --heads",
        "cache explain --dataset tiny --split train",
        "retrieve --dataset tiny --evaluate",
        "map --dataset tiny q0 q1",
        "ranking --dataset tiny",
        "taught --dataset tiny p0",
        "report --dataset tiny",
        "plan --dataset tiny --rate 100",
    ],
)
def test_a_command_opens_each_input_once(line, run, monkeypatch):
    opened: Counter[str] = Counter()

    def count(module: str, name: str, key):
        import importlib

        original = getattr(importlib.import_module(module), name)

        def counted(*args, **options):
            opened[key(*args)] += 1
            return original(*args, **options)

        monkeypatch.setattr(f"{module}.{name}", counted)

    count("pipeline.stages.context", "load_manifest", lambda name, *rest: f"manifest {name}")
    count("pipeline.stages.context", "read_split", lambda manifest, split, *rest: f"annotations of {split}")
    count("pipeline.dataset.manifest", "_parse_manifest", lambda path: f"file {path.name}")
    count("pipeline.dataset.voc", "parse_annotation", lambda *args: "annotation files")

    ended = run(f"{line} --config config.yaml")

    assert ended.code == 0, ended.err
    annotation_files = opened.pop("annotation files", 0)
    assert annotation_files <= 10, "six pictures to fit on, four to score"
    assert all(n == 1 for n in opened.values()), opened
