"""Whole runs on datasets without boxes: class folders, and a table of attributes."""

import json
import shlex
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from pipeline.io.errors import DatasetError, SettingsError
from pipeline.recipes.catalogue import compared_recipes
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.settings import RunSettings
from pipeline.workflow.flow import Flow

CONFIG = {
    "trunk": "random",
    "precision": "fp32",
    "threads": 1,
    "grid": {"scales": [1.0, 2.0], "overlap": 0.4},
    "heads": {
        "off-the-shelf": {"kind": "svm"},
        "weak": {"kind": "weak", "hidden": [32], "top": 2, "max_epochs": [6, 2]},
    },
    "head": "off-the-shelf",
    "aggregations": ["max"],
    "aggregation": "max",
    "compare": ["off-the-shelf", "weak"],
    "held_out": 0.4,
    "comparison": ["off-the-shelf", "weak"],
    "reference": "off-the-shelf",
    "seeds": [0],
}
COLOURS = {"red field": "firebrick", "blue sea": "navy", "green wood": "darkgreen"}


def draw(path: Path, ground: str, rng: np.random.Generator, striped: bool = False) -> None:
    image = Image.new("RGB", (64, 48), ground)
    pen = ImageDraw.Draw(image)
    for x in range(0, 64, 8) if striped else ():
        pen.line([x, 0, x, 48], fill="white", width=3)
    for _ in range(6):
        x, y = map(int, rng.integers(0, 48, 2))
        pen.ellipse([x, y, x + 6, y + 6], fill=tuple(map(int, rng.integers(0, 255, 3))))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def start(folder: Path, run_in, new: str):
    """Runs commands in a folder where the new dataset `own` is described and extracted."""
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    run = partial(run_in, folder)
    lines = [f"data new --name own {new}", "data check own --deep"]
    lines += [
        f"{command} --dataset own --split {s} --config config.yaml"
        for s in ("train", "val")
        for command in ("patches", "extract")
    ]
    for line in lines:
        ended = run(*line.split())
        assert ended.code == 0, (line, ended.err)
        assert "patches" not in line.split()[:1] or "no boxes: pictures have labels" in ended.out
    return run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, run_in):
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for n in range(12):
            draw(folder / "pictures" / name / f"{n}.jpg", colour, rng)
    return start(folder, run_in, "--root pictures")


@pytest.fixture(scope="module")
def attributes(tmp_path_factory, run_in):
    """Twenty-four pictures; whether they are dark and whether striped, of one it is not known."""
    folder, rng = tmp_path_factory.mktemp("attributes"), np.random.default_rng(1)
    lines = ["picture,dark,striped,split"]
    for n in range(36):
        dark, striped = n % 2, n // 2 % 2
        draw(folder / "all" / "deep" / f"{n}.png", "black" if dark else "wheat", rng, bool(striped))
        lines.append(f"deep/{n}.png,{dark},{'' if n == 3 else striped},{'train' if n < 20 else 'val'}")
    (folder / "all" / "labels.csv").write_text("\n".join(lines) + "\n")
    return start(folder, run_in, "--table all/labels.csv")


@pytest.fixture(params=["scenes", "attributes"])
def run(request):
    return request.getfixturevalue(request.param)


def test_picture_labels_are_enough_for_svm_and_weak(run):
    results = {}
    for line in (
        "fit-head --dataset own --head off-the-shelf --head weak --config config.yaml",
        "score --dataset own --head off-the-shelf --head weak --config config.yaml",
    ):
        ended = run(*line.split())
        assert ended.code == 0, ended.err
    for head in ("off-the-shelf", "weak"):
        ended = run(*f"evaluate --dataset own --head {head} --config config.yaml --output {head}.json".split())
        assert ended.code == 0, ended.err
        results[head] = json.loads((Path(run.args[0]) / f"{head}.json").read_text())

    # Colours and stripes that random weights do not hide; chance is a third, and a half.
    assert results["off-the-shelf"]["mAP"] > 0.9
    assert results["weak"]["mAP"] > 0.7
    assert results["off-the-shelf"]["k"] == "pooled" and results["weak"]["k"] == "max"


@pytest.mark.long
def test_names_of_pictures_and_classes_decide_no_number(tmp_path, run_in):
    """The same pictures twice: with other names, so that ids and classes sort the other way round.

    With an SVM, which draws nothing; other heads take pictures in an order that is drawn.
    """
    of_colours = []
    for folder, names in (("one", ("ant", "bee", "cow")), ("two", ("zebra", "yak", "wasp"))):
        rng, lines = np.random.default_rng(5), ["picture,label,split"]
        for n in range(30):
            colour = n % 3
            # Some pictures of val have the label of another colour, so that no AP is 100 %.
            label = (colour + (n >= 15 and n % 4 == 0)) % 3
            name = f"{n if folder == 'one' else 99 - n:02}.png"
            draw(tmp_path / folder / "all" / name, list(COLOURS.values())[colour], rng)
            lines.append(f"{name},{names[label]},{'train' if n < 15 else 'val'}")
        (tmp_path / folder / "all" / "labels.csv").write_text("\n".join(lines) + "\n")
        run = start(tmp_path / folder, run_in, "--table all/labels.csv")
        for command in ("fit-head", "score", "evaluate --output map.json"):
            ended = run(*f"{command} --dataset own --head off-the-shelf --config config.yaml".split())
            assert ended.code == 0, ended.err
        ap = json.loads((tmp_path / folder / "map.json").read_text())["AP"]
        of_colours.append([ap[name] for name in names])

    assert all(0.2 < ap < 1 for ap in of_colours[0])
    # The order of pictures changes the last bits of what is fitted on them.
    assert of_colours[0] == pytest.approx(of_colours[1], abs=1e-6)


@pytest.mark.parametrize("head", ["fca", "fcb"])
def test_strong_heads_need_boxes(run, head):
    ended = run(*f"fit-head --dataset own --head {head} --config config.yaml".split())

    assert ended.code == 2
    assert f"head '{head}' needs boxes, and dataset own has none" in ended.err
    assert "heads that work: off-the-shelf, " in ended.err and "svm" in ended.err


# Without `head`, without aggregations of weak heads: what a user has who configures nothing.
DEFAULTS = {name: value for name, value in CONFIG.items() if name not in ("head", "aggregation", "compare")}


def test_the_main_head_without_boxes_and_heads_by_the_names_of_recipes(run):
    folder = Path(run.args[0])
    (folder / "plain.yaml").write_text(yaml.safe_dump(DEFAULTS))

    def succeed(line: str):
        ended = run(*f"{line} --dataset own --config plain.yaml".split())
        assert ended.code == 0, ended.err
        return ended

    fitted = succeed("fit-head")
    succeed("score")
    evaluated = succeed("evaluate --output plain.json")
    succeed("report")
    recipe = succeed("recipe run svm")
    succeed("fit-head --head weak")
    succeed("score --head weak")
    weak = succeed("evaluate --head weak --output weak20.json")

    assert "own: no boxes, only labels of pictures, so the main head is svm" in fitted.err
    assert "head 'svm': k=pooled, by which it was fitted; k=5 does not apply" in evaluated.err
    assert "there already" in recipe.err, "the recipe's head is the head of its name"
    result = json.loads((folder / "plain.json").read_text())
    assert (result["head"], result["k"]) == ("svm", "pooled")
    assert "head 'weak': k=top:2, by which it was fitted" in weak.err
    page = (folder / "results/own_report.html").read_text()
    one_class = "confusion" in result
    assert ("Taken for what" in page) is one_class and "Points at it" not in page and ">Patches" not in page


BARE = {"seeds": [0], "compare": ["fca", "fcb"]}


@pytest.mark.parametrize(
    "line",
    [
        "fit-head --head fca",
        "score --head strong",
        "evaluate --head fca",
        "report --head fca",
        "map x.jpg --head fca",
        "sweep",
        "recipe run strong",
        "compare --recipe strong --recipe svm",
        "compare --heads",
        "taught x",
        "pretrain --out trunks --name own",
        "trunk make --trunk no-pretrain",
        "extract --split train --trunk no-pretrain",
        "extract --split train --rows labelled",
    ],
)
def test_what_needs_boxes_is_refused_before_any_work(run, line):
    folder = Path(run.args[0])
    (folder / "bare.yaml").write_text(yaml.safe_dump({**BARE, "cache": "none", "results": "none"}))

    ended = run(*f"{line} --dataset own --config bare.yaml".split())

    assert ended.code == 2 and " needs boxes, and " in ended.err, ended.err
    assert not (folder / "none").exists()


def test_commands_of_cache_and_plan(run):
    for line in ("plan --dataset own --config config.yaml", "cache ls --config config.yaml", "data list"):
        ended = run(*line.split())
        assert ended.code == 0, (line, ended.err)


def test_sweep_and_retrieval(run):
    swept = run(*["sweep", "--dataset", "own", "--config", "config.yaml"])
    searched = run(*["retrieve", "--dataset", "own", "--evaluate", "--json", "--config", "config.yaml"])

    assert swept.code == 0, swept.err
    rows = json.loads((Path(run.args[0]) / "results/own_sweep.json").read_text())["rows"]
    # Beside the configured aggregation the one by which the head was fitted.
    ks = {(row["head"], row["k"]) for row in rows}
    assert ks == {("off-the-shelf", "pooled"), ("weak", "max"), ("weak", "top:2")}
    result = json.loads(searched.out)
    assert result["mAP"] > result["chance"] + 0.1


def test_sweep_and_heads_have_defaults_without_boxes(run):
    folder = Path(run.args[0])
    plain = {**DEFAULTS, "aggregations": ["max"], "heads": {"weak": CONFIG["heads"]["weak"]}}
    (folder / "bare.yaml").write_text(yaml.safe_dump(plain))

    ended = [run(*f"{line} --dataset own --config bare.yaml".split()) for line in ("sweep", "compare --heads")]

    for command in ended:
        assert command.code == 0, command.err
        said = "own: no boxes, only labels of pictures, so the compared heads are svm, weak; setting compare for others"
        assert command.err.count(said) == 1
    rows = json.loads((folder / "results/own_sweep.json").read_text())["rows"]
    assert {row["head"] for row in rows} == {"svm", "weak"}
    assert len({row["single_object"] for row in rows}) == 1, "readings of boxes differ in nothing"
    heads = json.loads((folder / "results/own_heads.json").read_text())
    assert ([row["name"] for row in heads["recipes"]], heads["reference"]) == (["svm", "weak"], "svm")


def test_the_workflow_has_the_same_defaults(run, monkeypatch):
    monkeypatch.chdir(run.args[0])
    wildcards = SimpleNamespace(dataset="own")
    files = Flow({"threads": 1}).heads_inputs(wildcards)

    assert [path.name.split("-")[1] for path in files] == ["svm", "weak"]
    assert Flow({"threads": 1}).sweep_inputs(wildcards)
    with pytest.raises(SettingsError, match="results: a{b}/c: in names of files braces are Snakemake's own"):
        Flow({"results": "a{b}/c"})
    with pytest.raises(DatasetError, match="head 'fcb' needs boxes"):
        Flow({"compare": ["fcb"]}).sweep_inputs(wildcards)
    job = parse_run_settings(yaml.safe_load(Path(shlex.split(Flow({}).comparison_config(wildcards))[0]).read_text()))
    assert job.compared_heads(has_boxes=False) == ("svm", "weak")


def test_comparison(scenes):
    ended = scenes(*["compare", "--dataset", "own", "--config", "config.yaml"])

    assert ended.code == 0, ended.err


def test_a_comparison_leaves_out_what_needs_boxes_unless_asked_for_it_by_name(scenes):
    asked = scenes(
        *["compare", "--dataset", "own", "--config", "config.yaml", "--recipe", "svm", "--recipe", "strong+weak"]
    )

    assert asked.code == 2
    assert "recipe 'strong+weak' needs boxes, and the dataset has none" in asked.err

    names, left_out = compared_recipes(RunSettings(), has_boxes=False)
    assert {"weak", "svm", "svm-whole", "full-images"} <= set(names)
    needing = {"strong", "strong-fcb", "multilabel", "no-pretrain", "random", "fc6-retrained", "strong+weak"}
    assert needing <= set(left_out) and not needing & set(names)
    assert needing <= set(compared_recipes(RunSettings())[0])


def test_data_new_says_what_comes_next(tmp_path, run_in):
    for name in ("a", "b"):
        draw(tmp_path / "x" / name / "1.png", "red", np.random.default_rng(0))
        draw(tmp_path / "x" / name / "2.png", "red", np.random.default_rng(0))
    ended = run_in(tmp_path, *["data", "new", "--root", "x", "--name", "x"])

    assert ended.out == "data_manifests/x.yaml\n"
    assert "pipeline compare --dataset x" in ended.err and "no boxes" in ended.err
    assert run_in(tmp_path, *["data", "new", "--name", "x"]).code == 2
